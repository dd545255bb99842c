"""A release over a real broker into a real agent process: delivered, proven, confirmed, or refused with its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.contract.messages import UpdateState
from fleet.local.broker import LocalBroker
from tests.fakes.disc_releases import disc_bundle
from tests.integration.edge.conftest import EdgeProcess
from tests.integration.edge.release_cloud import PASSWORD, ReleaseCloud

pytestmark = pytest.mark.mosquitto

DEVICE = "bench-1"
DEVICE_PASSWORD = "device-secret"
Make = Callable[..., EdgeProcess]
Pictures = Callable[[int], Path]
QUICK = {
    "soak_fields": 3,
    "soak_s": 0.0,
    "min_white_cells": 6,
    "wait_for_slide_s": 0.0,
    "need_first_s": 0.5,
    "need_last_s": 1.0,
    "trust_wait_s": 5.0,
}


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
