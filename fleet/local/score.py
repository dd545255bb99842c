"""Holds what the agents stored against the simulator's own journal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fleet.contract.cells import Decision
from fleet.contract.report import AgentReport, FieldReport, SlideReport
from fleet.local.errors import LocalError
from fleet.local.summary import TruthScore
from models.runtime.matching import match_detections

MATCH_IOU = 0.5
SLIVER_RATIO = 0.5
"""A true cell that shows less than this share at the frame's edge neither counts as missed nor as false."""

Truth = Mapping[str, Any]


def read_journal(path: Path) -> dict[str, list[Truth]]:
    """source_ref -> true cells of the field, from the simulated microscope's journal (one JSON object a line).

    A last line that was cut by a power failure is left out; any other unreadable line is an error.
    """
    fields: dict[str, list[Truth]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as exc:
            if number == len(lines):
                break
            raise LocalError(f"{path}: line {number} cannot be read ({exc})") from exc
        fields[entry["source_ref"]] = entry["truth"]
    return fields


def score_report(report: AgentReport, journal: Mapping[str, list[Truth]]) -> TruthScore:
    """F1 by class over all fields that were not withheld, and whether the limits cover the true shares."""
    fields = [field for field in report.fields if field.decision is not Decision.WITHHELD]
    f1 = {cls: _f1(fields, journal, cls) for cls in ("RBC", "WBC", "Platelets")}
    shares = true_shares(fields, journal)
    return TruthScore(f1=f1, true_shares=shares, limits_cover=limits_cover(report.slides, shares))


def true_shares(fields: Iterable[FieldReport], journal: Mapping[str, list[Truth]]) -> dict[str, float]:
    """Share of each type among the white cells that were shown in these fields."""
    seen = Counter(
        cell["cell_type"]
        for field in fields
        for cell in journal[field.source_ref]
        if cell["cls"] == "WBC" and cell["cell_type"] and cell["visible_ratio"] >= SLIVER_RATIO
    )
    total = seen.total()
    return {name: count / total for name, count in sorted(seen.items())}


def limits_cover(slides: Iterable[SlideReport], shares: Mapping[str, float]) -> bool:
    """Whether every slide's limits hold every true share; False without a slide or without white cells."""
    judged = [slide for slide in slides if slide.shares]
    return bool(judged and shares) and all(
        slide.shares[name][1] <= shares.get(name, 0.0) <= slide.shares[name][2]
        for slide in judged
        for name in slide.shares
    )


def _f1(fields: Iterable[FieldReport], journal: Mapping[str, list[Truth]], cls: str) -> float:
    hits = predicted = true = 0
    for field in fields:
        cells = [cell for cell in journal[field.source_ref] if cell["cls"] == cls]
        found = [d for d in field.detections if d.counted and d.cls.value == cls]
        matches = match_detections(
            boxes=[(x, y, x + w, y + h) for x, y, w, h in (d.bbox for d in found)],
            scores=[d.score for d in found],
            classes=[cls] * len(found),
            true_boxes=[cell["box"] for cell in cells],
            true_classes=[cls] * len(cells),
            iou=MATCH_IOU,
        )
        slivers = {index for index, cell in enumerate(cells) if cell["visible_ratio"] < SLIVER_RATIO}
        on_slivers = sum(column in slivers for _, column in matches.pairs)
        hits += len(matches.pairs) - on_slivers
        predicted += len(found) - on_slivers
        true += len(cells) - len(slivers)
    return 2 * hits / (predicted + true) if predicted + true else 1.0
