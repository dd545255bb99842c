"""The courier: pictures out, opinions in, over a cloud that answers, is away, or refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from edge_agent.clock import Clock
from edge_agent.errors import LinkDown, PeerRejected, StoreDamaged
from edge_agent.metrics import Metrics
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from edge_agent.uplink.asking import REFUSED_RETRY_S, AskCore, AskState
from edge_agent.uplink.courier import Courier
from fleet.contract.http import OpinionContext, OpinionSummary, SecondOpinion
from fleet.contract.messages import OpinionState
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, new_field

REFUSED = PeerRejected("401 token expired", status=401, credentials=True)
TOO_LARGE = PeerRejected("413 too large", status=413, credentials=False)


def opinion_on(capture_id: str, state: OpinionState = OpinionState.ANSWERED) -> SecondOpinion:
    return SecondOpinion(
        id=f"op-{capture_id}", site="lab-1", device=DEVICE, capture_id=capture_id, image_sha256="b" * 64, state=state,
        created_at=START, answered_at=START, model=MODEL, latency_ms=1, detections=(), needs_review=False,
    )  # fmt: skip


class FakeCloud:
    """Answers, or raises what it was told to raise, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: list[Exception] = []
        self.sick: set[str] = set()
        self.known: dict[str, SecondOpinion] = {}

    def _fault(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    def ask(self, jpeg: bytes, context: OpinionContext) -> SecondOpinion:
        self.asked.append(context.capture_id)
        self._fault()
        if context.capture_id in self.sick:
            raise LinkDown("HTTP 500")
        return opinion_on(context.capture_id)

    def fetch(self, opinion_id: str) -> SecondOpinion:
        self._fault()
        return self.known[opinion_id]

    def mine(self, since: datetime) -> Iterator[OpinionSummary]:
        self._fault()
        for o in self.known.values():
            yield OpinionSummary(
                id=o.id, site=o.site, device=o.device, capture_id=o.capture_id, state=o.state, created_at=START,
                white_cells=0, needs_review=False,
            )  # fmt: skip

    def close(self) -> None:
        pass


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = Store(folder, Quotas(rows=100, image_bytes=10**6))
        self.at_s = 1000.0
        self.cloud = FakeCloud()
        self.core = AskCore(catch_up_s=1e9)
        self.core.caught_up(self.at_s)
        clock = Clock(monotonic=lambda: self.at_s, utc=lambda: START)
        self.courier = Courier(self.cloud, self.core, store=self.store, clock=clock, metrics=Metrics())
        self.slide = self.store.open_slide("s", target_white_cells=100, now=START).slide_id

    def picture(self, number: int) -> None:
        self.store.record_field(new_field(number, slide_id=self.slide, image_bytes=10), now=START)

    def steps(self, count: int = 10) -> None:
        for _ in range(count):
            self.courier._step()

    def counters(self) -> dict[Counter, int]:
        return Reads(self.store.database).counters()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with closing(bench.store):
        yield bench


def test_each_picture_is_asked_about_once_and_its_answer_kept(bench: Bench) -> None:
    bench.picture(1)
    bench.picture(2)
    bench.steps()
    assert bench.cloud.asked == ["bench-1/1/1", "bench-1/1/2"]
    assert bench.store.waiting().images == 0
    assert [o.capture_id for o in Reads(bench.store.database).opinions()] == ["bench-1/1/1", "bench-1/1/2"]
    assert bench.counters()[Counter.IMAGES_SENT] == 2


def test_a_cloud_that_is_away_is_asked_again_later_and_nothing_is_lost(bench: Bench) -> None:
    bench.picture(1)
    bench.cloud.faults = [LinkDown("no route"), LinkDown("busy", retry_after_s=40.0)]
    bench.steps()
    assert (len(bench.cloud.asked), bench.core.state) == (1, AskState.WAITING)
    bench.at_s += 1.1
    bench.steps()
    assert len(bench.cloud.asked) == 2
    bench.at_s += 39
    bench.steps()
    assert len(bench.cloud.asked) == 2, "the cloud asked for 40 s"
    bench.at_s += 2
    bench.steps()
    assert bench.store.waiting().images == 0
    assert bench.core.state is AskState.READY


def test_a_refused_token_is_not_hammered_and_says_what_to_do(bench: Bench) -> None:
    bench.picture(1)
    bench.cloud.faults = [REFUSED]
    bench.steps(50)
    assert len(bench.cloud.asked) == 1
    assert (bench.core.state, "renew its token" in bench.core.text) == (AskState.REFUSED, True)
    assert bench.store.waiting().images == 1
    bench.at_s += REFUSED_RETRY_S - 1
    bench.steps()
    assert len(bench.cloud.asked) == 1
    bench.courier.credentials_changed()
    bench.steps()
    assert bench.store.waiting().images == 0


def test_a_picture_that_is_refused_for_itself_is_given_up_counted_and_told(bench: Bench) -> None:
    bench.picture(1)
    bench.picture(2)
    bench.cloud.faults = [TOO_LARGE]
    bench.steps()
    assert bench.cloud.asked == ["bench-1/1/1", "bench-1/1/2"]
    assert bench.counters()[Counter.IMAGES_REFUSED] == 1
    assert "refused:413" in bench.store.take_events(limit=10)[-1].payload


@pytest.mark.parametrize("change", ["payload = '{}'", "payload = 'rubbish'", "image = NULL", "image = x''"])
def test_a_picture_that_cannot_be_sent_at_all_holds_up_none_behind_it(bench: Bench, change: str) -> None:
    for number in (1, 2, 3):
        bench.picture(number)
    with bench.store.database.transaction() as connection:
        connection.execute(f"UPDATE spool SET {change} WHERE kind = 'image' AND capture_id = 'bench-1/1/1'")
    bench.steps()
    assert bench.cloud.asked == ["bench-1/1/2", "bench-1/1/3"]
    assert bench.counters()[Counter.IMAGES_SET_ASIDE] == 1
    assert (bench.store.waiting().images, bench.store.waiting().aside) == (0, 1)


def test_a_picture_on_which_the_cloud_fails_each_time_is_tried_behind_the_others(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.picture(number)
    bench.cloud.sick = {"bench-1/1/1"}
    for _ in range(10):
        bench.steps(1)
        bench.at_s += 100
    assert {"bench-1/1/2", "bench-1/1/3"} <= set(bench.cloud.asked)
    assert bench.store.waiting().images == 1
    bench.cloud.sick = set()
    bench.steps()
    assert bench.store.waiting().images == 0


def test_missed_and_changed_opinions_are_fetched_and_known_ones_are_not(bench: Bench) -> None:
    bench.picture(1)
    bench.steps()
    asked = opinion_on("bench-1/1/1")
    reviewed = opinion_on("bench-1/1/7", OpinionState.REVIEWED)
    bench.cloud.known = {asked.id: asked, reviewed.id: reviewed}
    bench.courier.catch_up_soon()
    bench.steps()
    found = {o.capture_id: o.state for o in Reads(bench.store.database).opinions()}
    assert found == {"bench-1/1/1": "answered", "bench-1/1/7": "reviewed"}
    assert bench.core.next_wanted() is None


def test_a_cloud_without_such_a_list_is_not_asked_in_a_loop(bench: Bench) -> None:
    bench.picture(1)
    bench.cloud.faults = [PeerRejected("404", status=404, credentials=False)]
    bench.courier.catch_up_soon()
    bench.steps()
    assert bench.store.waiting().images == 0


def test_damage_to_the_store_ends_the_courier_so_that_the_next_start_repairs_it(bench: Bench) -> None:
    bench.picture(1)
    bench.store.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = bench.store.database.path
    path.write_bytes(b"no database at all" + path.read_bytes()[18:])
    with pytest.raises(StoreDamaged):
        bench.steps(2)


def test_the_thread_ends_when_asked_to(bench: Bench) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=bench.courier.run, args=(stop,))
    thread.start()
    stop.set()
    bench.courier.wake()
    thread.join(5)
    assert not thread.is_alive()


def test_too_many_announcements_end_in_a_catch_up_instead_of_memory() -> None:
    core = AskCore(catch_up_s=100)
    core.caught_up(0.0)
    due: Callable[[], bool] = lambda: core.catch_up_due(1.0)  # noqa: E731
    for number in range(1000):
        core.want(f"opinion-{number}")
    assert not due()
    core.want("one more")
    assert due()
