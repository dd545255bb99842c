"""Refits the head of a bundle from a site's labels and the base set: seconds, no torch.

1. the labelled cells are embedded through the bundle's own pipeline;
2. some pictures are held out, where there are labels enough;
3. the head is fitted on the base cells and the site's, which are an origin of their own;
4. both models are judged on the frozen set and on the held-out labels;
5. the bundle is written with the same networks; its golden types are the new head's word on torch's embeddings;
6. it passes its own self-test, or the refit fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.release.gate import HELD_OUT_SLICE, LEARNED_SLICE, Figures, GatePlan, Verdict, judge, rounded
from models.bundle import Bundle, write_bundle
from models.bundle.manifest import (
    CARD_NAME,
    EMBEDDER_NAME,
    GOLDEN_NAME,
    HEAD_NAME,
    DataSource,
    EmbedderSpec,
    HeadSpec,
    Provenance,
)
from models.runtime import Pipeline, SelfTestReport, run_self_test
from models.runtime.golden import Embed, retyped_golden
from models.runtime.head import load_head
from training.base_set import BaseSet, FrozenSet
from training.data.white_cells import GENERATED, HOME
from training.errors import RefitError
from training.gate import JudgedCells, figures_of
from training.head import FittedHead, HeadOptions, LabelledEmbeddings, fit_head
from training.label_folder import LabelFolder
from training.refit_card import write_refit_card
from training.site_cells import RefitSettings, SiteCells, embed_labels

LABELS_SOURCE = "labels of "


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """Outcome of a refit.

    Attributes:
        bundle: the candidate, written and proven.
        self_test: its own.
        verdict: the gate's word.
        champion, candidate: slice -> figures of both models; the site's held-out labels stand under `labels, held out`
            and those learned from under `labels, learned from`, which judge nothing.
    """

    bundle: Bundle
    self_test: SelfTestReport
    verdict: Verdict
    champion: Mapping[str, Figures]
    candidate: Mapping[str, Figures]


def site_weights(base: LabelledEmbeddings, site: LabelledEmbeddings, settings: RefitSettings) -> NDArray[np.float64]:
    """(N + M,) how much base cells and site cells count within their type.

    However many labels a site sends, it never has more than `site_share` of a type: ten thousand pictures of one cell
    cannot outvote what the model knew.
    """
    weights = np.ones(len(base.labels) + len(site.labels))
    for label in np.unique(site.labels):
        own = np.nonzero(site.labels == label)[0] + len(base.labels)
        before = max(1.0, float((base.labels == label).sum()))
        most = before * settings.site_share / (1.0 - settings.site_share)
        weights[own] = min(settings.site_weight, most / len(own))
    return weights


def refitted_head(base: BaseSet, site: SiteCells, settings: RefitSettings) -> FittedHead:
    """Fit the head on the base cells and the site's."""
    # A site that could widen the domain would let cells of no known type in with its own.
    options = HeadOptions(least_for_mean=settings.least_for_mean, threshold_origins=(HOME, GENERATED))
    train, held_out = base.train.with_others(site.learned), base.held_out.with_others(site.held_out)
    return fit_head(train, held_out, options, weights_of=site_weights(base.train, site.learned, settings))


def frozen_slices(frozen: FrozenSet) -> dict[str, JudgedCells]:
    """The frozen set by slice."""
    names = sorted(set(frozen.slices.tolist()))
    chosen = {name: frozen.slices == name for name in names}
    return {name: JudgedCells(frozen.embeddings[rows], frozen.labels[rows]) for name, rows in chosen.items()}


def figures_of_bundle(bundle: Bundle, slices: Mapping[str, JudgedCells]) -> dict[str, Figures]:
    """What a bundle's head makes of each slice."""
    spec = bundle.manifest.head
    head = load_head(bundle.files[HEAD_NAME], spec, bundle.manifest.embedder.dimensions)
    return {name: rounded(figures_of(head, spec, cells)) for name, cells in slices.items() if len(cells.labels)}


