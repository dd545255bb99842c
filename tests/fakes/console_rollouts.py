"""Rollouts of a running cloud, carried on step by step by a test: its own controller, clock and made-up devices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cloud.auth.tokens import Tokens
from cloud.config import ReleaseSettings
from cloud.metrics import Metrics
from cloud.releases.signing import load_online_key
from cloud.rollouts import service
from cloud.rollouts.controller import RolloutController, signing
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.leases import Held, Leases
from fleet.contract.http import RolloutCreate
from fleet.contract.release import Thresholds, WavePlan
from fleet.release.keys import make_keys, save_keys
from tests.fakes.console_cloud import SITE, CloudForConsole
from tests.fakes.fleet_reports import NEW, OLD, Clock, ReportedFleet, add_release

T = TypeVar("T")
LIMITS = Thresholds(soak_s=600, step_deadline_s=900, wave_deadline_s=86400, min_fields=10)


def online_key_in(folder: Path) -> Path:
    """The online key of a folder, made when it is first asked for."""
    path = folder / "keys" / "online.key"
    if not path.exists():
        save_keys(folder / "keys", make_keys())
    return path


@dataclass
class _Hands:
    """What one piece of work has at hand."""

    storage: Storage
    fleet: ReportedFleet
    controller: RolloutController
    held: Held


@dataclass
class StagedRollouts:
    """Every method is one piece of work on the cloud's own database, done when it returns."""

    cloud: CloudForConsole
    folder: Path
    clock: Clock = field(default_factory=Clock)
    devices: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        online_key_in(self.folder)
        self.cloud.token()  # makes the site
        self._do(self._releases)

    def add(self, *names: str) -> None:
        """Devices that are online on the old model."""

        async def add(hands: _Hands) -> None:
            await hands.fleet.add(*names, site=SITE)

        self._do(add)

    def start(self, waves: Sequence[WavePlan], token: str, *, counter: int = 2, devices: Sequence[str] = ()) -> str:
        """A rollout by the owner of a token; its id."""

        async def start(hands: _Hands) -> str:
            wanted = RolloutCreate(counter=counter, devices=tuple(devices), waves=tuple(waves), thresholds=LIMITS)
            async with hands.storage.writing() as session:
                principal = await Tokens().principal_of(session, token)
                return await service.create(session, principal, wanted, now=datetime.now(UTC))

        return self._do(start)

    def look(self) -> None:
        """The controller looks; nobody else moves."""

        async def look(hands: _Hands) -> None:
            await hands.controller.look(hands.held)

        self._do(look)

    def go(self, *names: str, seconds: float = 0) -> None:
        """Time passes, the controller looks, all (or these) devices do what they are told, it looks again."""
        self.clock.pass_s(seconds)

        async def go(hands: _Hands) -> None:
            await hands.controller.look(hands.held)
            await hands.fleet.follow(*names)
            await hands.controller.look(hands.held)

        self._do(go)

    def report(self, device: str, **changes: Any) -> None:
        """One device tells where it stands, and the controller looks."""

        async def report(hands: _Hands) -> None:
            told = (await hands.fleet.desired()).get(device)
            place = {"rollout": told.rollout, "version": told.version} if told else {}
            await hands.fleet.devices[device].report(**(place | changes))
            await hands.controller.look(hands.held)

        self._do(report)

    def leave(self, device: str) -> None:
        """One device goes offline."""

        async def leave(hands: _Hands) -> None:
            await hands.fleet.devices[device].leave()

        self._do(leave)

    async def _releases(self, hands: _Hands) -> None:
        await add_release(hands.storage, 1, OLD, site=SITE)
        await add_release(hands.storage, 2, NEW, site=SITE)

    def _do(self, work: Callable[[_Hands], Awaitable[T]]) -> T:
        # Playwright keeps a loop of its own running on the test's thread.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(self._done(work))).result()

    async def _done(self, work: Callable[[_Hands], Awaitable[T]]) -> T:
        key = load_online_key(ReleaseSettings(online_key_file=online_key_in(self.folder)))
        assert key is not None
        storage = Storage(self.cloud.settings.database_url, self.cloud.settings.database)
        try:
            leases = Leases(storage, lease_s=600)
            held = await leases.acquire("host", "a test")
            assert held is not None
            fleet = ReportedFleet(storage, self.clock)
            fleet.devices = self.devices
            for device in fleet.devices.values():
                device.tell = fleet.tell
            controller = RolloutController(storage, Metrics(), signing(key), now=self.clock)
            done = await work(_Hands(storage, fleet, controller, held))
            await leases.release(held)
            return done
        finally:
            await storage.close()
