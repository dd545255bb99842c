"""A release over a real broker into a real agent process: delivered, proven, confirmed, or refused with its code."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleet.contract import topics
from fleet.contract.codec import decode
from fleet.contract.messages import Activation, UpdateState
from fleet.contract.release import Trust
from fleet.local.broker import LocalBroker
from fleet.release.keys import make_keys
from fleet.release.repository import first_trust, releases_of
from tests.fakes.disc_releases import disc_bundle
from tests.integration.edge.conftest import EdgeProcess
from tests.integration.edge.release_cloud import PASSWORD, WAIT_S, ReleaseCloud

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]

DEVICE = "bench-1"
DEVICE_PASSWORD = "device-secret"
Make = Callable[..., EdgeProcess]
Pictures = Callable[[int], Path]
QUICK = {
    "soak_fields": 3,
    "soak_s": 0.0,
    "min_white_cells": 6,
    "max_latency_ratio": 100.0,  # a loaded machine is no slow model
    "wait_for_slide_s": 0.0,
    "need_first_s": 0.5,
    "need_last_s": 1.0,
    "trust_wait_s": 5.0,
}


FOREIGN = hashlib.sha256(b"another fleet's").hexdigest()


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.02)


def with_member(archive: bytes, name: str) -> bytes:
    """The same zip with one more member."""
    held = io.BytesIO(archive)
    with zipfile.ZipFile(held, "a") as opened:
        opened.writestr(name, b"print('out')")
    return held.getvalue()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start({"cloud": PASSWORD, DEVICE: DEVICE_PASSWORD})
    yield broker
    broker.stop()


@pytest.fixture
def cloud(broker: LocalBroker) -> Iterator[ReleaseCloud]:
    with closing(ReleaseCloud(broker, DEVICE)) as cloud:
        yield cloud


@pytest.fixture
def agent(edge: Make, cloud: ReleaseCloud, broker: LocalBroker, disc_pictures: Pictures, tmp_path: Path) -> Make:
    """Makes the agent with a factory kit of release 1, reading the same pictures under ever new names."""
    pictures = disc_pictures(12)
    for number in range(12, 1200):
        (pictures / f"field-{number:04d}.png").hardlink_to(pictures / f"field-{number % 12:03d}.png")
    token = tmp_path / "token"
    token.write_text(DEVICE_PASSWORD)
    cloud.release(disc_bundle(tmp_path / "one"))
    kit = cloud.kit(tmp_path / "kit")
    cloud.publish_trust()

    def make(**update: object) -> EdgeProcess:
        return edge(
            DEVICE,
            source={"spec": str(pictures), "fields_per_s": 8},
            mqtt={"host": broker.host, "port": broker.port, "tls": False, "token_file": str(token)},
            slide={"target_white_cells": 10_000},
            update={"factory": str(kit), **QUICK, **update},
        )

    return make


def test_a_release_is_fetched_tried_watched_and_confirmed(agent: Make, cloud: ReleaseCloud, tmp_path: Path) -> None:
    started = agent().start()
    before = cloud.wait(lambda r: r.release_counter == 1, "the factory model runs")
    assert before.update_state is UpdateState.IDLE
    better = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", sharpness=420.0))
    cloud.publish_trust()
    cloud.want(better)
    after = cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED, "confirmed")
    assert (after.active.digest, after.release_counter, after.previous) == (better.digest, 2, before.active.digest)
    assert (after.rollout, after.desired_version, after.update_code) == ("rollout-1", 1, None)
    assert after.soak is not None
    assert (after.soak.fields >= 3, after.soak.disagreement_ratio) == (True, 0.0)
    assert started.stop() == 0
    path = ["downloading", "verified", "trial", "unconfirmed", "confirmed"]
    assert [line["after"] for line in started.events("update_stepped")] == path


def test_killed_in_every_state_it_goes_on_and_nothing_is_told_twice(
    agent: Make, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    process = agent(soak_fields=16, wait_for_slide_s=6.0, max_boots=5).start()
    cloud.wait(lambda r: r.release_counter == 1, "the factory model runs")
    better = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", sharpness=420.0))
    cloud.publish_trust()

    def killed_in(state: UpdateState) -> None:
        cloud.wait(lambda r: r.update_state is state, state.value)
        process.kill()
        cloud.forget()
        process.start()

    known = {chunk.sha256 for chunk in releases_of(cloud.trust)[0].chunks}
    held = sorted({chunk.sha256 for chunk in better.chunks} - known)[:1]
    cloud.tamper = lambda sha256, data: None if sha256 in held else data
    cloud.want(better, Activation.DOWNLOAD)
    cloud.wait(lambda r: r.update_state is UpdateState.DOWNLOADING, "begun")
    until(lambda: len(cloud.needs) >= 2, "asked again")
    assert set(cloud.needs[-1].missing) == set(held), "only for what is missing"
    killed_in(UpdateState.DOWNLOADING)
    cloud.tamper = lambda sha256, data: data
    killed_in(UpdateState.VERIFIED)
    process.wait_for("field_stored", count=len(process.events("field_stored")) + 2)
    cloud.want(better)
    killed_in(UpdateState.WAITING)
    killed_in(UpdateState.TRIAL)
    killed_in(UpdateState.UNCONFIRMED)
    after = cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED, "confirmed")
    assert (after.active.digest, after.release_counter) == (better.digest, 2)
    until(lambda: cloud.path()[-1:] == ["confirmed"], "the last step is told")
    assert process.stop() == 0
    path = [state for state in cloud.path() if state not in ("waiting", "downloading")]
    assert path[-3:] == ["trial", "unconfirmed", "confirmed"]
    assert path.count("trial") == path.count("unconfirmed") == path.count("confirmed") == 1
    numbers = [(step.boot, step.seq) for step in cloud.steps]
    assert len(numbers) == len(set(numbers))


def test_a_model_with_permuted_classes_is_stopped_by_its_trial(
    agent: Make, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    agent().start()
    bad = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", permuted=True))
    cloud.publish_trust()
    cloud.want(bad)
    report = cloud.wait(lambda r: r.update_state is UpdateState.FAILED, "failed")
    assert (report.update_code, report.release_counter, report.pending) == ("E_SELFTEST", 1, bad.digest)


def test_a_model_that_passes_its_trial_and_disagrees_on_live_fields_is_taken_back(
    agent: Make, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    process = agent().start()
    good = cloud.wait(lambda r: r.release_counter == 1, "the factory model runs").active
    sly = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", permuted=True, sly=True))
    cloud.publish_trust()
    cloud.want(sly)
    report = cloud.wait(lambda r: r.update_state is UpdateState.ROLLED_BACK, "rolled back")
    assert (report.update_code, report.pending) == ("E_QUALITY", sly.digest)
    back = cloud.wait(lambda r: r.update_state is UpdateState.ROLLED_BACK and r.active == good, "the old one reads")
    assert back.release_counter == 1
    assert report.soak is not None
    assert (report.soak.disagreement_ratio or 0.0) > 0.9
    begun = len(process.events("field_stored"))
    process.wait_for("field_stored", count=begun + 3)


def test_bytes_that_are_not_what_they_say_are_refused_and_foreign_ones_passed_over(
    agent: Make, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    process = agent(max_bad_chunks=4).start()
    cloud.wait(lambda r: r.release_counter == 1, "the factory model runs")
    better = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", sharpness=420.0))
    cloud.publish_trust()
    cloud.chunks[FOREIGN] = b"another fleet's"

    def flipped(sha256: str, data: bytes) -> bytes:
        cloud.publish(topics.chunk(FOREIGN), cloud.chunks[FOREIGN], qos=0)
        return bytes([data[0] ^ 1]) + data[1:]

    cloud.tamper = flipped
    cloud.want(better)
    report = cloud.wait(lambda r: r.update_state is UpdateState.REJECTED, "refused")
    assert (report.update_code, report.release_counter) == ("E_HASH", 1)
    cloud.tamper = lambda sha256, data: data
    cloud.forget()
    cloud.want(better, rollout="rollout-2")
    cloud.wait(lambda r: r.desired_version == 2, "seen")
    assert process.events("update_stepped")[-1]["after"] == "rejected", "not again while the signed list is the same"
    best = cloud.release(disc_bundle(tmp_path / "three", version="1.2.0", sharpness=440.0))
    cloud.publish_trust()
    cloud.want(best, rollout="rollout-3")
    cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED and r.active.digest == best.digest, "the next one")


def test_what_must_not_be_installed_is_refused_each_with_its_own_code(
    agent: Make, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    process = agent().start()
    cloud.wait(lambda r: r.release_counter == 1, "the factory model runs")

    def refused(code: str) -> None:
        cloud.wait(lambda r: (r.update_state, r.update_code) == (UpdateState.REJECTED, code), code)
        cloud.forget()

    two = cloud.release(disc_bundle(tmp_path / "two", version="1.1.0", sharpness=420.0))
    # expired: signed long ago for an hour
    cloud.publish_trust(cloud.renewed(at=datetime.now(UTC) - timedelta(hours=5)))
    cloud.want(two)
    cloud.publish_trust(cloud.renewed(at=datetime.now(UTC) - timedelta(hours=5)))
    refused("E_STALE")
    # a wrong key: another fleet's trust, then a wish signed by another online key
    cloud.publish_trust(first_trust(make_keys(), datetime.now(UTC)))
    refused("E_SIG")
    cloud.publish_trust()
    cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED and r.release_counter == 2, "good trust, good release")
    cloud.forget()
    cloud.want(two, keys=make_keys())
    refused("E_SIG")
    cloud.want(two)
    # older: the list of before, played again; then an older release under a newer wish
    three = cloud.release(disc_bundle(tmp_path / "three", version="1.2.0", sharpness=440.0))
    cloud.publish_trust()
    cloud.want(three)
    cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED and r.release_counter == 3, "the third")
    cloud.forget()
    # an older list alone says nothing; where a wish needs a newer one it has its code
    cloud.publish_trust(decode(Trust, (tmp_path / "kit" / "trust.json").read_bytes()))
    four = three.model_copy(update={"counter": 9})
    cloud.want(four, rollout="rollout-4")
    refused("E_ROLLBACK")
    cloud.want(three)
    cloud.publish_trust()
    cloud.wait(lambda r: r.update_state is UpdateState.CONFIRMED and r.release_counter == 3, "good again")
    cloud.forget()
    one = releases_of(cloud.trust)[0]
    cloud.want(one, rollout="rollout-2")
    refused("E_ROLLBACK")
    # signed, and reaching out of its folder
    escaping = cloud.release_unchecked(with_member(cloud.archive, "../../evil.py"), three)
    cloud.publish_trust()
    cloud.want(escaping, rollout="rollout-3")
    refused("E_PATH")
    assert not list(tmp_path.rglob("evil.py"))
    begun = len(process.events("field_stored"))
    process.wait_for("field_stored", count=begun + 3)
    assert process.stop() == 0
