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
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.bundle import Bundle, write_bundle
from models.bundle.manifest import (
    CARD_NAME,
    GOLDEN_NAME,
    HEAD_NAME,
    CellClass,
    DataSource,
    HeadSpec,
    Provenance,
    WhiteCellType,
)
from models.runtime import Pipeline, SelfTestReport, read_image, run_self_test
from models.runtime.golden import retyped_golden
from models.runtime.head import load_head
from models.runtime.matching import iou_matrix
from models.runtime.results import FieldAnalysis, FloatArray
from training.base_set import BaseSet, FrozenSet
from training.config import Part
from training.errors import LabelsError, RefitError
from training.gate import Figures, GateRules, JudgedCells, Verdict, figures_of, judge
from training.head import FittedHead, HeadOptions, LabelledEmbeddings, fit_head
from training.label_folder import LabelFolder, LabelledImage
from training.refit_card import write_refit_card

SITE = 2
"""Origin of labelled cells, beside home (0) and the generator (1)."""
ALIGNED_IOU = 0.5
"""A label takes the box of the device's own detection that overlaps it at least so much."""
LABELS_SOURCE = "labels of "


class RefitSettings(Part):
    """`training/configs/refit.yaml`."""

    site_weight: float = Field(gt=0, le=1000, description="base cells that one labelled cell counts as, in its type")
    site_share: float = Field(gt=0, lt=1, description="largest share of a type's weight that the site may have")
    held_out_ratio: float = Field(ge=0, le=0.9, description="share of the labelled pictures held out")
    least_held_out: int = Field(ge=1, description="labels needed before any is held out")
    least_for_mean: int = Field(ge=1, description="cells of a type that give the site a mean of its own")
    least_for_threshold: int = Field(ge=1, description="held-out cells that move the domain's threshold")


@dataclass(frozen=True, slots=True, eq=False)
class SiteCells:
    """A site's labelled cells as the embedder sees them.

    Attributes:
        learned: cells that the head learns from.
        held_out: cells of other pictures; may be empty.
        by_type: labels of each type, both parts together.
    """

    learned: LabelledEmbeddings
    held_out: LabelledEmbeddings
    by_type: Mapping[str, int]


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


HELD_OUT_SLICE, LEARNED_SLICE = "labels, held out", "labels, learned from"


def embed_labels(pipeline: Pipeline, folder: LabelFolder, settings: RefitSettings, *, seed: int) -> SiteCells:
    """Embed every labelled cell as the device would.

    The cell is cut with the box of the device's own detection where there is one at the label's place, so that the
    head learns what the device will show it; a missed cell is cut with the label's box.

    Raises:
        LabelsError: not one cell to learn from.
        ImageError: a picture that cannot be decoded.
    """
    rows: list[FloatArray] = []
    labels: list[int] = []
    pictures: list[int] = []
    for number, image in enumerate(folder.images):
        rows.append(_embedded(pipeline, image))
        labels += [cell.label for cell in image.cells]
        pictures += [number] * len(image.cells)
    if not labels:
        left = ", ".join(f"{count} {reason}" for reason, count in folder.left_out.items()) or "none at all"
        raise LabelsError(f"there is no label of one of the five types to learn from ({left} left out)")
    cells = LabelledEmbeddings(np.concatenate(rows), np.array(labels, np.int64), np.full(len(labels), SITE, np.int64))
    held_out = held_out_pictures(np.array(pictures), settings, seed=seed)
    names = [str(kind) for kind in WhiteCellType]
    return SiteCells(cells.where(~held_out), cells.where(held_out), Counter(names[label] for label in labels))


def _embedded(pipeline: Pipeline, image: LabelledImage) -> FloatArray:
    picture = read_image(image.path)
    analysis = pipeline.analyse(picture)
    diameter = analysis.rbc_diameter_px if analysis.rbc_diameter_px is not None else image.rbc_diameter_px
    boxes = np.array([_aligned(cell.box, analysis) for cell in image.cells], np.float32)
    return pipeline.embed(picture, boxes, diameter)


