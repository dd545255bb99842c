"""What must not be installed: a real cloud, broker and agent; each refused with its own code, which the page tells.

Whoever attacks here has what the case needs and no more: an account that may publish chunks, the cloud's image store,
its database, or the release key. The two programs are as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from securesystemslib.signer import CryptoSigner
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from tuf.api.metadata import Metadata, Targets

from cloud.auth.tokens import SYSTEM
from cloud.config import DatabaseSettings
from cloud.releases.store import add_release, read_trust, save_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.tables import DesiredRow, DeviceEventRow
from cloud.web.rollout_view import CODES
from fleet.contract import topics
from fleet.contract.codec import decode
from fleet.contract.http import RolloutCreate
from fleet.contract.messages import Need, UpdateState
from fleet.contract.release import ReleaseTarget, RolloutState, Thresholds, Trust, WavePlan
from fleet.local.broker import CLOUD_USER
from fleet.local.system import SITE, Agent, LocalSystem, run_module
from fleet.release.chunks import cut
from fleet.release.documents import read_document, target_of, text_of
from fleet.release.keys import load_keys, make_key
from fleet.release.repository import releases_of, resigned
from models.bundle import read_bundle
from models.runtime.imaging import encode_png

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto, pytest.mark.timeout(600)]

T = TypeVar("T")
WAIT_S = 120.0
CHAMPION = "1.0.0"
UPDATE = {
    "soak_fields": 3,
    "soak_s": 0.0,
    "min_white_cells": 6,
    "wait_for_slide_s": 0.0,
    "need_first_s": 0.5,
    "need_last_s": 1.0,
    "trust_wait_s": 5.0,
    "max_bad_chunks": 4,
}
UNSIGNED = b"a piece of what another fleet runs"
NEWEST = "newest"
"""The device that came with release 3."""
DEVICES = ("flipped", "foreign", "passing", "forged", "expired", "ready", NEWEST, "escaping", "away")


def wait_until(what: Callable[[], bool], *, why: Callable[[], str] | str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        text = why if isinstance(why, str) else why()
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s in vain: {text}"
        time.sleep(0.1)


class Scene:
    """The running system, with what an operator and an attacker do to it."""

    def __init__(self, system: LocalSystem, bundles: dict[str, Path]) -> None:
        self.system = system
        self.bundles = bundles
        self.keys = load_keys(system.keys)
        self.old = read_bundle(bundles[CHAMPION]).digest

    # --- operator ---------------------------------------------------------------------------------------------------

    def release(self, version: str) -> ReleaseTarget:
        """Signs a bundle and gives it to the cloud, by the command that people use."""
        evidence = self.system.folder / f"evidence-{version}.json"
        document = {"schema": "ahs.evidence/1", "candidate": read_bundle(self.bundles[version]).digest}
        document |= {"champion": self.old, "frozen_set": "0" * 64}
        evidence.write_text(json.dumps(document | {"accepted": True, "figures": {"made for": "this test"}}))
        run_module(
            *("fleet", "release", "create", "--bundle", str(self.bundles[version]), "--keys", str(self.system.keys)),
            *("--evidence", str(evidence), *self.system.cloud_options()),
        )
        return releases_of(self.trust())[-1]

    def roll_out(self, release: ReleaseTarget, *waves: str) -> str:
        """Starts a rollout, one device a wave; its id."""
        thresholds = Thresholds(soak_s=0.0, step_deadline_s=300.0, wave_deadline_s=600.0, min_fields=3)
        plan = tuple(WavePlan(devices=(device,)) for device in waves)
        wanted = RolloutCreate(counter=release.counter, devices=waves, waves=plan, thresholds=thresholds)
        with self.system.client() as client:
            return client.create_rollout(wanted).summary.id

    @contextmanager
    def reading(self, device: str) -> Iterator[Agent]:
        """The device's agent runs, and the cloud knows what with."""
        agent = self.system.agents[device]
        self.system.start_agent(agent)
        try:
            wait_until(lambda: self.system.running_digest(agent) is not None, why=f"{device} reports")
            yield agent
        finally:
            assert agent.part is not None
            agent.part.stop()

    def was_seen(self, device: str) -> None:
        """A device that has reported once and is away now."""
        with self.reading(device):
            pass

    # --- the cloud's database and store -----------------------------------------------------------------------------

    def in_database(self, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One transaction on the database that the cloud works on at this moment."""

        async def run() -> T:
            database = self.system.folder / "cloud" / "cloud.db"
            storage = Storage(f"sqlite+aiosqlite:///{database}", DatabaseSettings())
            try:
                async with storage.writing() as session:
                    return await act(session)
            finally:
                await storage.close()

        return asyncio.run(run())

    def trust(self) -> Trust:
        found = self.in_database(read_trust)
        assert found is not None
        return found

    def save_trust(self, after: Trust, *, before: Trust) -> None:
        now = datetime.now(UTC)
        self.in_database(lambda session: save_trust(session, before, after, by=SYSTEM.id, now=now))

    def signed_list(
        self, *, expires: datetime, signer: CryptoSigner | None = None, more: dict[str, Any] | None = None
    ) -> None:
        """Writes the next list of releases past every check of the cloud; `signer` instead of the release key."""
        before = self.trust()
        known = read_document(Targets, before.targets).signed
        targets = Targets(version=known.version + 1, expires=expires, targets={**known.targets, **(more or {})})
        honest, other = Metadata(targets), Metadata(targets)
        honest.sign(self.keys.release)
        after = resigned(
            before.model_copy(update={"targets": text_of(honest)}),
            self.keys.online,
            datetime.now(UTC),
            timestamp_for=timedelta(days=1),
            snapshot_for=timedelta(days=7),
        )
        if signer is not None:
            other.sign(signer)
            after = after.model_copy(update={"targets": text_of(other)})
        self.save_trust(after, before=before)

    def good_list(self) -> None:
        self.signed_list(expires=in_a_year())

    def offered(self, rollout: str, device: str) -> bool:
        """Whether the cloud has signed and published a wish of this rollout for the device."""

        async def look(session: AsyncSession) -> bool:
            row = await session.get(DesiredRow, device)
            return row is not None and row.document["rollout"] == rollout and row.published_version == row.version

        return self.in_database(look)

    def steps(self, device: str) -> list[tuple[str, str]]:
        """Code and text of the update's steps that the device has told."""

        async def look(session: AsyncSession) -> list[tuple[str, str]]:
            found = select(DeviceEventRow.code, DeviceEventRow.text).where(
                DeviceEventRow.device == device, DeviceEventRow.kind == "update"
            )
            return [(str(code), str(text)) for code, text in (await session.execute(found.order_by(DeviceEventRow.id)))]

        return self.in_database(look)

    def archive(self, sha256: str) -> Path:
        return self.system.folder / "cloud" / "images" / sha256[:2] / sha256[2:4] / sha256

    # --- what people see --------------------------------------------------------------------------------------------

    def page(self, rollout: str) -> str:
        """The rollout's page, as a browser gets it after the sign-in."""
        with httpx.Client(base_url=self.system.cloud_url, timeout=30.0) as http:
            origin = {"Origin": self.system.cloud_url}
            signed = http.post("/sign-in", data={"token": self.system.admin_token}, headers=origin)
            assert signed.status_code == 303, signed.text
            answer = http.get(f"/rollouts/{rollout}")
            assert answer.status_code == 200, answer.text
            return answer.text

    def shown(self, rollout: str, device: str) -> str:
        """What the page says of the device."""
        found = re.search(rf'<li class="wave-device[^"]*" data-device="{device}".*?</li>', self.page(rollout), re.S)
        assert found is not None, f"{device} is on the page"
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[0])).split())

    def refused_on_the_page(self, rollout: str, device: str, code: str) -> None:
        """Device, code and the words for it; the device reads on with its old model."""
        words = f"{CODES[code]} ({code})"
        wait_until(
            lambda: words.casefold() in self.shown(rollout, device).casefold(),
            why=lambda: f"{code} on the page; it says: {self.shown(rollout, device)}; steps: {self.steps(device)}",
        )
        assert "refused" in self.shown(rollout, device).casefold()
        with self.system.client() as client:
            told = {(member.device, member.state, member.code) for member in client.get_rollout(rollout).members}
        assert (device, UpdateState.REJECTED, code) in told
        last = [text for told_code, text in self.steps(device) if told_code == code]
        assert any("to rejected" in text for text in last), "and as a step of the device itself"
        self.reads_on(device)

    def reads_on(self, device: str) -> None:
        """The device still runs the model it came with, and reads fields with it."""
        agent = self.system.agents[device]
        came_with = self.old if device != NEWEST else read_bundle(self.bundles["1.2.0"]).digest
        assert self.system.running_digest(agent) == came_with
        assert agent.part is not None
        before = fields_read(agent)
        wait_until(lambda: fields_read(agent) > before, why=f"{device} reads on")

    def stopped_with(self, rollout: str, device: str, code: str) -> None:
        """The rollout is over for all, and the first sentence of its page says why."""
        words = f"{device} says: {CODES[code]} ({code})"
        wait_until(lambda: words in html.unescape(self.page(rollout)), why=f"the page says: {words}")
        with self.system.client() as client:
            state = client.get_rollout(rollout).summary.state
        assert state in (RolloutState.ABORTING, RolloutState.ABORTED)


