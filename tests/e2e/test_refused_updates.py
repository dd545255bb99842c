"""What must not be installed: a real cloud, broker and agent; each refused with its own code, which the page tells.

Whoever attacks here has what the case needs and no more: an account that may publish chunks, the cloud's image store,
its database, or the release key. The two programs are as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest
from tuf.api.metadata import Targets

from cloud.auth.tokens import SYSTEM
from cloud.releases.store import add_release
from cloud.storage.images_fsspec import ImageStore
from fleet.contract.release import ReleaseTarget
from fleet.local.system import SITE, Agent, LocalSystem, run_module
from fleet.release.chunks import cut
from fleet.release.documents import read_document, target_of
from fleet.release.keys import make_key
from fleet.release.repository import releases_of
from tests.fakes.refusal_scene import CHAMPION, NEWEST, Intruder, Scene, in_a_year, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto, pytest.mark.timeout(600)]

UPDATE = {
    "soak_fields": 3,
    "soak_s": 0.0,
    "min_white_cells": 6,
    "max_latency_ratio": 100.0,  # a loaded machine is no slow model
    "wait_for_slide_s": 0.0,
    "need_first_s": 0.5,
    "need_last_s": 1.0,
    "trust_wait_s": 5.0,
    "max_bad_chunks": 4,
}
UNSIGNED = b"a piece of what another fleet runs"
DEVICES = ("flipped", "foreign", "passing", "forged", "expired", "ready", NEWEST, "escaping", "away")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    root = tmp_path_factory.mktemp("bundles")
    sharp = {"1.0.0": 400.0, "1.1.0": 420.0, "1.2.0": 440.0}
    return {version: disc_bundle(root, version=version, sharpness=value) for version, value in sharp.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import fields_under_new_names

    return fields_under_new_names(tmp_path_factory.mktemp("pictures"), total=2000)


@pytest.fixture(scope="module")
def scene(bundles: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("refused") / "system"
    cloud = {"worker": {"lease_s": 3.0, "rollouts_period_s": 0.3}, "releases": {"collect_s": 0.1, "repeat_s": 0.5}}
    with LocalSystem(folder, cloud_settings=cloud) as system:
        system.edge_bundle = bundles[CHAMPION]
        system.start_cloud()
        newest = folder / "newest-kit"
        for device in DEVICES:
            settings: dict[str, dict[str, Any]] = {
                "source": {"spec": str(pictures), "fields_per_s": 4},
                "sampling": {"per_hour": 0, "audit_ratio": 0.0},
                "slide": {"target_white_cells": 10_000},
                "inference": {"threads": 1},
                "run": {"self_test": False},
                "update": {**UPDATE, **({"factory": str(newest)} if device == NEWEST else {})},
            }
            system.add_agent(device, settings)
        system.start_broker()
        scene = Scene(system, bundles)
        scene.release("1.1.0")
        scene.release("1.2.0")
        run_module(
            *("fleet", "factory", "--bundle", str(bundles["1.2.0"])),
            *("--keys", str(system.keys), "--out", str(newest)),
        )
        yield scene


@pytest.fixture
def two(scene: Scene) -> ReleaseTarget:
    return releases_of(scene.trust())[1]


@pytest.fixture
def intruder(scene: Scene) -> Iterator[Intruder]:
    intruder = Intruder(scene.system)
    yield intruder
    intruder.close()


@pytest.fixture
def flipped(scene: Scene, two: ReleaseTarget) -> Iterator[tuple[str, bytes]]:
    """One bit is flipped in the cloud's store, in a chunk of release 2 that no device has: its name, and its bytes."""
    one = {chunk.sha256 for chunk in releases_of(scene.trust())[0].chunks}
    offsets = accumulate((chunk.size_bytes for chunk in two.chunks), initial=0)
    placed = [(c, at) for c, at in zip(two.chunks, offsets, strict=False) if c.sha256 not in one]
    chunk, start = max(placed, key=lambda each: each[0].size_bytes)
    stored = archive_of(scene, two)
    whole = stored.read_bytes()
    middle = start + chunk.size_bytes // 2
    stored.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    yield chunk.sha256, stored.read_bytes()[start : start + chunk.size_bytes]
    stored.write_bytes(whole)


def archive_of(scene: Scene, release: ReleaseTarget) -> Path:
    hashes = read_document(Targets, scene.trust().targets).signed.targets[release.path].hashes
    return scene.archive(hashes["sha256"])


def test_a_flipped_bit(scene: Scene, two: ReleaseTarget, flipped: tuple[str, bytes], intruder: Intruder) -> None:
    intruder.answers["flipped"] = [flipped]
    with scene.reading("flipped"):
        rollout = scene.roll_out(two, "flipped")
        scene.refused_on_the_page(rollout, "flipped", "E_HASH")
        scene.stopped_with(rollout, "flipped", "E_HASH")
        asked = intruder.asked.count("flipped")
        assert asked >= UPDATE["max_bad_chunks"], "asked for again each time"
        scene.reads_on("flipped")
        assert intruder.asked.count("flipped") == asked, "and not for ever"
        told = [text.split(",")[0] for code, text in scene.steps("flipped") if code == "E_HASH"]
        assert told == ["downloading to downloading", "downloading to rejected"]


def test_a_foreign_chunk(scene: Scene, two: ReleaseTarget, flipped: tuple[str, bytes], intruder: Intruder) -> None:
    intruder.answers["foreign"] = [(hashlib.sha256(UNSIGNED).hexdigest(), UNSIGNED)]
    with scene.reading("foreign"):
        rollout = scene.roll_out(two, "foreign")
        scene.refused_on_the_page(rollout, "foreign", "E_CHUNK")
        scene.stopped_with(rollout, "foreign", "E_CHUNK")
        told = [text.split(",")[0] for code, text in scene.steps("foreign") if code == "E_CHUNK"]
        assert told == ["downloading to downloading", "downloading to rejected"]


