"""A real cloud, broker and agents on one machine, with what an operator, an attacker and a reader of the page do."""

from __future__ import annotations

import asyncio
import html
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from securesystemslib.signer import CryptoSigner
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from tuf.api.metadata import Metadata, Targets

from cloud.auth.tokens import SYSTEM
from cloud.config import DatabaseSettings
from cloud.releases.store import read_trust, save_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import DesiredRow, DeviceEventRow
from cloud.web.rollout_view import CODES
from fleet.contract import topics
from fleet.contract.codec import decode
from fleet.contract.http import RolloutCreate
from fleet.contract.messages import Need, UpdateState
from fleet.contract.release import ReleaseTarget, RolloutState, Thresholds, Trust, WavePlan
from fleet.local.broker import CLOUD_USER
from fleet.local.system import Agent, LocalSystem, run_module
from fleet.release.documents import read_document, text_of
from fleet.release.keys import load_keys
from fleet.release.repository import releases_of, resigned
from models.bundle import read_bundle
from tests.fakes.evaluations import evidence_bytes

T = TypeVar("T")
WAIT_S = 120.0
CHAMPION = "1.0.0"
NEWEST = "newest"
"""The device that came with release 3."""


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
        evidence.write_bytes(evidence_bytes(read_bundle(self.bundles[version]).digest, self.old))
        run_module(
            *("fleet", "release", "create", "--bundle", str(self.bundles[version]), "--keys", str(self.system.keys)),
            *("--evidence", str(evidence), *self.system.cloud_options()),
        )
        return releases_of(self.trust())[-1]

    def roll_out(self, release: ReleaseTarget, *waves: str) -> str:
        """Starts a rollout, one device a wave; its id."""
        thresholds = Thresholds(
            soak_s=0.0, step_deadline_s=300.0, wave_deadline_s=600.0, min_fields=3, max_latency_ratio=100.0
        )
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
