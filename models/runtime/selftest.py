"""A bundle proves itself on this very machine, on golden inputs, before it may be used.

1. `loads`: golden inputs can be read and both networks run;
2. `finite_outputs`: every golden field and cell gives finite numbers;
3. `detections_match_reference`, `scores_match_reference`, `boxes_match_reference`: the detector says what torch said;
4. `truth_f1`: it finds what the generator drew;
5. `embedding_cosine`: the embedder says what torch said of the same crops;
6. `types_match_reference`, `types_match_truth`: white cells get the types that torch, and the generator, gave them;
7. `latency`: median of one field, a limit only where the bundle or the caller sets one.

The reference is fp32 and the truth is independent of any network, so swapped colour channels, a wrong scale and a
permuted class order all show, wherever in the chain they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.bundle import BundleError, read_bundle
from models.runtime.errors import ModelRuntimeError
from models.runtime.golden import GoldenField, GoldenLimits, Rows, f1_over, read_golden
from models.runtime.imaging import decode_image
from models.runtime.matching import iou_matrix, match_detections
from models.runtime.pipeline import Pipeline
from models.runtime.results import Detection, FieldAnalysis, FloatArray, ImageRGB

LATENCY_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: constant, one of those above.
        passed: whether the figure keeps the limit.
        figure: what was measured; None where the check is yes or no, or nothing could be measured.
        limit: what it must reach (or, for differences and latency, not exceed); None without a limit.
        detail: for a person.
    """

    name: str
    passed: bool
    figure: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """All checks of one run."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def figure(self, name: str) -> float | None:
        """What a check measured. Raises KeyError for a check that was not run."""
        for check in self.checks:
            if check.name == name:
                return check.figure
        raise KeyError(name)


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """One golden field as this machine sees it."""

    golden: GoldenField
    analysis: FieldAnalysis
    pairs: tuple[tuple[int, int], ...]
    cosines: tuple[float, ...]
    predicted: int


def self_test_bundle(path: Path, *, threads: int = 1, latency_limit_ms: float | None = None) -> SelfTestReport:
    """Read a bundle, open it and run its self-test; whatever stops it becomes a failed `loads`."""
    try:
        pipeline = Pipeline(read_bundle(path), threads=threads)
    except (BundleError, ModelRuntimeError) as exc:
        return SelfTestReport((Check("loads", False, detail=str(exc)),))
    return run_self_test(pipeline, latency_limit_ms=latency_limit_ms)


def run_self_test(pipeline: Pipeline, *, latency_limit_ms: float | None = None) -> SelfTestReport:
    """Run the checks above; a failure is in the report, never an exception.

    Args:
        pipeline: the pipeline to prove, as it will be used (threads and provider matter).
        latency_limit_ms: largest median latency of one field; without it the bundle's own, if it has one.
    """
    try:
        golden = read_golden(pipeline.bundle.files)
        pictures = [decode_image(pipeline.bundle.files[field.file]) for field in golden.fields]
        pipeline.warm_up()
    except ModelRuntimeError as exc:
        return SelfTestReport((Check("loads", False, detail=str(exc)),))
    loads = Check("loads", True, detail=f"{len(golden.fields)} golden fields")
    try:
        outcomes = [_outcome(pipeline, field, picture) for field, picture in zip(golden.fields, pictures, strict=True)]
        latency_ms = _latency_ms(pipeline, pictures)
    except ModelRuntimeError as exc:
        return SelfTestReport((loads, Check("finite_outputs", False, detail=str(exc))))
    limits = golden.limits
    if latency_limit_ms is not None:
        limits = limits.model_copy(update={"latency_ms": latency_limit_ms})
    finite = Check("finite_outputs", True)
    return SelfTestReport((loads, finite, *(measure(outcomes, latency_ms, limits) for measure in _MEASURES)))


def _outcome(pipeline: Pipeline, golden: GoldenField, picture: ImageRGB) -> _Outcome:
    analysis = pipeline.analyse(picture)
    boxes, scores, classes = _rows(analysis.detections)
    matches = match_detections(
        boxes=boxes,
        scores=scores,
        classes=classes,
        true_boxes=[d.box for d in golden.detections],
        true_classes=[d.cls for d in golden.detections],
    )
    return _Outcome(golden, analysis, matches.pairs, _cosines(pipeline, golden, picture), matches.predicted)


def _cosines(pipeline: Pipeline, golden: GoldenField, picture: ImageRGB) -> tuple[float, ...]:
    """Cosine of each reference embedding with this machine's, on the reference's own boxes."""
    cells = [(d.box, d.white_cell.embedding) for d in golden.detections if d.white_cell is not None]
    if not cells:
        return ()
    boxes = np.array([box for box, _ in cells], np.float32)
    expected = np.array([embedding for _, embedding in cells], np.float32)
    got: FloatArray = pipeline.embed(picture, boxes, golden.rbc_diameter_px)
    if expected.shape != got.shape:
        return (0.0,) * len(cells)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    return tuple(float(v) for v in (got * expected).sum(axis=1) / np.maximum(norms, 1e-12))


def _latency_ms(pipeline: Pipeline, pictures: Sequence[ImageRGB]) -> float:
    return float(np.median([pipeline.analyse(p).latency_ms for _ in range(LATENCY_ROUNDS) for p in pictures]))


def _rows(detections: Sequence[Detection]) -> Rows:
    return [d.box for d in detections], [d.score for d in detections], [d.cls for d in detections]


def _match(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    total = sum(o.predicted + len(o.golden.detections) for o in outcomes)
    f1 = 2 * sum(len(o.pairs) for o in outcomes) / total if total else 0.0
    return _at_least("detections_match_reference", f1, limits.match_f1, "F1 at IoU .5")


def _scores(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    apart = [
        abs(o.analysis.detections[mine].score - o.golden.detections[theirs].score)
        for o in outcomes
        for mine, theirs in o.pairs
    ]
    return _at_most("scores_match_reference", _mean(apart, 1.0), limits.score_difference, "mean difference")


def _boxes(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    overlaps = [
        float(iou_matrix([o.analysis.detections[mine].box], [o.golden.detections[theirs].box])[0, 0])
        for o in outcomes
        for mine, theirs in o.pairs
    ]
    return _at_least("boxes_match_reference", _mean(overlaps, 0.0), limits.box_iou, "mean IoU of matched boxes")


def _truth(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    f1 = f1_over([(_rows(o.analysis.detections), o.golden.truth) for o in outcomes])
    return _at_least("truth_f1", f1, limits.truth_f1, "F1 at IoU .5 against what was drawn")


def _embedding(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    cosines = [cosine for o in outcomes for cosine in o.cosines]
    return _at_least("embedding_cosine", _mean(cosines, 0.0), limits.embedding_cosine, f"mean of {len(cosines)} cells")


def _types(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    """Mean shared probability mass (1 - total variation): a permuted head loses it even where it stays unsure."""
    shared: list[float] = []
    for o in outcomes:
        for mine, theirs in o.pairs:
            white, reference = o.analysis.detections[mine].cell_type, o.golden.detections[theirs].white_cell
            if white is not None and reference is not None:
                names = set(white.probabilities) | set(reference.probabilities)
                shared.append(
                    sum(min(white.probabilities.get(n, 0.0), reference.probabilities.get(n, 0.0)) for n in names)
                )
    detail = f"mean shared probability over {len(shared)} cells"
    return _at_least("types_match_reference", _mean(shared, 0.0), limits.type_agreement, detail)


def _type_truth(outcomes: Sequence[_Outcome], _latency: float, limits: GoldenLimits) -> Check:
    """Most probable type against the drawn one, over drawn white cells that were found."""
    right: list[float] = []
    for o in outcomes:
        mine = [d for d in o.analysis.detections if d.cell_type is not None]
        drawn = [cell for cell in o.golden.truth if cell.cell_type is not None]
        matches = match_detections(
            boxes=[d.box for d in mine],
            scores=[d.score for d in mine],
            classes=[0] * len(mine),
            true_boxes=[cell.box for cell in drawn],
            true_classes=[0] * len(drawn),
        )
        for found, true in matches.pairs:
            cell_type = mine[found].cell_type
            if cell_type is not None:
                top = max(cell_type.probabilities, key=lambda name: cell_type.probabilities[name])
                right.append(float(top == drawn[true].cell_type))
    detail = f"share of {len(right)} drawn white cells"
    return _at_least("types_match_truth", _mean(right, 0.0), limits.type_truth, detail)


def _latency(_outcomes: Sequence[_Outcome], latency_ms: float, limits: GoldenLimits) -> Check:
    if limits.latency_ms is None:
        return Check("latency", True, latency_ms, None, "median ms a field, no limit set")
    return _at_most("latency", latency_ms, limits.latency_ms, "median ms a field")


_MEASURES: tuple[Callable[[Sequence[_Outcome], float, GoldenLimits], Check], ...] = (
    _match,
    _scores,
    _boxes,
    _truth,
    _embedding,
    _types,
    _type_truth,
    _latency,
)


def _mean(values: Sequence[float], empty: float) -> float:
    """Mean; nothing measured counts as the worst outcome, so that an empty check cannot pass."""
    return float(np.mean(values)) if values else empty


def _at_least(name: str, figure: float, limit: float, detail: str) -> Check:
    return Check(name, figure >= limit, figure, limit, detail)


def _at_most(name: str, figure: float, limit: float, detail: str) -> Check:
    return Check(name, figure <= limit, figure, limit, detail)
