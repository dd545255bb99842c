"""The update's thread over a real disk, real signatures and a real, tiny model; only the broker is a list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.clock import Clock
from edge_agent.errors import StoreFault
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.metrics import Metrics
from edge_agent.problems import Problems
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from edge_agent.update.core import UpdateCore
from edge_agent.update.driver import INBOX_CHUNKS, NOT_SAVED, REFUSED, Outside, UpdateDriver
from edge_agent.update.installing import ModelInUse
from edge_agent.update.receiving import ChunkMessage, DesiredMessage, Receiver, TrustMessage, earliest_expiry
from edge_agent.update.record import Model
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.start import UpdateStart, start
from edge_agent.update.traffic import LinkChanged, TrialEnded
from edge_agent.update.trial import TrialResult
from edge_agent.update.warehouse import Warehouse
from fleet.contract.cells import Decision
from fleet.contract.codec import encode
from fleet.contract.messages import Activation, Desired, UpdateState
from fleet.contract.release import MAX_CHUNK_BYTES, ReleaseTarget, Trust, UpdateCode
from fleet.release.chunks import pieces
from fleet.release.keys import make_keys, sign_desired
from fleet.release.package import Package, make_package, write_kit
from fleet.release.repository import first_trust, resigned, with_release

DEVICE = "bench-1"
WAIT_S = 30.0
QUICK: dict[str, Any] = {
    "soak_fields": 3,
    "soak_s": 0.0,
    "min_white_cells": 6,
    "max_latency_ratio": 100.0,  # a loaded machine is no slow model
    "wait_for_slide_s": 0.0,
}


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.01)


class Operator:
    """Two signed releases of the disc bundle."""

    def __init__(self, packages: list[Package]) -> None:
        self.keys = make_keys()
        now = datetime.now(UTC)
        self.trust = first_trust(self.keys, now)
        self.targets: list[ReleaseTarget] = []
        self.chunks: dict[str, bytes] = {}
        for counter, package in enumerate(packages, start=1):
            target = package.describe(counter, now)
            text = with_release(self.trust, target, package.archive, self.keys.release)
            self.trust = self.trust.model_copy(update={"targets": text})
            self.targets.append(target)
            self.chunks |= {chunk.sha256: data for chunk, data in pieces(package.archive, target.chunks)}
        self.trust = self.renewed()

    def renewed(self, *, at: datetime | None = None) -> Trust:
        life = timedelta(hours=1)
        return resigned(self.trust, self.keys.online, at or datetime.now(UTC), timestamp_for=life, snapshot_for=life)

    def wish(
        self,
        target: ReleaseTarget,
        version: int = 1,
        *,
        device: str = DEVICE,
        activation: Activation = Activation.ACTIVATE,
    ) -> bytes:
        desired = Desired(
            device=device, version=version, release=target.digest, counter=target.counter, rollout="r-1",
            activation=activation,
        )  # fmt: skip
        return encode(sign_desired(self.keys.online, desired))


class Bench:
    """A driver on its thread; chunks that are asked for are delivered unless `deaf`."""

    def __init__(
        self,
        folder: Path,
        operator: Operator,
        *,
        trial: TrialResult | None = None,
        endless: threading.Event | None = None,
        ended: threading.Event | None = None,
        **more: Any,
    ) -> None:
        def run_trial(model: Model, stop: threading.Event) -> TrialResult:
            if endless is not None:
                endless.set()
                stop.wait()
                (ended or endless).set()
            return trial or TrialResult(None, "passed")

        self.operator = operator
        settings = UpdateSettings(factory=folder / "kit", **{**QUICK, **more})
        self.opened: UpdateStart = start(
            settings,
            folder / "data",
            lambda path, digest: open_engine(path, threads=1, self_test=False, digest=digest),
            Clock(),
        )
        self.switch = Switch(self.opened.engine)
        self.store = Store(folder / "data", Quotas(rows=1000, image_bytes=10**6))
        self.metrics, self.problems = Metrics(), Problems()
        self.deaf = False
        self.following = False
        self.slide_open = False
        outside = Outside(
            follow_chunks=self._follow,
            ask=self._ask,
            changed=lambda: None,
            stored=lambda: None,
            reading=lambda: self.slide_open,
        )
        self.driver = UpdateDriver(
            UpdateCore(self.opened.record, settings),
            settings,
            receiver=Receiver(
                DEVICE,
                trust=self.opened.trust,
                chunks=self.opened.chunks,
                clock=Clock(),
                metrics=self.metrics,
                retry_s=1.0,
            ),
            warehouse=Warehouse(self.opened.chunks, self.opened.slots, self.opened.trust, self.metrics),
            record_file=self.opened.record_file,
            trial=run_trial,
            models=ModelInUse(
                self.switch, self.opened.slots, lambda *_: (Decision.ACCEPT, Decision.ACCEPT), lambda: None
            ),
            store=self.store,
            outside=outside,
            clock=Clock(),
            metrics=self.metrics,
            problems=self.problems,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.driver.run, args=(self.stop,))

    def run(self) -> Bench:
        self.thread.start()
        self.driver.post(LinkChanged(True))
        return self

    def tell(self, target: ReleaseTarget, **more: Any) -> None:
        self.driver.post(TrustMessage(encode(self.operator.trust)))
        self.driver.post(DesiredMessage(self.operator.wish(target, **more)))

    def reaches(self, state: UpdateState) -> None:
        until(lambda: self.driver.core.record.state is state, f"{state}; now {self.driver.core.record.state}")

    def close(self) -> None:
        self.stop.set()
        if self.thread.ident is not None:
            self.thread.join(WAIT_S)
            assert not self.thread.is_alive()
        self.store.close()

    def _follow(self, on: bool) -> None:
        self.following = on

    def _ask(self, model: Model, missing: tuple[str, ...]) -> None:
        for sha256 in () if self.deaf else missing:
            self.driver.post(ChunkMessage(sha256, self.operator.chunks[sha256]))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    root = tmp_path_factory.mktemp("bundles")
    return [
        make_package(disc_bundle(root, version=version, sharpness=sharpness), unchecked=True)
        for version, sharpness in (("1.0.0", 400.0), ("1.1.0", 420.0))
    ]


@pytest.fixture
def operator(packages: list[Package], tmp_path: Path) -> Operator:
    operator = Operator(packages)
    write_kit(tmp_path / "kit", operator.trust, packages[0].archive)
    return operator


@pytest.fixture
def bench(tmp_path: Path, operator: Operator) -> Iterator[Bench]:
    with closing(Bench(tmp_path, operator)) as bench:
        yield bench


def test_a_release_is_delivered_tried_and_confirmed_by_what_live_fields_show(bench: Bench, operator: Operator) -> None:
    from tests.unit.runtime.blob_bundle import draw_field

    bench.run().tell(operator.targets[1])
    bench.reaches(UpdateState.UNCONFIRMED)
    until(lambda: bench.switch.shadow is not None, "both read")
    assert bench.switch.model.digest == operator.targets[1].digest
    for seed in range(3):
        bench.switch.analyse(draw_field(seed=seed).image)
    bench.reaches(UpdateState.CONFIRMED)
    until(lambda: bench.switch.shadow is None, "the new one alone")
    until(lambda: bench.store.waiting().events == 5, "five steps are spooled")
    assert not bench.following
    text = bench.metrics.text().decode()
    assert 'ahs_edge_update_steps_total{code="",state="confirmed"} 1.0' in text
    assert 'ahs_edge_update_refused_total{code="E_SIG",what="trust"} 0.0' in text


def test_an_action_that_the_driver_does_not_know_is_an_error_and_not_nothing(bench: Bench) -> None:
    with pytest.raises(AssertionError):
        bench.driver._act("something new")  # type: ignore[arg-type]


def test_a_wish_that_comes_before_its_trust_is_looked_at_when_that_has_come(bench: Bench, operator: Operator) -> None:
    bench.deaf = True
    bench.run()
    bench.driver.post(DesiredMessage(operator.wish(operator.targets[1])))
    time.sleep(0.5)
    assert bench.driver.core.record.state is UpdateState.IDLE
    bench.driver.post(TrustMessage(encode(operator.trust)))
    bench.reaches(UpdateState.DOWNLOADING)


def test_a_wish_for_another_device_is_refused_and_seen(bench: Bench, operator: Operator) -> None:
    bench.run().tell(operator.targets[1], device="bench-2")
    bench.reaches(UpdateState.REJECTED)
    assert bench.driver.core.record.code is UpdateCode.SIGNATURE
    until(lambda: [problem.code for problem in bench.problems.now()] == [REFUSED], "a person sees it")


@pytest.mark.parametrize("wish_first", [True, False])
def test_at_a_start_with_expired_trust_the_wish_that_waits_for_it_is_told(
    bench: Bench, operator: Operator, wish_first: bool
) -> None:
    expired = TrustMessage(encode(operator.renewed(at=datetime.now(UTC) - timedelta(hours=5))))
    messages: list[DesiredMessage | TrustMessage] = [DesiredMessage(operator.wish(operator.targets[1])), expired]
    bench.run()
    for message in messages if wish_first else reversed(messages):
        bench.driver.post(message)
    bench.reaches(UpdateState.REJECTED)
    record = bench.driver.core.record
    assert (record.code, record.about and record.about.counter, record.concerns) == (UpdateCode.STALE, 2, "r-1")
    bench.driver.post(TrustMessage(encode(operator.trust)))
    bench.reaches(UpdateState.UNCONFIRMED)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff", b'{"roots": []}', b" " * 2_000_000])
def test_what_cannot_be_read_is_refused_and_the_thread_lives(bench: Bench, operator: Operator, payload: bytes) -> None:
    bench.run()
    bench.driver.post(TrustMessage(payload))
    bench.reaches(UpdateState.REJECTED)
    bench.tell(operator.targets[0])
    bench.driver.post(DesiredMessage(payload))
    bench.driver.post(ChunkMessage("a" * 64, payload))
    bench.driver.post(ChunkMessage("not a hash", payload))
    bench.tell(operator.targets[0], version=2)
    bench.reaches(UpdateState.CONFIRMED)


def test_a_chunk_larger_than_any_is_false_when_it_is_waited_for(bench: Bench, operator: Operator) -> None:
    bench.deaf = True
    bench.run().tell(operator.targets[1])
    until(lambda: bool(bench.driver.core.chunks_wanted), "chunks are wanted")
    wanted = next(iter(bench.driver.core.chunks_wanted))
    bench.driver.post(ChunkMessage(wanted, b"x" * (MAX_CHUNK_BYTES + 1)))
    bench.driver.post(ChunkMessage("b" * 64, b"x" * (MAX_CHUNK_BYTES + 1)))
    until(lambda: 'outcome="foreign"} 1.0' in bench.metrics.text().decode(), "the foreign one is counted")
    assert 'ahs_edge_update_chunks_total{outcome="false"} 1.0' in bench.metrics.text().decode()


def test_a_flood_of_chunks_leaves_room_for_trust_and_wishes(bench: Bench, operator: Operator) -> None:
    for number in range(INBOX_CHUNKS + 50):
        bench.driver.post(ChunkMessage(f"{number:064x}", b"x"))
    assert "ahs_edge_update_inbox_lost_total 50.0" in bench.metrics.text().decode()
    bench.run().tell(operator.targets[0])
    bench.reaches(UpdateState.CONFIRMED)


def test_nothing_is_done_before_the_record_is_on_the_disk(
    bench: Bench, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = bench.opened.record_file.save
    full = threading.Event()
    full.set()

    def save(record: Any) -> None:
        if full.is_set():
            raise StoreFault("no room")
        saving(record)

    monkeypatch.setattr(bench.opened.record_file, "save", save)
    monkeypatch.setattr("edge_agent.update.driver.SAVE_RETRY_S", 0.05)
    bench.run().tell(operator.targets[1])
    until(lambda: [problem.code for problem in bench.problems.now()] == [NOT_SAVED], "a person sees it")
    assert (bench.following, bench.switch.shadow) == (False, None)
    full.clear()
    bench.reaches(UpdateState.UNCONFIRMED)
    assert bench.problems.now() == ()


def test_an_end_on_purpose_is_no_unclean_start(tmp_path: Path, operator: Operator) -> None:
    with closing(Bench(tmp_path, operator)) as first:
        first.run().tell(operator.targets[1])
        first.reaches(UpdateState.UNCONFIRMED)
    for _ in range(5):
        with closing(Bench(tmp_path, operator, max_boots=1)) as again:
            again.run()
            assert again.driver.core.record.state is UpdateState.UNCONFIRMED
            assert again.switch.model.digest == operator.targets[1].digest


def test_a_wish_right_after_a_start_waits_for_the_slide_that_is_being_read(tmp_path: Path, operator: Operator) -> None:
    with closing(Bench(tmp_path, operator)) as first:
        first.run().tell(operator.targets[1], activation=Activation.DOWNLOAD)
        first.reaches(UpdateState.VERIFIED)
    with closing(Bench(tmp_path, operator, wait_for_slide_s=600.0)) as again:
        again.slide_open = True
        again.tell(operator.targets[1], version=2)  # all of it lies there before the thread has looked at anything
        again.run()
        again.reaches(UpdateState.WAITING)
        again.slide_open = False
        again.reaches(UpdateState.UNCONFIRMED)


def test_a_failed_trial_leaves_the_model_that_reads(tmp_path: Path, operator: Operator) -> None:
    with closing(Bench(tmp_path, operator, trial=TrialResult(UpdateCode.SELF_TEST, "no"))) as bench:
        bench.run().tell(operator.targets[1])
        bench.reaches(UpdateState.FAILED)
        assert bench.switch.model.digest == operator.targets[0].digest


def test_an_archive_that_is_another_one_by_the_time_of_its_trial_is_never_tried(
    tmp_path: Path, operator: Operator
) -> None:
    def altered(bench: Bench) -> None:
        archive = bench.opened.slots.archive(Model.of(operator.targets[1]))
        data = bytearray(archive.read_bytes())
        data[len(data) // 2] ^= 1
        archive.write_bytes(data)

    tried = threading.Event()
    with closing(Bench(tmp_path, operator, endless=tried)) as first:
        first.run().tell(operator.targets[1])
        first.reaches(UpdateState.TRIAL)
        assert tried.wait(WAIT_S)
        first.stop.set()
        first.thread.join(WAIT_S)
        altered(first)
    tried.clear()
    with closing(Bench(tmp_path, operator, endless=tried)) as again:
        again.run()
        again.reaches(UpdateState.FAILED)
        assert again.driver.core.record.code is UpdateCode.HASH
        assert not tried.is_set()


def test_a_late_answer_of_another_trial_ends_none_that_runs(tmp_path: Path, operator: Operator) -> None:
    tried, stopped = threading.Event(), threading.Event()
    with closing(Bench(tmp_path, operator, endless=tried, ended=stopped)) as bench:
        bench.run().tell(operator.targets[1])
        assert tried.wait(WAIT_S)
        bench.driver.post(TrialEnded(Model.of(operator.targets[0]).key, UpdateCode.LOAD, "late"))
        until(lambda: 'code="answer_late"} 1.0' in bench.metrics.text().decode(), "it is noted")
        assert not stopped.is_set()
        bench.tell(operator.targets[0], version=2)
        assert stopped.wait(WAIT_S), "the one that runs can still be ended"


def test_metadata_expire_with_the_first_of_them(operator: Operator) -> None:
    trust = operator.renewed(at=datetime(2026, 1, 1, tzinfo=UTC))
    assert earliest_expiry(trust) == datetime(2026, 1, 1, 1, tzinfo=UTC)
