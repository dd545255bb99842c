"""The recorder: each field is counted once, whatever fails after its commit, and a sick disk is waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edge_agent.capture.frame import Frame
from edge_agent.capturing import Tickets
from edge_agent.clock import Clock
from edge_agent.config import load_settings
from edge_agent.errors import StoreFault
from edge_agent.live import LiveState
from edge_agent.metrics import Metrics
from edge_agent.problems import Problems
from edge_agent.reading import FieldReader
from edge_agent.recording import DISK_FAULT, RecordLoop, SourceName
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import NewField
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from edge_agent.triage.sampling import Sampler
from fleet.contract.base import CaptureId
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy
from models.runtime import InferenceError
from tests.unit.edge.edge_builders import MODEL, START, new_field


class PlainReader:
    """Reads every frame as the same live field, with decisions in turn; a None is a frame that cannot be analysed."""

    def __init__(self, decisions: Iterable[Decision | None] = ()) -> None:
        self._decisions = iter(decisions)
        self.engine = SimpleNamespace(model=MODEL)

    def read(self, frame: Frame, *, capture: CaptureId, **more: Any) -> tuple[NewField, Any]:
        slide = cast(int, more["slide"].slide_id)
        decision = next(self._decisions, Decision.ACCEPT)
        if decision is None:
            raise InferenceError("no")
        field = new_field(capture.frame, slide_id=slide, boot=capture.boot, replayable=False, decision=decision)
        sampled = cast(Sampler, more["sampler"]).choose(decision, str(capture), 0.0)
        return replace(field, sampled=sampled.choice), SimpleNamespace(focus=0.1)


class Told:
    """Keeps what became of each frame."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []

    def counted(self, frame: Frame) -> None:
        self.outcomes.append((frame.source_ref, "counted"))

    def withheld(self, frame: Frame, reasons: Sequence[str], focus: float) -> None:
        self.outcomes.append((frame.source_ref, f"withheld at {focus}"))

    def unusable(self, frame: Frame) -> None:
        self.outcomes.append((frame.source_ref, "unusable"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, Quotas(rows=1000, image_bytes=1_000_000))) as store:
        yield store


def recorder(
    store: Store,
    frames: int,
    on_stored: Callable[[], None],
    *,
    decisions: Iterable[Decision | None] = (),
    told: Told | None = None,
) -> tuple[RecordLoop, Problems]:
    waiting: queue.Queue[Frame | None] = queue.Queue()
    for number in range(frames):
        waiting.put(Frame(np.zeros((4, 4, 3), np.uint8), f"camera@{number}", number, START, 0.0, None))
    waiting.put(None)
    problems = Problems()
    loop = RecordLoop(
        load_settings(overrides={"store.full_retry_s": 0.01, "slide.name": "s"}, environment={}),
        reader=cast(FieldReader, PlainReader(decisions)),
        store=store,
        sampler=Sampler(SamplingPolicy(per_hour=1, audit_ratio=0.0)),
        frames=waiting,
        source=SourceName("camera", False),
        enough=threading.Event(),
        tickets=Tickets(None),
        slide=store.open_slide("s", target_white_cells=100, now=START),
        outcomes=told or Told(),
        clock=Clock(),
        live=LiveState(),
        metrics=Metrics(),
        problems=problems,
        on_stored=on_stored,
    )
    return loop, problems


def test_a_live_field_is_counted_once_though_telling_of_it_fails(store: Store) -> None:
    calls: list[int] = []

    def on_stored() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("nobody listens")

    loop, _ = recorder(store, 2, on_stored)
    with pytest.raises(RuntimeError, match="nobody listens"):
        loop.run(threading.Event())
    loop.run(threading.Event())
    assert Reads(store.database).slide(loop.slide.slide_id).fields == loop.slide.fields == 2


def test_a_disk_that_does_not_answer_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([StoreFault("the disk does not answer")])
    seen: list[str] = []

    def free_bytes() -> int:
        fault = next(answers, None)
        if fault is not None:
            raise fault
        seen.extend(problem.code for problem in problems.now())
        return 2**40

    loop, problems = recorder(store, 1, lambda: None)
    monkeypatch.setattr(store.database, "free_bytes", free_bytes)
    loop.run(threading.Event())
    assert seen == [DISK_FAULT]
    assert problems.now() == ()
    assert loop.slide.fields == 1


def test_what_became_of_each_frame_is_told(store: Store) -> None:
    told = Told()
    loop, _ = recorder(store, 3, lambda: None, decisions=(Decision.WITHHELD, None, Decision.ACCEPT), told=told)
    loop.run(threading.Event())
    assert told.outcomes == [("camera@0", "withheld at 0.1"), ("camera@1", "unusable"), ("camera@2", "counted")]


def test_what_became_of_a_frame_is_told_though_nobody_else_can_be_told(store: Store) -> None:
    told = Told()

    def on_stored() -> None:
        raise RuntimeError("nobody listens")

    loop, _ = recorder(store, 1, on_stored, told=told)
    with pytest.raises(RuntimeError, match="nobody listens"):
        loop.run(threading.Event())
    assert told.outcomes == [("camera@0", "counted")]


def test_what_comes_after_a_slide_was_closed_belongs_to_the_next_one(store: Store) -> None:
    loop, _ = recorder(store, 2, lambda: None)
    loop.run(threading.Event())
    first = loop.slide.slide_id
    loop.close_slide()
    result = store.take_events(limit=100)[-1].payload
    loop.close_slide()
    for number in (5, 6):
        loop._frames.put(Frame(np.zeros((4, 4, 3), np.uint8), f"camera@{number}", number, START, 0.0, None))
    loop._frames.put(None)
    loop.run(threading.Event())
    slides = Reads(store.database).slides()
    assert [(slide.name, slide.fields, slide.closed_at is None) for slide in slides] == [
        ("s", 2, False),
        ("s-2", 2, True),
    ]
    assert loop.slide.slide_id != first
    assert '"fields":2' in result


def test_a_slide_closed_while_a_field_is_read_keeps_its_result(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = recorder(store, 2, lambda: None)
    free_bytes, calls = store.database.free_bytes, []

    def closing_meanwhile() -> int:
        calls.append(1)
        if len(calls) == 2:
            with store.database.transaction() as connection:
                connection.execute("UPDATE slides SET closed_at = '2026-03-01T08:00:00Z' WHERE id = ?", (1,))
        return free_bytes()

    monkeypatch.setattr(store.database, "free_bytes", closing_meanwhile)
    loop.run(threading.Event())
    slides = Reads(store.database).slides()
    assert [(slide.name, slide.fields) for slide in slides] == [("s", 1), ("s-2", 1)]


def test_a_picture_in_doubt_that_falls_between_two_slides_is_chosen_and_paid_for_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = recorder(store, 2, lambda: None, decisions=[Decision.UNCERTAIN] * 3)
    free_bytes, calls = store.database.free_bytes, []

    def closing_meanwhile() -> int:
        calls.append(1)
        if len(calls) == 1:
            with store.database.transaction() as connection:
                connection.execute("UPDATE slides SET closed_at = '2026-03-01T08:00:00Z' WHERE id = ?", (1,))
        return free_bytes()

    monkeypatch.setattr(store.database, "free_bytes", closing_meanwhile)
    loop.run(threading.Event())
    with store.database.reading() as connection:
        rows = connection.execute("SELECT slide_id, sampled FROM fields ORDER BY id").fetchall()
    assert [tuple(row) for row in rows] == [(2, "send"), (2, "over_budget")]