def in_a_year() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=365)


def fields_read(agent: Agent) -> int:
    assert agent.part is not None
    return agent.part.log.read_text().count('"field_stored"')


class Intruder:
    """Answers each question for a chunk with bytes of its own; has an account that may publish."""

    def __init__(self, system: LocalSystem) -> None:
        self.answers: dict[str, list[tuple[str, bytes]]] = {}
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="intruder", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(CLOUD_USER, system.cloud_password)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("ahs/1/d/+/up/need", qos=1)
        self._client.connect(system.broker.host, system.broker.port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        device = message.topic.split("/")[3]
        decode(Need, bytes(message.payload))
        with self._lock:
            self.asked.append(device)
            for sha256, data in self.answers.get(device, ()):
                self._client.publish(topics.chunk(sha256), data, qos=0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    root = tmp_path_factory.mktemp("bundles")
    sharp = {"1.0.0": 400.0, "1.1.0": 420.0, "1.2.0": 440.0}
    return {version: disc_bundle(root, version=version, sharpness=value) for version, value in sharp.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same fields under ever new names."""
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import draw_field

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        (folder / f"field-{number:04d}.png").write_bytes(encode_png(draw_field(seed=number).image))
    for number in range(6, 2000):
        (folder / f"field-{number:04d}.png").hardlink_to(folder / f"field-{number % 6:04d}.png")
    return folder


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
        assert intruder.asked.count("flipped") == UPDATE["max_bad_chunks"], (
            "asked for again each time, and not for ever"
        )
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