def next_version(version: str) -> str:
    """The version after this one: its last number grows by one."""
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def refit(
    current: Bundle,
    base: BaseSet,
    folder: LabelFolder,
    target: Path,
    *,
    settings: RefitSettings,
    rules: GatePlan,
    created: str,
    version: str | None = None,
    seed: int = 0,
    threads: int = 2,
) -> Refitted:
    """Refit the head of a bundle and write the candidate to `target`.

    Args:
        current: bundle whose head is refitted.
        base: base set of its embedder.
        folder: labels of the site.
        target: folder of the new bundle.
        settings, rules: how the labels count, and what the gate tolerates.
        created: date of the bundle, ISO 8601.
        version: of the new bundle; by default the next one.
        seed: decides which pictures are held out.
        threads: of ONNX Runtime.

    Raises:
        LabelsError, DataError: nothing to learn from.
        RefitError: a version that is not above the current one, or a candidate that fails its own self-test.
    """
    chosen = checked_version(current, version)
    site = embed_labels(Pipeline(current, threads=threads), folder, settings, seed=seed)
    fitted = refitted_head(base, site, settings)
    return conclude(
        current,
        Judged(base.frozen, site),
        Judged(base.frozen, site),
        fitted,
        folder,
        target,
        rules=rules,
        created=created,
        version=chosen,
        threads=threads,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The cells that a model is judged on, as its embedder sees them."""

    frozen: FrozenSet
    site: SiteCells

    def slices(self) -> dict[str, JudgedCells]:
        """By name; a slice without cells is left out."""
        labels = {HELD_OUT_SLICE: self.site.held_out, LEARNED_SLICE: self.site.learned}
        found = {name: JudgedCells(cells.embeddings, cells.labels) for name, cells in labels.items()}
        return {name: cells for name, cells in {**frozen_slices(self.frozen), **found}.items() if len(cells.labels)}


@dataclass(frozen=True, slots=True, eq=False)
class NewEmbedder:
    """An embedder that takes the place of the current one.

    Attributes:
        data: the ONNX file.
        spec: its input and output.
        embed: its reference in fp32, for the golden inputs.
        recipe: name of the configuration that it was trained with.
    """

    data: bytes
    spec: EmbedderSpec
    embed: Embed
    recipe: str


def conclude(
    current: Bundle,
    before: Judged,
    after: Judged,
    fitted: FittedHead,
    folder: LabelFolder,
    target: Path,
    *,
    rules: GatePlan,
    created: str,
    version: str,
    threads: int,
    embedder: NewEmbedder | None = None,
) -> Refitted:
    """Judge a fitted head, write the candidate and let it prove itself.

    Args:
        current: bundle that it came from.
        before, after: the same cells, as the current and as the new embedder sees them.
        fitted: the new head.
        folder: labels that it learned from.
        target: folder of the new bundle.
        rules: what the gate tolerates.
        created, version: of the new bundle.
        threads: of ONNX Runtime.
        embedder: a new one; None keeps the current one.

    Raises:
        RefitError: the candidate fails its own self-test.
    """
    spec = HeadSpec(accept_probability=fitted.accept_probability, coverage=fitted.coverage)
    champion = figures_of_bundle(current, before.slices())
    candidate = {name: rounded(figures_of(fitted.head, spec, cells)) for name, cells in after.slices().items()}
    verdict = judge(champion, candidate, rules)
    card = write_refit_card(
        current,
        folder,
        after.site.by_type,
        champion,
        candidate,
        version=version,
        created=created,
        retrained=None if embedder is None else embedder.recipe,
    )
    files = {
        **current.files,
        HEAD_NAME: fitted.head.to_bytes(),
        GOLDEN_NAME: retyped_golden(current.files, fitted.head, spec, embed=embedder.embed if embedder else None),
        CARD_NAME: card,
        **({EMBEDDER_NAME: embedder.data} if embedder else {}),
    }
    fields = _manifest_fields(current, spec, folder, candidate, version=version, created=created, embedder=embedder)
    bundle = write_bundle(target, fields, files)
    proof = run_self_test(Pipeline(bundle, threads=threads))
    if not proof.passed:
        said = "; ".join(f"{c.name} {c.figure} (limit {c.limit}) {c.detail}" for c in proof.failures)
        raise RefitError(f"the new bundle fails its own self-test: {said}")
    return Refitted(bundle, proof, verdict, champion, candidate)


def checked_version(current: Bundle, wanted: str | None) -> str:
    """The version of the new bundle.

    Raises:
        RefitError: not of the form 1.2.3, or not above the current one.
    """
    chosen = wanted or next_version(current.manifest.version)
    if not re.fullmatch(r"\d+\.\d+\.\d+", chosen) or _order(chosen) <= _order(current.manifest.version):
        raise RefitError(f"version {chosen} is not above {current.manifest.version}; give a higher one, such as 1.2.3")
    return chosen


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _manifest_fields(
    current: Bundle,
    spec: HeadSpec,
    folder: LabelFolder,
    candidate: Mapping[str, Figures],
    *,
    version: str,
    created: str,
    embedder: NewEmbedder | None,
) -> dict[str, Any]:
    """The current bundle's fields with another head, perhaps another embedder, and what they learned from."""
    before = current.manifest.provenance
    source = DataSource(
        name=f"{LABELS_SOURCE}{', '.join(folder.sites) or 'a site'}",
        citation=f"annotations.json, SHA-256 {folder.sha256}",
        licence="the site's own; not published",
        images=len(folder.images),
    )
    kept = tuple(s for s in before.trained_on if not s.name.startswith(LABELS_SOURCE))
    provenance = Provenance(
        trained_on=(*kept, source),
        recipe=f"{before.recipe.removesuffix(REFITTED)}{REFITTED}" if embedder is None else embedder.recipe,
        seed=before.seed,
        metrics={
            **{name: value for name, value in before.metrics.items() if not name.startswith(OF_THE_HEAD)},
            **_metrics(candidate),
        },
        base_digest=current.digest,
    )
    fields = current.manifest.model_dump(mode="json", by_alias=True, exclude={"files", "schema_"})
    return {
        **fields,
        "version": version,
        "created": created,
        "embedder": (embedder.spec if embedder else current.manifest.embedder).model_dump(mode="json"),
        "head": spec.model_dump(mode="json"),
        "provenance": provenance.model_dump(mode="json"),
    }


REFITTED = ", head refitted"
OF_THE_HEAD = ("cells_", "frozen_", "labels_")
"""Figures that a new head makes untrue, or that it brings."""


def _metrics(figures: Mapping[str, Figures]) -> dict[str, float]:
    found = {}
    for name, said in figures.items():
        if name == LEARNED_SLICE:
            continue
        prefix = "labels_held_out" if name == HELD_OUT_SLICE else f"frozen_{name}"
        for key in ("balanced_accuracy", "named", "named_error", "in_domain"):
            value = getattr(said, key)
            if value is not None:
                found[f"{prefix}_{key}"] = round(float(value), 5)
    return found
