"""Scoring against the journal is right on cases small enough to do by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet.contract.cells import Decision, DetectionWire, FieldCounts, ModelRef
from fleet.contract.report import AgentReport, FieldReport, SentBytes, SlideReport
from fleet.local.errors import LocalError
from fleet.local.score import Truth, limits_cover, read_journal, score_report


def cell(cls: str, box: tuple[float, float, float, float], *, kind: str | None = None, visible: float = 1.0) -> Truth:
    return {"cell_id": str(box), "cls": cls, "cell_type": kind, "box": list(box), "visible_ratio": visible}


def detection(cls: str, x: float, y: float, side: float = 50, *, counted: bool = True) -> DetectionWire:
    return DetectionWire.model_validate({"bbox": (x, y, side, side), "class": cls, "score": 0.9, "counted": counted})


def field(ref: str, *detections: DetectionWire, decision: Decision = Decision.ACCEPT) -> FieldReport:
    return FieldReport(
        capture_id=f"bench-1/1/{ref[4:]}",
        source_ref=ref,
        captured_at=datetime(2026, 1, 1, tzinfo=UTC),
        slide="s",
        decision=decision,
        latency_ms=1.0,
        counts=FieldCounts(rbc=0, wbc=0, platelets=0),
        detections=detections,
    )


def slide(shares: dict[str, tuple[float, float, float]]) -> SlideReport:
    return SlideReport(slide="s", closed=True, fields=1, withheld=0, rbc=0, platelets=0, white_cells={}, shares=shares)


def report(*fields: FieldReport, slides: tuple[SlideReport, ...] = ()) -> AgentReport:
    return AgentReport(
        device="bench-1",
        site="lab",
        agent_version="1",
        model=ModelRef(name="edge", version="1.0.0", digest="sha256:" + "0" * 64),
        fields=fields,
        slides=slides,
        uncertain_sent=0,
        uncertain_waiting=0,
        results_waiting=0,
        dropped=0,
        opinions=(),
        sent_bytes=SentBytes(),
    )


def test_a_missed_cell_and_a_false_cell_lower_f1_and_a_weak_detection_does_not_count() -> None:
    journal = {"sim:0": [cell("RBC", (0, 0, 50, 50)), cell("RBC", (100, 0, 150, 50))]}
    fields = field("sim:0", detection("RBC", 1, 1), detection("RBC", 300, 300), detection("RBC", 100, 0, counted=False))
    assert score_report(report(fields), journal).f1["RBC"] == pytest.approx(2 * 1 / (2 + 2))


def test_a_sliver_at_the_edge_is_neither_missed_nor_false() -> None:
    journal = {"sim:0": [cell("RBC", (0, 0, 50, 50)), cell("RBC", (90, 0, 100, 50), visible=0.2)]}
    seen = field(
        "sim:0",
        detection("RBC", 0, 0),
        DetectionWire.model_validate({"bbox": (90, 0, 10, 50), "class": "RBC", "score": 0.9, "counted": True}),
    )
    unseen = field("sim:0", detection("RBC", 0, 0))
    assert score_report(report(seen), journal).f1["RBC"] == 1.0
    assert score_report(report(unseen), journal).f1["RBC"] == 1.0


def test_a_withheld_field_is_not_judged() -> None:
    journal = {"sim:0": [cell("WBC", (0, 0, 50, 50), kind="monocyte")]}
    score = score_report(report(field("sim:0", decision=Decision.WITHHELD)), journal)
    assert score.f1["WBC"] == 1.0
    assert score.true_shares == {}


def test_limits_cover_only_when_every_type_lies_within() -> None:
    shares = {"neutrophil": 0.6, "lymphocyte": 0.4}
    good = slide({"neutrophil": (0.5, 0.4, 0.7), "lymphocyte": (0.5, 0.3, 0.6)})
    bad = slide({"neutrophil": (0.9, 0.8, 1.0), "lymphocyte": (0.1, 0.0, 0.2)})
    assert limits_cover([good], shares)
    assert not limits_cover([good, bad], shares)
    assert not limits_cover([], shares)
    assert not limits_cover([good], {})


def test_a_journal_cut_by_a_power_failure_is_read_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"source_ref": "sim:0", "truth": [cell("RBC", (0, 0, 50, 50))]})
    cut = tmp_path / "cut.jsonl"
    cut.write_text(f"{line}\n{line[:20]}")
    assert list(read_journal(cut)) == ["sim:0"]
    broken = tmp_path / "broken.jsonl"
    broken.write_text(f"{line[:20]}\n{line}\n")
    with pytest.raises(LocalError, match="line 1"):
        read_journal(broken)
