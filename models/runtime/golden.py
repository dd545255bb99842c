"""Golden inputs: generated fields with the answers that a healthy bundle gives. Pure.

`golden/expected.json` holds for each field what torch found in fp32 through the same pre- and post-processing (the
reference), and what the generator knows to be there (the truth); `golden/*.png` are the fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from pydantic import ValidationError

from models.bundle.manifest import GOLDEN_NAME, CellClass, HeadSpec, Ratio, Strict
from models.runtime.errors import GoldenError, InferenceError
from models.runtime.head import Head
from models.runtime.imaging import decode_image, encode_png
from models.runtime.matching import match_detections
from models.runtime.results import CellType, Detection, FieldAnalysis, FloatArray, ImageRGB

GOLDEN_SCHEMA: Literal["ahs.golden/1"] = "ahs.golden/1"
MIN_VISIBLE_RATIO = 0.5
"""A true cell of which less is inside the frame need not be found."""

BoxTuple = tuple[float, float, float, float]


class TrueCell(Protocol):
    """What golden inputs need of a generated cell (`models.synthetic.TruthCell` has it)."""

    @property
    def cls(self) -> str: ...
    @property
    def cell_type(self) -> str | None: ...
    @property
    def box(self) -> Sequence[float]: ...
    @property
    def visible_ratio(self) -> float: ...
    @property
    def ambiguous(self) -> bool: ...


class TrueField(Protocol):
    """What golden inputs need of a generated field (`models.synthetic.FieldTruth` has it)."""

    @property
    def image(self) -> ImageRGB: ...
    @property
    def cells(self) -> Sequence[TrueCell]: ...


class GoldenTruth(Strict):
    """One cell that the generator drew."""

    box: BoxTuple
    cls: CellClass
    cell_type: str | None = None
    visible_ratio: float


class GoldenWhiteCell(Strict):
    """The reference's word on one white cell."""

    probabilities: dict[str, float]
    embedding: tuple[float, ...]


class GoldenDetection(Strict):
    """One counted detection of the reference."""

    box: BoxTuple
    cls: CellClass
    score: float
    white_cell: GoldenWhiteCell | None = None


class GoldenField(Strict):
    """One field, its reference and its truth."""

    file: str
    rbc_diameter_px: float | None
    detections: tuple[GoldenDetection, ...]
    truth: tuple[GoldenTruth, ...]


class GoldenLimits(Strict):
    """What a healthy device must reach; stands in each bundle beside its golden inputs.

    The defaults lie between what the shipped bundles reach (int8: F1 1.0, score .012, IoU .967, truth .986, cosine
    1.0) and what they reach under the mildest planted faults: swapped channels at the detector give F1 .952 and truth
    .957, half the brightness gives score .038 and IoU .939, half the brightness at a raw embedder gives cosine .964.
    """

    match_f1: Ratio = 0.975
    score_difference: Ratio = 0.025
    box_iou: Ratio = 0.95
    truth_f1: Ratio = 0.965
    type_agreement: Ratio = 0.85
    type_truth: Ratio = 0.7
    embedding_cosine: Ratio = 0.98
    latency_ms: float | None = None


class GoldenSet(Strict):
    """`golden/expected.json`."""

    schema_name: Literal["ahs.golden/1"] = GOLDEN_SCHEMA
    limits: GoldenLimits
    fields: tuple[GoldenField, ...]


def build_golden(
    fields: Sequence[TrueField], reference_analyses: Sequence[FieldAnalysis], *, limits: GoldenLimits | None = None
) -> dict[str, bytes]:
    """Make a bundle's golden files.

    How to pack a bundle with it::

        draft = write_bundle(tmp, fields, {"detector.onnx": ..., "embedder.onnx": ..., "head.npz": ..., "card.md": ...})
        fp32 = Networks(detector=TorchNetwork(...), embedder=TorchNetwork(...))     # anything with .run(array)
        reference = Pipeline(draft, keep_embeddings=True, networks=fp32)
        golden = build_golden(slides, [reference.analyse(s.image) for s in slides])
        write_bundle(target, fields, {**draft.files, **golden})
        run_self_test(Pipeline(read_bundle(target)))                               # must pass before it ships

    `models.synthetic.generate_field(seed)` gives fields that fit. Take 4 to 8 that hold white cells of each type.

    Args:
        fields: generated fields.
        reference_analyses: one a field, from fp32 networks through `Pipeline(..., keep_embeddings=True)`.
        limits: what a device must reach; by default `GoldenLimits()`.

    Returns:
        path -> bytes: `golden/expected.json` and one PNG a field.

    Raises:
        GoldenError: the reference itself misses the truth by more than the limits allow, was made without embeddings,
            or does not fit the fields.
    """
    limits = limits or GoldenLimits()
    if not fields or len(fields) != len(reference_analyses):
        raise GoldenError(f"{len(fields)} fields and {len(reference_analyses)} reference analyses; give one each")
    golden = GoldenSet(
        limits=limits,
        fields=tuple(
            _field(f"golden/field-{number:02d}.png", field, analysis)
            for number, (field, analysis) in enumerate(zip(fields, reference_analyses, strict=True))
        ),
    )
    reached = f1_over(
        [(_as_rows(f.detections), f.truth) for f in golden.fields],
    )
    if reached < limits.truth_f1:
        raise GoldenError(
            f"the reference finds the generated cells with F1 {reached:.3f}, below the limit {limits.truth_f1}; "
            "train longer or choose other fields"
        )
    pictures = {entry.file: encode_png(field.image) for entry, field in zip(golden.fields, fields, strict=True)}
    return {GOLDEN_NAME: _expected(golden), **pictures}