def _aligned(box: tuple[float, float, float, float], analysis: FieldAnalysis) -> tuple[float, float, float, float]:
    own = [d.box for d in analysis.counted(CellClass.WBC)]
    overlap = iou_matrix([box], own)[0]
    best = int(overlap.argmax()) if own else -1
    return own[best] if best >= 0 and overlap[best] >= ALIGNED_IOU else box


def held_out_pictures(pictures: NDArray[np.int64], settings: RefitSettings, *, seed: int) -> NDArray[np.bool_]:
    """(N,) whether a cell is held out: whole pictures, by chance from the seed; none with too few labels.

    Args:
        pictures: (N,) number of each cell's picture.
        settings: shares and least numbers.
        seed: the same seed and labels hold the same pictures out.
    """
    numbers = np.unique(pictures)
    wanted = round(len(numbers) * settings.held_out_ratio)
    if len(pictures) < settings.least_held_out or wanted < 1 or wanted >= len(numbers):
        return np.zeros(len(pictures), bool)
    chosen = np.random.default_rng(seed).choice(numbers, wanted, replace=False)
    return np.asarray(np.isin(pictures, chosen), np.bool_)


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
    options = HeadOptions(least_for_mean=settings.least_for_mean, least_for_threshold=settings.least_for_threshold)
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
    return {name: figures_of(head, spec, cells) for name, cells in slices.items() if len(cells.labels)}


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
    rules: GateRules,
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
    chosen = version or next_version(current.manifest.version)
    if not re.fullmatch(r"\d+\.\d+\.\d+", chosen) or _order(chosen) <= _order(current.manifest.version):
        raise RefitError(f"version {chosen} is not above {current.manifest.version}; give a higher one, such as 1.2.3")
    site = embed_labels(Pipeline(current, threads=threads), folder, settings, seed=seed)
    fitted = refitted_head(base, site, settings)
    spec = HeadSpec(accept_probability=fitted.accept_probability, coverage=fitted.coverage)
    frozen = frozen_slices(base.frozen)
    labelled = {
        name: JudgedCells(cells.embeddings, cells.labels)
        for name, cells in ((HELD_OUT_SLICE, site.held_out), (LEARNED_SLICE, site.learned))
    }
    champion = figures_of_bundle(current, {**frozen, **labelled})
    candidate = {
        name: figures_of(fitted.head, spec, cells)
        for name, cells in {**frozen, **labelled}.items()
        if len(cells.labels)
    }
    held = (champion[HELD_OUT_SLICE], candidate[HELD_OUT_SLICE]) if HELD_OUT_SLICE in champion else None
    verdict = judge(
        {name: champion[name] for name in frozen}, {name: candidate[name] for name in frozen}, rules, site=held
    )
    fields = _manifest_fields(current, spec, folder, candidate, version=chosen, created=created)
    files = {
        **current.files,
        HEAD_NAME: fitted.head.to_bytes(),
        GOLDEN_NAME: retyped_golden(current.files, fitted.head, spec),
        CARD_NAME: write_refit_card(
            current, folder, site.by_type, champion, candidate, version=chosen, created=created
        ),
    }
    bundle = write_bundle(target, fields, files)
    proof = run_self_test(Pipeline(bundle, threads=threads))
    if not proof.passed:
        said = "; ".join(f"{c.name} {c.figure} (limit {c.limit}) {c.detail}" for c in proof.failures)
        raise RefitError(f"the refitted bundle fails its own self-test: {said}")
    return Refitted(bundle, proof, verdict, champion, candidate)


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
) -> dict[str, Any]:
    """The current bundle's fields with another head and what it learned from."""
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
        recipe=f"{before.recipe.removesuffix(REFITTED)}{REFITTED}",
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
