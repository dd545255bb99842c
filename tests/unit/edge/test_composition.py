"""How the parts are put together: what one part cannot store must not bring another down."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.capture.source import DroppedFrame, DropReason
from edge_agent.clock import Clock
from edge_agent.composition import (
    RESULTS_REJECTED,
    ROWS_SET_ASIDE,
    count_teller,
    drop_teller,
    rejection_told,
    set_aside_told,
)
from edge_agent.console.view import PartState
from edge_agent.console_state import store_part
from edge_agent.errors import StoreFull
from edge_agent.metrics import Metrics
from edge_agent.problems import Problems
from edge_agent.store.chosen_sqlite import sent_pictures
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from fleet.contract.messages import SeqRange
from tests.unit.edge.edge_builders import START, new_field

DROPPED = DroppedFrame("camera@1", DropReason.BLACK, "black")


def test_a_dropped_frame_that_cannot_be_told_of_on_a_full_disk_is_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    tell = drop_teller(store, Clock(), lambda: None, metrics)
    tell(DROPPED)
    assert store.waiting().events == 1

    def full(*_: object, **__: object) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(store, "append", full)
    tell(DROPPED)
    assert store.waiting().events == 1
    assert "ahs_edge_alarms_lost_total 1.0" in metrics.text().decode()


def test_a_file_that_cannot_be_read_is_told_of_once_also_after_a_restart(tmp_path: Path) -> None:
    broken = DroppedFrame("set/a.jpg", DropReason.UNREADABLE, "no picture")
    for _ in range(3):
        with closing(Store(tmp_path, Quotas(rows=1000, image_bytes=1_000_000))) as store:
            drop_teller(store, Clock(), lambda: None, Metrics())(broken)
            assert store.waiting().events == 1


def test_results_that_the_cloud_refuses_are_a_problem_that_is_seen(store: Store) -> None:
    problems = Problems()
    store.on_rejected = count_teller(problems, rejection_told)
    slide = store.open_slide("s", target_white_cells=100, now=START).slide_id
    for number in range(3):
        store.record_field(new_field(number, slide_id=slide), now=START)
    store.acknowledge((), (SeqRange(boot=1, first=0, last=1),))
    store.acknowledge((), (SeqRange(boot=1, first=2, last=2),))
    (problem,) = problems.now()
    assert problem.code == RESULTS_REJECTED
    assert "3 results" in problem.text


def test_the_newest_pictures_that_were_sent_are_known_whatever_the_clock_said(tmp_path: Path) -> None:
    for numbers in ((0, 1, 2, 3), (4,), ()):
        with closing(Store(tmp_path, Quotas(rows=100, image_bytes=10**6))) as store:
            slide = store.open_slide("s", target_white_cells=100, now=START).slide_id
            for number in numbers:
                image_bytes = None if number in (0, 2) else 10
                store.record_field(new_field(number, slide_id=slide, image_bytes=image_bytes), now=START)
            sent = sent_pictures(store.database, 2)
    assert [(picture.audit, (picture.captured_at - START).total_seconds(), picture.last_run) for picture in sent] == [
        (False, 4.0, True),
        (False, 3.0, False),
    ]


def test_rows_that_cannot_be_sent_are_a_problem_now_and_stay_on_the_health_page(store: Store) -> None:
    problems = Problems()
    store.on_set_aside = count_teller(problems, set_aside_told)
    slide = store.open_slide("s", target_white_cells=100, now=START).slide_id
    store.record_field(new_field(1, slide_id=slide), now=START)
    assert store_part(store.waiting()).state is PartState.OK
    store.give_up((SeqRange(boot=1, first=0, last=0),))
    assert [problem.code for problem in problems.now()] == [ROWS_SET_ASIDE]
    part = store_part(store.waiting())
    assert (part.state, "1 cannot be sent" in part.text) == (PartState.WARNING, True)
