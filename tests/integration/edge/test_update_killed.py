"""SIGKILL of the agent in every state of the update, between the record and what follows from it: nothing twice."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.store.store_sqlite import FILE_NAME
from edge_agent.update.states import RESTING, TRANSITIONS
from fleet.contract.messages import Activation, UpdateState, UpdateStep
from fleet.contract.release import ReleaseTarget
from fleet.local.broker import LocalBroker
from fleet.release.keys import make_keys
from fleet.release.repository import releases_of
from tests.integration.edge.conftest import EdgeProcess
from tests.integration.edge.release_cloud import PASSWORD, WAIT_S, ReleaseCloud

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]

S = UpdateState
DEVICE = "bench-1"
DEVICE_PASSWORD = "device-secret"
QUICK = {
    "soak_fields": 2,
    "soak_s": 0.0,
    "min_white_cells": 4,
    "max_latency_ratio": 100.0,  # a loaded machine is no slow model
    "wait_for_slide_s": 0.5,
    "need_first_s": 0.5,
    "need_last_s": 1.0,
    "trust_wait_s": 5.0,
    "max_boots": 5,
}
Make = Callable[..., EdgeProcess]
Bundles = dict[str, Path]


@dataclass
class Bench:
    """One device, its cloud, and the releases that it may be offered."""

    agent: EdgeProcess
    cloud: ReleaseCloud
    bundles: Bundles

    def release(self, name: str) -> ReleaseTarget:
        """Signs a bundle and tells everybody."""
        release = self.cloud.release(self.bundles[name])
        self.cloud.publish_trust()
        return release

    def hold_back_a_chunk(self, release: ReleaseTarget) -> None:
        """The delivery of the release does not end."""
        before = {chunk.sha256 for each in releases_of(self.cloud.trust)[:-1] for chunk in each.chunks}
        held = min(chunk.sha256 for chunk in release.chunks if chunk.sha256 not in before)
        self.cloud.tamper = lambda sha256, data: None if sha256 == held else data

    def on_disk(self) -> set[str]:
        """Chunks that the device has: as files, or inside installed archives."""
        update = self.agent.folder / "data" / "update"
        names = {path.name for path in (update / "chunks").glob("[0-9a-f]*")}
        for path in (update / "slots").glob("*/release.json"):
            installed = ReleaseTarget.model_validate_json(path.read_bytes())
            names |= {chunk.sha256 for chunk in installed.chunks}
        return names

    def boot(self) -> int:
        """Which start of the device was the last; 0 before any. Each question says in which it was asked."""
        store = self.agent.folder / "data" / FILE_NAME
        if not store.exists():
            return 0
        with closing(sqlite3.connect(store)) as opened:
            return int(opened.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()[0])

    def asked_between(self, before: int, last: int) -> set[str]:
        """Chunks that the device has asked for in the starts after `before`, up to `last`."""
        asked = (need for need in self.cloud.needs if before < need.boot <= last)
        return {sha256 for need in asked for sha256 in need.missing}


def offer(bench: Bench) -> None:
    """A good release."""
    bench.cloud.want(bench.release("two"))


def offer_permuted(bench: Bench) -> None:
    """A release that fails its trial."""
    bench.cloud.want(bench.release("permuted"))


def offer_sly(bench: Bench) -> None:
    """A release that passes its trial and disagrees on live fields."""
    bench.cloud.want(bench.release("sly"))


def forge(bench: Bench) -> None:
    """A wish that another key signed."""
    bench.cloud.want(bench.release("two"), keys=make_keys())


def take_back(bench: Bench) -> None:
    """A release that is not wanted any more while it arrives."""
    two = bench.release("two")
    bench.hold_back_a_chunk(two)
    bench.cloud.want(two, Activation.DOWNLOAD)
    bench.cloud.wait(lambda r: r.update_state is S.DOWNLOADING, "it arrives")
    bench.cloud.want(None)


def offer_another(bench: Bench) -> None:
    """Another release is wanted while one arrives."""
    two = bench.release("two")
    bench.hold_back_a_chunk(two)
    bench.cloud.want(two)
    bench.cloud.wait(lambda r: r.update_state is S.DOWNLOADING, "it arrives")
    three = bench.release("three")
    bench.cloud.tamper = lambda sha256, data: data
    bench.cloud.want(three, rollout="rollout-2")


@dataclass(frozen=True)
class Way:
    """What happens to the device, in which states it is killed, once each, and where it ends.

    Attributes:
        code: of the end.
        counter: of the model that runs at the end.
    """

    act: Callable[[Bench], None]
    killed: tuple[UpdateState, ...]
    ends: UpdateState
    code: str | None = None
    counter: int = 1


WAYS = (
    Way(
        offer, (S.IDLE, S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED, S.CONFIRMED), S.CONFIRMED, None, 2
    ),
    Way(offer_permuted, (S.FAILED,), S.FAILED, "E_SELFTEST"),
    Way(offer_sly, (S.ROLLED_BACK,), S.ROLLED_BACK, "E_QUALITY"),
    Way(forge, (S.REJECTED,), S.REJECTED, "E_SIG"),
    Way(take_back, (S.CANCELLED,), S.CANCELLED),
    Way(offer_another, (S.SUPERSEDED,), S.CONFIRMED, None, 3),
)


def test_every_state_of_the_table_is_killed() -> None:
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert sorted(state for way in WAYS for state in way.killed) == sorted(states)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    root = tmp_path_factory.mktemp("bundles")
    return {
        "one": disc_bundle(root),
        "two": disc_bundle(root, version="1.1.0", sharpness=420.0),
        "three": disc_bundle(root, version="1.2.0", sharpness=440.0),
        "permuted": disc_bundle(root, version="1.3.0", permuted=True),
        "sly": disc_bundle(root, version="1.4.0", permuted=True, sly=True),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import fields_under_new_names

    return fields_under_new_names(tmp_path_factory.mktemp("pictures"), total=1500)


@pytest.fixture
def bench(edge: Make, bundles: Bundles, pictures: Path, tmp_path: Path) -> Iterator[Bench]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start({"cloud": PASSWORD, DEVICE: DEVICE_PASSWORD})
    token = tmp_path / "token"
    token.write_text(DEVICE_PASSWORD)
    try:
        with closing(ReleaseCloud(broker, DEVICE)) as cloud:
            cloud.release(bundles["one"])
            kit = cloud.kit(tmp_path / "kit")
            cloud.publish_trust()
            agent = edge(
                DEVICE,
                source={"spec": str(pictures), "fields_per_s": 8},
                mqtt={"host": broker.host, "port": broker.port, "tls": False, "token_file": str(token)},
                slide={"target_white_cells": 10_000},
                update={"factory": str(kit), **QUICK},
            )
            yield Bench(agent, cloud, bundles)
    finally:
        broker.stop()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(state.value for state in way.killed))
def test_killed_with_the_record_saved_and_nothing_done_it_goes_on_and_does_nothing_twice(
    bench: Bench, way: Way, tmp_path: Path
) -> None:
    agent, cloud = bench.agent, bench.cloud
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True
            cloud.wait(lambda r: r.release_counter == 1, "the factory model runs")
            way.act(bench)

    kills: list[tuple[int, set[str]]] = []
    for state in way.killed:
        agent.start(("tests.fakes.doomed_agent", state.value, str(tmp_path / f"killed-{state.value}")))
        if state is not S.IDLE:
            begin()
        assert agent.wait(WAIT_S) == -signal.SIGKILL
        kills.append((bench.boot(), bench.on_disk()))
        cloud.forget()
    agent.start()
    begin()
    end = (way.ends, way.code, way.counter)
    cloud.wait(lambda r: (r.update_state, r.update_code, r.release_counter) == end, f"{end}")
    until(lambda: told(cloud)[-1:] == [way.ends], lambda: f"the last step is told: {cloud.path()}")
    stored = len(agent.events("field_stored"))
    agent.wait_for("field_stored", count=stored + 2)
    assert agent.stop() == 0

    # By the start in which it was asked: a question that was under way at the kill may arrive late.
    boots = [boot for boot, _ in kills] + [bench.boot()]
    for (killed, here), last in zip(kills, boots[1:], strict=True):
        assert not bench.asked_between(killed, last) & here, "what is here is not fetched a second time"
    steps = ordered(cloud)
    assert all(one.after is other.before for one, other in pairwise(steps)), f"no step is lost: {cloud.path()}"
    outcomes = [(step.rollout, step.counter, step.after) for step in steps if step.after in RESTING]
    assert len(outcomes) == len(set(outcomes)), f"each attempt ends once: {outcomes}"
    numbers = [(step.boot, step.seq) for step in steps]
    assert len(numbers) == len(set(numbers))


def ordered(cloud: ReleaseCloud) -> list[UpdateStep]:
    """The steps that were told, in the order in which they happened."""
    return sorted(cloud.steps, key=lambda step: (step.boot, step.seq))


def told(cloud: ReleaseCloud) -> list[UpdateState]:
    return [step.after for step in ordered(cloud)]


def until(what: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
