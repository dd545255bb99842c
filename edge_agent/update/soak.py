"""The new model beside the old one on live fields: what is counted, and the verdict. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median

from edge_agent.update.settings import UpdateSettings
from fleet.contract.cells import Decision
from fleet.contract.messages import SoakFigures
from models.bundle.manifest import UNIDENTIFIED, CellClass
from models.runtime.matching import iou_matrix
from models.runtime.results import Detection, FieldAnalysis

SAME_CELL_IOU = 0.5
LATENCIES = 500
MAX_FAULTS = 3
"""So many fields that the new model could not read at all end the soak."""


class Verdict(StrEnum):
    """What the figures say."""

    NOT_YET = "not_yet"
    GOOD = "good"
    BAD = "bad"


@dataclass(slots=True)
class Evidence:
    """Counts over live fields that both models have read.

    Attributes:
        fields: read by both.
        both_named: white cells that both found and named.
        differ: of those, named differently.
        seen: white cells that both found.
        new_white, old_white: white cells found by each.
        faults: fields that the new model could not read.
    """

    fields: int = 0
    seen: int = 0
    both_named: int = 0
    differ: int = 0
    new_white: int = 0
    old_white: int = 0
    uncertain: int = 0
    withheld: int = 0
    old_uncertain: int = 0
    old_withheld: int = 0
    faults: int = 0
    new_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    old_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def add(self, new: FieldAnalysis, old: FieldAnalysis, decisions: tuple[Decision, Decision]) -> None:
        """One field as both models see it, and what triage makes of each."""
        self.fields += 1
        new_cells, old_cells = new.counted(CellClass.WBC), old.counted(CellClass.WBC)
        self.new_white += len(new_cells)
        self.old_white += len(old_cells)
        for mine, theirs in same_cells(new_cells, old_cells):
            self.seen += 1
            labels = (_label(mine), _label(theirs))
            if UNIDENTIFIED not in labels:
                self.both_named += 1
                self.differ += labels[0] != labels[1]
        self.uncertain += decisions[0] is Decision.UNCERTAIN
        self.withheld += decisions[0] is Decision.WITHHELD
        self.old_uncertain += decisions[1] is Decision.UNCERTAIN
        self.old_withheld += decisions[1] is Decision.WITHHELD
        self.new_ms.append(new.latency_ms)
        self.old_ms.append(old.latency_ms)

    def copy(self) -> Evidence:
        """As it is now, apart from what is added later."""
        return replace(self, new_ms=self.new_ms.copy(), old_ms=self.old_ms.copy())

    def figures(self) -> SoakFigures:
        """For the wire; a share without anything to share is null."""
        old_ms = median(self.old_ms) if self.old_ms else 0.0
        return SoakFigures(
            fields=self.fields,
            white_cells=self.seen,
            disagreement_ratio=_share(self.differ, self.both_named),
            uncertain_ratio=_share(self.uncertain, self.fields),
            withheld_ratio=_share(self.withheld, self.fields),
            baseline_uncertain_ratio=_share(self.old_uncertain, self.fields),
            baseline_withheld_ratio=_share(self.old_withheld, self.fields),
            latency_ratio=round(median(self.new_ms) / old_ms, 4) if old_ms > 0 else None,
        )


def same_cells(new: Sequence[Detection], old: Sequence[Detection]) -> list[tuple[Detection, Detection]]:
    """White cells that both found: best overlap first, each in one pair at most."""
    if not new or not old:
        return []
    overlaps = iou_matrix([cell.box for cell in new], [cell.box for cell in old])
    ranked = sorted(
        ((float(overlaps[i, j]), i, j) for i in range(len(new)) for j in range(len(old))), key=lambda item: -item[0]
    )
    pairs, mine, theirs = [], set(), set()
    for overlap, i, j in ranked:
        if overlap < SAME_CELL_IOU:
            break
        if i not in mine and j not in theirs:
            mine.add(i)
            theirs.add(j)
            pairs.append((new[i], old[j]))
    return pairs


def judge(evidence: Evidence, rule: UpdateSettings, *, elapsed_s: float) -> tuple[Verdict, str]:
    """The verdict and its reason in words.

    Too little evidence is never a pass. What is clearly bad need not wait for the time to be over.
    """
    if evidence.faults >= MAX_FAULTS:
        return Verdict.BAD, f"{evidence.faults} fields could not be read by the new model"
    if evidence.fields < rule.soak_fields:
        return Verdict.NOT_YET, f"{evidence.fields} of {rule.soak_fields} fields"
    bad = _wrong(evidence, rule)
    if bad:
        return Verdict.BAD, bad
    if evidence.both_named < rule.min_white_cells:
        return Verdict.NOT_YET, f"{evidence.both_named} of {rule.min_white_cells} white cells named by both"
    if elapsed_s < rule.soak_s:
        return Verdict.NOT_YET, f"{elapsed_s:.0f} of {rule.soak_s:.0f} s"
    return Verdict.GOOD, f"{evidence.fields} fields, {evidence.both_named} white cells named by both"


def _wrong(evidence: Evidence, rule: UpdateSettings) -> str:
    """What is over its limit, over at least the minimum of fields; empty when nothing is."""
    figures = evidence.figures()
    enough_cells = evidence.both_named >= rule.min_white_cells
    if enough_cells and (figures.disagreement_ratio or 0.0) > rule.max_disagreement:
        return (
            f"{evidence.differ} of {evidence.both_named} white cells are named differently "
            f"(limit {rule.max_disagreement:.0%})"
        )
    if evidence.old_white >= rule.min_white_cells:
        change = abs(evidence.new_white - evidence.old_white) / evidence.old_white
        if change > rule.max_count_change:
            return f"{evidence.new_white} white cells found where the model before found {evidence.old_white}"
    for word, now, before, limit in (
        ("uncertain", figures.uncertain_ratio, figures.baseline_uncertain_ratio, rule.max_uncertain_rise),
        ("withheld", figures.withheld_ratio, figures.baseline_withheld_ratio, rule.max_withheld_rise),
    ):
        if (now or 0.0) - (before or 0.0) > limit:
            return f"{now:.0%} of the fields are {word}, {before:.0%} with the model before"
    if figures.latency_ratio is not None and figures.latency_ratio > rule.max_latency_ratio:
        return f"a field takes {figures.latency_ratio:.1f} times as long as before"
    return ""


def _label(cell: Detection) -> str:
    return UNIDENTIFIED if cell.cell_type is None else cell.cell_type.label


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
