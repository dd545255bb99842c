"""A cloud that takes releases, with an operator's desk beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from cloud.releases.store import read_trust
from cloud.storage.leases import Held, Leases
from fleet.contract.http import ReleaseDetail
from fleet.contract.release import Trust
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


@contextlib.asynccontextmanager
async def releasing(settings: Any, tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
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
