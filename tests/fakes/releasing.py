"""A cloud that takes releases, with an operator's desk beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from cloud.auth.tokens import SYSTEM
from cloud.releases.desired import set_desired
from cloud.releases.signing import OnlineKey
from cloud.releases.store import read_trust
from cloud.storage.leases import Held, Leases
from fleet.contract.http import ReleaseDetail
from fleet.contract.messages import Activation
from fleet.contract.release import ReleaseTarget, Trust
from tests.fakes.releases import Offered, ReleaseDesk


@dataclass
class Releasing:
    """A cloud with an operator's desk beside it."""

    cloud: Any
    desk: ReleaseDesk
    operator: dict[str, str]

    @property
    def http(self) -> httpx.AsyncClient:
        client: httpx.AsyncClient = self.cloud.http
        return client

    async def give_trust(self, trust: Trust | None = None) -> httpx.Response:
        text = (trust or self.desk.trust).model_dump_json()
        return await self.http.post(
            "/v1/trust", content=text, headers=self.operator | {"content-type": "application/json"}
        )

    async def trust(self) -> Trust:
        answer = await self.http.get("/v1/trust", headers=self.operator)
        assert answer.status_code == 200, answer.text
        return Trust.model_validate(answer.json())

    async def send(self, offered: Offered, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.post("/v1/releases", files=offered.parts, headers=headers or self.operator)

    async def release(self, *, evidence: bool = False) -> ReleaseDetail:
        answer = await self.send(self.desk.offer(await self.trust(), evidence=evidence))
        assert answer.status_code == 201, answer.text
        return ReleaseDetail.model_validate(answer.json())

    async def wish(
        self,
        device: str = "bench-1",
        target: ReleaseTarget | None = None,
        activation: Activation = Activation.ACTIVATE,
    ) -> int:
        key = self.cloud.app.state.parts.releases.key
        return await wish(self.cloud.storage, key, target, activation, device=device)


async def wish(
    storage: Any,
    key: OnlineKey | None,
    target: ReleaseTarget | None,
    activation: Activation,
    *,
    device: str = "bench-1",
) -> int:
    """What a device is to run, as a rollout says it: a release, or without one the model that it came with."""
    assert key is not None
    async with storage.writing() as session:
        return await set_desired(
            session,
            key=key,
            device=device,
            site_id="lab-a",
            release=target.digest if target else None,
            counter=target.counter if target else 0,
            rollout="a-rollout" if target else None,
            activation=activation,
            by=SYSTEM.id,
            now=datetime.now(UTC),
        )


@contextlib.asynccontextmanager
async def releasing(settings_for: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """A cloud with the desk's online key, and no trust yet."""
    settings = settings_for(releases={"online_key_file": desk.online_key_file})
    async with tools.running(settings, tools.StagedAnalyser()) as cloud:
        yield Releasing(cloud, desk, tools.bearer(await cloud.token("operator")))


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem document, which always has a hint."""
    problem = answer.json()
    assert problem["hint"], problem
    assert answer.headers["content-type"].startswith("application/problem+json")
    return answer.status_code, problem["code"]


async def leading(storage: Any) -> Held:
    held = await Leases(storage, lease_s=60).acquire("host", "tests")
    assert held is not None
    return held


async def stored_trust(storage: Any) -> Trust:
    async with storage.reading() as session:
        trust = await read_trust(session)
    assert trust is not None
    return trust