def test_a_flipped_bit_and_a_foreign_chunk_that_pass_are_told_and_cost_nothing(
    scene: Scene, two: ReleaseTarget, flipped: tuple[str, bytes], intruder: Intruder
) -> None:
    stored = archive_of(scene, two)
    intruder.answers["passing"] = [flipped, (hashlib.sha256(UNSIGNED).hexdigest(), UNSIGNED)]
    with scene.reading("passing") as agent:
        rollout = scene.roll_out(two, "passing")
        wait_until(lambda: "passing" in intruder.asked, why="it asks")
        intruder.answers.clear()
        damaged = stored.read_bytes()
        at = damaged.index(flipped[1])
        middle = at + len(flipped[1]) // 2
        stored.write_bytes(damaged[:middle] + bytes([damaged[middle] ^ 1]) + damaged[middle + 1 :])
        wait_until(
            lambda: scene.system.running_digest(agent) == two.digest, why=lambda: f"it runs: {scene.steps('passing')}"
        )
        wait_until(lambda: "confirmed" in scene.shown(rollout, "passing"), why="the page says confirmed")
        wait_until(lambda: any("to confirmed" in text for _, text in scene.steps("passing")), why="all steps are told")
    codes = [code for code, _ in scene.steps("passing") if code.startswith("E_")]
    assert sorted(codes) == ["E_CHUNK", "E_HASH"]


def test_a_wrong_key(scene: Scene, two: ReleaseTarget) -> None:
    scene.was_seen("forged")
    rollout = scene.roll_out(two, "forged")
    wait_until(lambda: scene.offered(rollout, "forged"), why="the wish is published")
    scene.signed_list(expires=in_a_year(), signer=make_key())
    try:
        with scene.reading("forged"):
            scene.refused_on_the_page(rollout, "forged", "E_SIG")
            scene.stopped_with(rollout, "forged", "E_SIG")
    finally:
        scene.good_list()


def test_expired_metadata(scene: Scene, two: ReleaseTarget) -> None:
    scene.was_seen("expired")
    rollout = scene.roll_out(two, "expired")
    wait_until(lambda: scene.offered(rollout, "expired"), why="the wish is published")
    scene.signed_list(expires=datetime(2026, 1, 1, tzinfo=UTC))
    try:
        with scene.reading("expired"):
            scene.refused_on_the_page(rollout, "expired", "E_STALE")
    finally:
        scene.good_list()


def test_metadata_that_expire_while_a_release_waits_for_its_turn(scene: Scene, two: ReleaseTarget) -> None:
    """Downloaded and verified, then the workstation is switched off; the list has expired when it starts again."""
    scene.was_seen("away")
    with scene.reading("ready"):
        rollout = scene.roll_out(two, "away", "ready")
        wait_until(lambda: any("to verified" in text for _, text in scene.steps("ready")), why="it is downloaded")
    scene.signed_list(expires=datetime(2026, 1, 1, tzinfo=UTC))
    try:
        with scene.reading("ready") as agent:
            scene.refused_on_the_page(rollout, "ready", "E_STALE")
            asked = questions_of(agent)
            scene.good_list()
            wait_until(
                lambda: scene.steps("ready")[-1][1].startswith("downloading to verified"),
                why="a fresh list, and it is ready again",
            )
            assert questions_of(agent) == asked, "what is here is not fetched a second time"
    finally:
        scene.good_list()


def questions_of(agent: Agent) -> float:
    """How often it has asked for chunks since its start, by its own figures."""
    text = httpx.get(f"{agent.console_url}metrics").text
    figure = next(line for line in text.splitlines() if line.startswith("ahs_edge_update_asked_total "))
    return float(figure.split()[1])


def test_an_older_counter(scene: Scene, two: ReleaseTarget) -> None:
    with scene.reading(NEWEST):
        rollout = scene.roll_out(two, NEWEST)
        scene.refused_on_the_page(rollout, NEWEST, "E_ROLLBACK")
        scene.stopped_with(rollout, NEWEST, "E_ROLLBACK")


def test_a_bundle_with_a_path_that_escapes(scene: Scene) -> None:
    before = scene.trust()
    like = releases_of(before)[-1]
    held = io.BytesIO(archive_of(scene, like).read_bytes())
    with zipfile.ZipFile(held, "a") as opened:
        opened.writestr("../../evil.py", b"print('out')")
    archive = held.getvalue()
    evil = like.model_copy(
        update={"counter": like.counter + 1, "size_bytes": len(archive), "chunks": tuple(cut(archive))}
    )
    store = ImageStore(f"file://{scene.system.folder / 'cloud' / 'images'}")
    sha256 = asyncio.run(store.put(archive))
    scene.signed_list(expires=in_a_year(), more={evil.path: target_of(evil, archive)})
    now = datetime.now(UTC)
    evidence = json.loads((scene.system.folder / "evidence-1.2.0.json").read_text())
    scene.in_database(
        lambda session: add_release(
            session, evil, archive_sha256=sha256, evidence=evidence, site_id=SITE, by=SYSTEM.id, now=now
        )
    )
    with scene.reading("escaping"):
        rollout = scene.roll_out(evil, "escaping")
        scene.refused_on_the_page(rollout, "escaping", "E_PATH")
        scene.stopped_with(rollout, "escaping", "E_PATH")
    assert not list(scene.system.folder.rglob("evil.py"))
