"""A cloud with its devices, the controller that leads and an operator: for tests of rollouts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from cloud.config import Settings
from cloud.metrics import Metrics
from cloud.rollouts.controller import RolloutController, signing
from cloud.storage.leases import Held, Leases
from fleet.contract.http import RolloutDetail
from fleet.contract.release import RolloutState
from fleet.release.keys import make_keys, save_keys
from tests.fakes.fleet_reports import NEW, OLD, Clock, ReportedFleet, add_release

QUICK = {"soak_s": 60, "step_deadline_s": 600, "wave_deadline_s": 3600, "min_fields": 10}
TWO_WAVES = [{"devices": ["bench-1"]}, {"percent": 100}]


class Killed(BaseException):
    """The process died here."""


@dataclass
class Floor:
    """A cloud, its devices, the controller that leads, and an operator."""

    cloud: Any
    fleet: ReportedFleet
    clock: Clock
    controller: RolloutController
    held: Held
    headers: dict[str, str]

    async def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """As the operator, unless told otherwise."""
        return await self.cloud.http.post(path, json=body, headers=headers or self.headers)

    async def create(self, **changes: Any) -> str:
        """Starts a rollout; its id."""
        body = {"counter": 2, "waves": TWO_WAVES, "thresholds": QUICK} | changes
        answer = await self.post("/v1/rollouts", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["summary"]["id"])

    async def command(self, rollout: str, name: str, reason: str = "") -> Any:
        """What a person does with one."""
        return await self.post(f"/v1/rollouts/{rollout}/{name}", {"reason": reason})

    async def get(self, rollout: str) -> RolloutDetail:
        """All of one."""
        answer = await self.cloud.http.get(f"/v1/rollouts/{rollout}", headers=self.headers)
        assert answer.status_code == 200, answer.text
        return RolloutDetail.model_validate_json(answer.content)

    async def state(self, rollout: str) -> RolloutState:
        """Where one stands."""
        return (await self.get(rollout)).summary.state

    async def look(self) -> int:
        """The controller looks once."""
        return await self.controller.look(self.held)

    async def go(self, seconds: float = 0) -> None:
        """Time passes, the controller looks, the devices follow, the controller looks again."""
        self.clock.pass_s(seconds)
        await self.look()
        await self.fleet.follow()
        await self.look()

    async def actions(self, rollout: str) -> list[str]:
        """What was decided, oldest first."""
        return [row.action for row in reversed((await self.get(rollout)).decisions)]

    @property
    def set_desired(self) -> Any:
        """As the cloud does it."""
        return signing(self.cloud.app.state.parts.releases.key)

    def new_controller(self, set_desired: Any = None) -> RolloutController:
        """Another one, with nothing in its memory."""
        return RolloutController(self.cloud.storage, Metrics(), set_desired or self.set_desired, now=self.clock)

    def dying_after(self, calls: int) -> Any:
        """A way to tell devices that dies in the middle of it, after so many were told."""
        left, set_desired = calls, self.set_desired

        async def dying(session: Any, **told: Any) -> int:
            nonlocal left
            version: int = await set_desired(session, **told)
            left -= 1
            if left < 0:
                raise Killed
            return version

        return dying


@asynccontextmanager
async def started_floor(settings_for: Callable[..., Settings], tools: Any, tmp_path: Path) -> AsyncIterator[Floor]:
    """Three devices on the old model, and two releases."""
    save_keys(tmp_path / "keys", make_keys())
    settings = settings_for(releases={"online_key_file": tmp_path / "keys" / "online.key"})
    async with tools.running(settings, tools.StagedAnalyser()) as cloud:
        clock = Clock()
        fleet = ReportedFleet(cloud.storage, clock)
        await fleet.add("bench-1", "bench-2", "bench-3")
        await add_release(cloud.storage, 1, OLD)
        await add_release(cloud.storage, 2, NEW)
        held = await Leases(cloud.storage, lease_s=600).acquire("host", "a test")
        assert held is not None
        controller = RolloutController(cloud.storage, Metrics(), signing(cloud.app.state.parts.releases.key), now=clock)
        yield Floor(cloud, fleet, clock, controller, held, tools.bearer(await cloud.token()))


def states(found: RolloutDetail) -> dict[str, str]:
    return {member.device: member.state.value for member in found.members}


async def count(floor: Floor, table: Any, *where: Any) -> int:
    async with floor.cloud.storage.reading() as session:
        return int(await session.scalar(select(func.count()).select_from(table).where(*where)) or 0)