def read_golden(files: Mapping[str, bytes]) -> GoldenSet:
    """Golden set of a bundle's files.

    Raises:
        GoldenError: absent, unreadable, empty, or it names a picture that is not there.
    """
    try:
        golden = GoldenSet.model_validate_json(files[GOLDEN_NAME])
    except KeyError as exc:
        raise GoldenError(f"the bundle holds no {GOLDEN_NAME}; pack it with golden inputs") from exc
    except ValidationError as exc:
        raise GoldenError(f"{GOLDEN_NAME} cannot be read: {exc.errors()[0]['msg']}") from exc
    if not golden.fields:
        raise GoldenError(f"{GOLDEN_NAME} names no field")
    if absent := [f.file for f in golden.fields if f.file not in files]:
        raise GoldenError(f"{GOLDEN_NAME} names {absent[0]}, which is not in the bundle")
    return golden


Embed = Callable[[ImageRGB, FloatArray, float | None], FloatArray]
"""Picture, boxes (N, 4) and red-cell diameter -> embeddings (N, D), as `Pipeline.embed`."""


def retyped_golden(files: Mapping[str, bytes], head: Head, spec: HeadSpec, *, embed: Embed | None = None) -> bytes:
    """`golden/expected.json` for another head on the same detector.

    The reference's embeddings stay as they are, torch's in fp32; the types are what the new head makes of them. The
    truth and the limits do not move, so a head with permuted classes still fails `types_match_truth`.

    Args:
        files: of a bundle with golden inputs.
        head: the new head.
        spec: names of its classes.
        embed: makes the reference's embeddings anew, for another embedder; in fp32.

    Raises:
        GoldenError: no golden inputs, or embeddings of another width than the head reads.
    """
    golden = read_golden(files)

    fields = []
    for field in golden.fields:
        places = [place for place, d in enumerate(field.detections) if d.white_cell is not None]
        detections = list(field.detections)
        if places:
            rows = _reference_rows(files, field, places, embed)
            try:
                said = head.read_types(rows, spec, keep_embeddings=True)
            except InferenceError as exc:
                raise GoldenError(f"the golden embeddings do not fit the new head: {exc}") from exc
            for place, cell_type in zip(places, said, strict=True):
                detections[place] = detections[place].model_copy(update={"white_cell": _white_cell(cell_type)})
        fields.append(field.model_copy(update={"detections": tuple(detections)}))
    return _expected(golden.model_copy(update={"fields": tuple(fields)}))


def _reference_rows(
    files: Mapping[str, bytes], field: GoldenField, places: Sequence[int], embed: Embed | None
) -> FloatArray:
    chosen = [field.detections[place] for place in places]
    if embed is None:
        return np.array([d.white_cell.embedding for d in chosen if d.white_cell is not None], np.float32)
    boxes = np.array([d.box for d in chosen], np.float32)
    return embed(decode_image(files[field.file]), boxes, field.rbc_diameter_px)


def _white_cell(cell_type: CellType) -> GoldenWhiteCell:
    assert cell_type.embedding is not None
    return GoldenWhiteCell(
        probabilities={name: round(p, 5) for name, p in cell_type.probabilities.items()},
        embedding=tuple(round(float(v), 5) for v in cell_type.embedding),
    )


def _expected(golden: GoldenSet) -> bytes:
    """Read by machines alone: no indentation, it holds thousands of numbers."""
    return json.dumps(golden.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode() + b"\n"


Rows = tuple[list[BoxTuple], list[float], list[CellClass]]
"""Boxes, scores and classes of one field's detections, in step."""


def f1_over(fields: Sequence[tuple[Rows, Sequence[GoldenTruth]]]) -> float:
    """F1 at IoU .5 against the generator's truth, counted over all fields and classes."""
    hits = total = 0
    for (boxes, scores, classes), truth in fields:
        matches = match_detections(
            boxes=boxes,
            scores=scores,
            classes=classes,
            true_boxes=[cell.box for cell in truth],
            true_classes=[cell.cls for cell in truth],
            true_optional=[cell.visible_ratio < MIN_VISIBLE_RATIO for cell in truth],
        )
        hits += len(matches.pairs)
        total += matches.predicted + matches.true
    return 2 * hits / total if total else 0.0


def _as_rows(detections: Sequence[GoldenDetection]) -> Rows:
    return [d.box for d in detections], [d.score for d in detections], [d.cls for d in detections]


def _field(file: str, field: TrueField, analysis: FieldAnalysis) -> GoldenField:
    if field.image.shape[:2] != (analysis.height_px, analysis.width_px):
        raise GoldenError(f"{file}: the reference analysis belongs to a picture of another size")
    return GoldenField(
        file=file,
        rbc_diameter_px=analysis.rbc_diameter_px,
        detections=tuple(_detection(file, d) for d in analysis.detections if d.counted),
        truth=tuple(
            GoldenTruth(
                box=_box(cell.box),
                cls=CellClass(cell.cls),
                # Drawn between two types: neither answer would be wrong.
                cell_type=None if cell.ambiguous else cell.cell_type,
                visible_ratio=round(float(cell.visible_ratio), 4),
            )
            for cell in field.cells
        ),
    )


def _detection(file: str, found: Detection) -> GoldenDetection:
    white: GoldenWhiteCell | None = None
    if found.cell_type is not None:
        if found.cell_type.embedding is None:
            raise GoldenError(f"{file}: make the reference with Pipeline(..., keep_embeddings=True)")
        white = _white_cell(found.cell_type)
    return GoldenDetection(box=_box(found.box), cls=found.cls, score=round(found.score, 5), white_cell=white)


def _box(box: Sequence[float]) -> BoxTuple:
    x1, y1, x2, y2 = (round(float(v), 2) for v in box)
    return (x1, y1, x2, y2)
