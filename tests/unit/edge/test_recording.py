"""The recorder: each field is counted once, whatever fails after its commit, and a sick disk is waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
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
from fleet.contract.messages import SamplingPolicy
from tests.unit.edge.edge_builders import START, new_field


class PlainReader:
    """Reads every frame as the same live field."""

    def read(self, frame: Frame, *, capture: CaptureId, **more: Any) -> tuple[NewField, Any]:
        slide = cast(int, more["slide"].slide_id)
        return new_field(capture.frame, slide_id=slide, boot=capture.boot, replayable=False), SimpleNamespace()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, Quotas(rows=1000, image_bytes=1_000_000))) as store:
        yield store


def recorder(store: Store, frames: int, on_stored: Callable[[], None]) -> tuple[RecordLoop, Problems]:
    waiting: queue.Queue[Frame | None] = queue.Queue()
    for number in range(frames):
        waiting.put(Frame(np.zeros((4, 4, 3), np.uint8), f"camera@{number}", number, START, 0.0, None))
    waiting.put(None)
    problems = Problems()
    loop = RecordLoop(
        load_settings(overrides={"store.full_retry_s": 0.01}, environment={}),
        reader=cast(FieldReader, PlainReader()),
        store=store,
        sampler=Sampler(SamplingPolicy(per_hour=1, audit_ratio=0.0)),
        frames=waiting,
        source=SourceName("camera", False),
        enough=threading.Event(),
        tickets=Tickets(None),
        slide=store.open_slide("s", target_white_cells=100, now=START),
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
