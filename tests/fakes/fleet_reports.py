"""Devices that exist only as what they report to the ledger: for tests of what the cloud makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from cloud.auth.tokens import SYSTEM, Tokens
from cloud.devices.registry import DeviceRegistry
from cloud.ingest.ledger import Ledger
from cloud.ingest.rules import parse
from cloud.metrics import Metrics
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import DesiredRow, ReleaseRow
from fleet.contract import topics
from fleet.contract.http import DeviceCreate
from fleet.contract.messages import Activation, Desired, SoakFigures

SITE = "lab-a"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
GOOD = SoakFigures(
    fields=20,
    white_cells=50,
    disagreement_ratio=0.02,
    uncertain_ratio=0.1,
    withheld_ratio=0.05,
    baseline_uncertain_ratio=0.12,
    baseline_withheld_ratio=0.05,
    latency_ratio=1.0,
)


def digest_of(name: str) -> str:
    """The digest of a made-up bundle."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


OLD, NEW = digest_of("old"), digest_of("new")


@dataclass
class Clock:
    """A wall clock that moves when it is told to."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Moves it on."""
        self.now += timedelta(seconds=seconds)


async def add_release(
    storage: Storage,
    counter: int,
    digest: str = NEW,
    *,
    accepted: bool | None = True,
    checked: bool = True,
    site: str = SITE,
) -> None:
    """A release as it is stored; `accepted` None: without evidence."""
    chunk = {"sha256": "c" * 64, "size_bytes": 10}
    evidence = None
    if accepted is not None:
        evidence = {"sha256": "e" * 64, "champion": OLD, "frozen_set": "f" * 64, "accepted": accepted}
    target = {
        "schema": "ahs.release/1",
        "digest": digest,
        "name": "edge",
        "version": f"1.{counter}.0",
        "counter": counter,
        "bundle_schema": "ahs.bundle/1",
        "size_bytes": 10,
        "chunks": [chunk],
        "created_at": START.isoformat(),
        "checked": checked,
        "evidence": evidence,
    }
    row = ReleaseRow(counter=counter, site_id=site, digest=digest, name="edge", version=f"1.{counter}.0")
    row.archive_sha256, row.size_bytes, row.target, row.evidence = "a" * 64, 10, target, None
    row.checked, row.created_at, row.created_by = checked, START, SYSTEM.id
    async with storage.writing() as session:
        session.add(row)


@dataclass
class ReportingDevice:
    """One device: what it runs and says. `follow` does what a healthy one does with what it is told."""

    name: str
    tell: Callable[[str, str, dict[str, Any]], Awaitable[None]]
    now: Callable[[], datetime]
    active: str = OLD
    previous: str | None = None
    counter: int = 1
    state: str = "idle"
    code: str | None = None
    rollout: str | None = None
    version: int = 0
    soak: SoakFigures | None = None
    online: bool = True
    sessions: int = 0
    seq: int = 0
    orders: list[tuple[int, str | None, str]] = field(default_factory=list)
    fails: str | None = None
    """Code with which its trial of the new model fails."""

    async def connect(self) -> None:
        """Comes online, and reports."""
        self.online, self.sessions = True, self.sessions + 1
        await self._status("online")
        await self.report()

    async def leave(self) -> None:
        """Goes offline."""
        self.online = False
        await self._status("offline")

    async def _status(self, presence: str) -> None:
        session = f"session-{self.sessions:04}"
        body = {"device": self.name, "session": session, "presence": presence, "agent_version": "1"}
        await self.tell(self.name, "status", body)

    async def report(self, **changes: Any) -> None:
        """Tells where it stands."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.seq += 1
        body = {
            "message_id": f"m{self.seq:08}",
            "device": self.name,
            "boot": 1,
            "seq": self.seq,
            "sent_at": self.now().isoformat(),
            "previous": self.previous,
            "active": {"name": "edge", "version": "1", "digest": self.active},
            "update_state": self.state,
            "update_code": self.code,
            "release_counter": self.counter,
            "desired_version": self.version,
            "rollout": self.rollout,
            "soak": self.soak.model_dump(mode="json") if self.soak else None,
        }
        await self.tell(self.name, "reported", body)

    async def follow(self, desired: Desired) -> None:
        """Does what it is told, in one go, and reports it."""
        if not self.online or desired.version <= self.version:
            return
        self.orders.append((desired.version, desired.release, desired.activation.value))
        self.version, self.rollout, self.code = desired.version, desired.rollout, None
        if desired.release == self.active:
            self.state = "confirmed"
        elif desired.activation is Activation.DOWNLOAD:
            self.state = "verified"
        elif self.fails is not None and desired.release == NEW:
            self.state, self.code = "failed", self.fails
        else:
            self.previous = self.active
            self.active, self.counter, self.state = desired.release or OLD, desired.counter, "confirmed"
            self.soak = GOOD if desired.release == NEW else None
        await self.report()


class ReportedFleet:
    """Devices of one site and the ledger that they report to."""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._now = clock
        self._ledger = Ledger(storage, Metrics(), now=clock)
        self.devices: dict[str, ReportingDevice] = {}

    async def add(self, *names: str, site: str = SITE) -> None:
        """Registers devices, which come online on the old model."""
        registry = DeviceRegistry(Tokens(), token_lifetime=timedelta(days=1))
        for name in names:
            async with self._storage.writing() as session:
                await registry.create_by_system(session, DeviceCreate(device=name, site=site))
            self.devices[name] = ReportingDevice(name, self.tell, self._now)
            await self.devices[name].connect()

    async def tell(self, device: str, kind: str, body: dict[str, Any]) -> None:
        """Takes one message of a device as from the broker."""
        message = parse(topics.up(device, kind), json.dumps(body).encode(), retained=False)
        await self._ledger.commit([message])

    async def desired(self) -> dict[str, Desired]:
        """What each device is told at the moment."""
        async with self._storage.reading() as session:
            rows = (await session.scalars(select(DesiredRow))).all()
        return {row.device: Desired.model_validate(row.document) for row in rows}

    async def follow(self, *names: str) -> None:
        """Lets all (or these) devices do what they are told."""
        told = await self.desired()
        for name, device in self.devices.items():
            if name in told and (not names or name in names):
                await device.follow(told[name])
