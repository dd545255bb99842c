"""A refit from the command line's side: reads, refits beside the target, writes the evidence, and only then the bundle.

1. bundle, base set, labels and settings are read and checked;
2. the candidate is made in a scratch folder beside the target;
3. `evidence.json` is written, also for a candidate that is refused;
4. an accepted candidate (or a refused one that is to be kept) takes its place.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.release.gate import Figures, GatePlan
from fleet.release.pinned import GATE_FILE
from models.bundle import Bundle, read_bundle, write_bundle
from training.base_set import find_base_set, read_base_set
from training.errors import RefitError
from training.evidence import evidence_document, write_evidence
from training.label_folder import LabelFolder, read_labels
from training.refit import Refitted, refit
from training.settings import CONFIGS, load_settings
from training.site_cells import RefitSettings
from training.tracking import Trackers

GATE_CONFIG = GATE_FILE
REFIT_CONFIG = CONFIGS / "refit.yaml"


@dataclass(frozen=True, slots=True)
class RefitOptions:
    """What a person asked for.

    Attributes:
        bundle: current bundle, folder or zip.
        labels: folder of labels.
        out: where the new bundle goes.
        evidence: where the evidence goes.
        created: date of the new bundle, ISO 8601.
        version: of the new bundle; None for the next one.
        base: folder of the base set; None for the one that ships with the embedder.
        config, gate: settings of the refit and of the gate.
        keep_refused: write a refused bundle too, for a person to look at.
        seed: decides which pictures are held out.
        threads: of ONNX Runtime.
    """

    bundle: Path
    labels: Path
    out: Path
    evidence: Path
    created: str
    version: str | None = None
    base: Path | None = None
    config: Path = REFIT_CONFIG
    gate: Path = GATE_CONFIG
    keep_refused: bool = False
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class RefitOutcome:
    """What became of it.

    Attributes:
        champion: the current bundle.
        refitted: candidate, verdict and figures.
        labels: what was learned from.
        written: whether the bundle stands at its place.
    """

    champion: Bundle
    refitted: Refitted
    labels: LabelFolder
    written: bool


def default_evidence(out: Path) -> Path:
    """`OUT.evidence.json`, beside the bundle: inside it would change the digest that it speaks of."""
    return out.with_name(f"{out.name}.evidence.json")


def run_refit(options: RefitOptions, tracker: Trackers | None = None) -> RefitOutcome:
    """Do a refit from files to files.

    Raises:
        TrainingError, BundleError, ModelRuntimeError: with what to do; nothing stands at `out` then.
    """
    settings, rules = load_settings(options.config, RefitSettings), load_settings(options.gate, GatePlan)
    current = read_bundle(options.bundle)
    base = read_base_set(options.base or find_base_set(current), current)
    labels = read_labels(options.labels)
    if options.out.exists() and options.out.resolve() == options.bundle.resolve():
        raise RefitError(f"{options.out} holds the current bundle; write the new one elsewhere")
    if options.evidence.resolve().is_relative_to(options.out.resolve()):
        raise RefitError("the evidence must not lie inside the bundle: it would change the digest that it speaks of")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=f".{options.out.name}.refit.") as scratch:
        done = refit(
            current,
            base,
            labels,
            Path(scratch) / "candidate",
            settings=settings,
            rules=rules,
            created=options.created,
            version=options.version,
            seed=options.seed,
            threads=options.threads,
        )
    document = evidence_document(
        candidate=done.bundle,
        champion=current,
        frozen_sha256=base.frozen.cells_sha256,
        verdict=done.verdict,
        plan=rules,
        figures=(done.champion, done.candidate),
        labels=labels_said(labels),
        made={
            "command": "refit",
            "seed": options.seed,
            "settings": settings.model_dump(mode="json"),
        },
    )
    if tracker is not None:
        record_refit(tracker, document, done)
    write_evidence(options.evidence, document)
    written = done.verdict.accepted or options.keep_refused
    if written:
        place_bundle(done.bundle, options.out)
    return RefitOutcome(current, done, labels, written)


def labels_said(labels: LabelFolder) -> dict[str, Any]:
    """What the evidence says of the labels."""
    return {
        "sha256": labels.sha256,
        "sites": list(labels.sites),
        "pictures": len(labels.images),
        "cells": labels.cells,
        "left_out": dict(labels.left_out),
    }


def place_bundle(bundle: Bundle, target: Path) -> Bundle:
    """Write a bundle that was read and proven elsewhere; its digest stays.

    Raises:
        RefitError: the bytes at the target would be another bundle.
    """
    fields = bundle.manifest.model_dump(mode="json", by_alias=True, exclude={"files", "schema_"})
    placed = write_bundle(target, fields, bundle.files)
    if placed.digest != bundle.digest:
        raise RefitError(f"{target} became {placed.digest}, not {bundle.digest}; report this")
    return placed


def record_refit(tracker: Trackers, document: dict[str, Any], done: Refitted) -> None:
    """Give the trackers what the evidence says."""
    parameters = {key: document[key] for key in ("command", "candidate", "champion", "frozen_set", "seed", "accepted")}
    tracker.start(
        str(document["command"]), {**parameters, **document["settings"], "labels": document["labels"]["sha256"]}
    )
    figures = {"accepted": float(done.verdict.accepted)}
    for side, said in (("champion", done.champion), ("candidate", done.candidate)):
        for name, slice_figures in said.items():
            figures |= {f"{side}_{_plain(name)}_{key}": value for key, value in _numbers(slice_figures).items()}
    tracker.record(1, figures)
    tracker.finish()


def _numbers(figures: Figures) -> dict[str, float]:
    keys = ("balanced_accuracy", "named", "named_error", "nll", "in_domain", "coverage")
    return {key: float(value) for key in keys if (value := getattr(figures, key)) is not None}


def _plain(name: str) -> str:
    """A name that every tracker takes."""
    return "".join(c if c.isalnum() else "_" for c in name)
