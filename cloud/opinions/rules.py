"""What follows from two words on the same field: pairs, agreement, and whether a person is asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.contract.cells import CellClassName, CellTypeWire, DetectionWire
from fleet.contract.http import CellOpinion
from fleet.contract.messages import OpinionState
from models.bundle.manifest import UNIDENTIFIED, CellClass
from models.runtime.matching import iou_matrix
from models.runtime.results import Detection


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was made of both words.

    Attributes:
        cells: every counted white cell of either side, paired by place.
        agreement_ratio: share of `cells` with the same type on both sides; None without any.
        reasons: why a person is asked; empty when nobody is.
    """

    cells: tuple[CellOpinion, ...]
    agreement_ratio: float | None
    reasons: tuple[str, ...]

    @property
    def needs_review(self) -> bool:
        """Whether a person is asked."""
        return bool(self.reasons)

    @property
    def state(self) -> OpinionState:
        """Where the opinion stands."""
        return OpinionState.PENDING_REVIEW if self.reasons else OpinionState.ANSWERED


def judge(edge: Sequence[DetectionWire], cloud: Sequence[DetectionWire], *, pair_iou: float) -> Verdict:
    """Compares the counted white cells of the device and of the larger model.

    A person is asked when the larger model is unsure of a cell (`cloud_unidentified`, `cloud_out_of_domain`,
    `cloud_several_types`), when both are sure of different types (`types_differ`), or when only one of them sees a
    white cell (`only_edge_saw_a_cell`, `only_cloud_saw_a_cell`).
    """
    mine = [d for d in edge if d.counted and d.cls is CellClassName.WBC]
    theirs = [d for d in cloud if d.counted and d.cls is CellClassName.WBC]
    cells = tuple(_opinion(a, b) for a, b in pair(mine, theirs, iou=pair_iou))
    reasons: set[str] = set()
    for cell in cells:
        reasons.update(_doubts(cell))
    agreement = sum(cell.agree for cell in cells) / len(cells) if cells else None
    return Verdict(cells, agreement, tuple(sorted(reasons)))


def pair(
    first: Sequence[DetectionWire], second: Sequence[DetectionWire], *, iou: float
) -> list[tuple[DetectionWire | None, DetectionWire | None]]:
    """Pairs boxes greedily by overlap, the best first; what has no partner stands alone, none is left out."""
    overlap = iou_matrix([_corners(d) for d in first], [_corners(d) for d in second])
    candidates = sorted(
        ((overlap[i, j], i, j) for i in range(len(first)) for j in range(len(second)) if overlap[i, j] >= iou),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in candidates:
        if i not in partner and j not in taken:
            partner[i] = j
            taken.add(j)
    pairs: list[tuple[DetectionWire | None, DetectionWire | None]] = [
        (d, second[partner[i]] if i in partner else None) for i, d in enumerate(first)
    ]
    pairs.extend((None, d) for j, d in enumerate(second) if j not in taken)
    return pairs


def labels(detections: Sequence[DetectionWire]) -> dict[str, int]:
    """Type -> counted white cells, `unidentified` among them."""
    counts: dict[str, int] = {}
    for detection in detections:
        if detection.counted and detection.cls is CellClassName.WBC:
            label = label_of(detection)
            counts[label] = counts.get(label, 0) + 1
    return counts


def label_of(detection: DetectionWire) -> str:
    """The type of a white cell; `unidentified` when none was given."""
    return detection.cell_type.label if detection.cell_type else UNIDENTIFIED


def to_wire(detection: Detection) -> DetectionWire:
    """A detection of the pipeline (x1 y1 x2 y2) as it travels (x, y, width, height), pixels of the frame."""
    x1, y1, x2, y2 = (float(v) for v in detection.box)
    kind = detection.cell_type
    return DetectionWire(
        bbox=(round(x1, 2), round(y1, 2), round(max(0.0, x2 - x1), 2), round(max(0.0, y2 - y1), 2)),
        cls=CellClassName(CellClass(detection.cls).value),
        score=_ratio(detection.score),
        counted=detection.counted,
        cell_type=CellTypeWire(
            label=kind.label,
            probabilities={name: _ratio(value) for name, value in kind.probabilities.items()},
            prediction_set=kind.prediction_set,
            in_domain=kind.in_domain,
            ood_score=float(kind.ood_score),
        )
        if kind
        else None,
    )


def _opinion(edge: DetectionWire | None, cloud: DetectionWire | None) -> CellOpinion:
    agree = edge is not None and cloud is not None and label_of(edge) == label_of(cloud) != UNIDENTIFIED
    return CellOpinion(edge=edge, cloud=cloud, agree=agree)


def _doubts(cell: CellOpinion) -> list[str]:
    if cell.cloud is None:
        return ["only_edge_saw_a_cell"]
    found = []
    kind = cell.cloud.cell_type
    if label_of(cell.cloud) == UNIDENTIFIED:
        found.append("cloud_unidentified")
    if kind is not None and not kind.in_domain:
        found.append("cloud_out_of_domain")
    if kind is not None and len(kind.prediction_set) > 1:
        found.append("cloud_several_types")
    if cell.edge is None:
        found.append("only_cloud_saw_a_cell")
    elif UNIDENTIFIED not in (label_of(cell.edge), label_of(cell.cloud)) and not cell.agree:
        found.append("types_differ")
    return found


def _corners(detection: DetectionWire) -> tuple[float, float, float, float]:
    x, y, width, height = detection.bbox
    return (x, y, x + width, y + height)


def _ratio(value: float) -> float:
    return round(min(1.0, max(0.0, float(value))), 5)
