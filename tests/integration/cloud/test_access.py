"""Tokens, roles, the console's cookie, devices: who may do what, and what it is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from cloud.auth.sessions import COOKIE_NAME
from cloud.storage.tables import AuditRow, TokenRow

pytestmark = pytest.mark.anyio

OWN = {"origin": "http://cloud"}
"""What a browser sends with a form of our own page."""


async def refusal(cloud: Any, headers: dict[str, str], path: str = "/v1/second-opinions") -> tuple[int, str, str]:
    answer = await cloud.http.get(path, headers=headers)
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, body["code"], body["hint"]


async def test_a_wrong_expired_or_revoked_device_token_is_told_what_to_do(cloud_app: Any, tools: Any) -> None:
    expired, revoked = await cloud_app.device("bench-1"), await cloud_app.device("bench-2")
    async with cloud_app.storage.writing() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await session.execute(update(TokenRow).where(TokenRow.token_sha256 == sha(expired)).values(expires_at=past))
    operator = tools.bearer(await cloud_app.token())
    assert (await cloud_app.http.post("/v1/devices/bench-2/revoke", headers=operator)).status_code == 204

    for headers, code in (
        (tools.bearer("ahs_wrong"), "token_unknown"),
        (tools.bearer(expired), "token_expired"),
        (tools.bearer(revoked), "token_revoked"),
        ({"authorization": "Basic abc"}, "token_malformed"),
        ({}, "token_missing"),
    ):
        status, found, hint = await refusal(cloud_app, headers)
        assert (status, found) == (401, code)
        assert "oken" in hint


def sha(token: str) -> str:
    import hashlib

    return hashlib.sha256(token.encode()).hexdigest()


async def test_tokens_are_stored_only_as_hashes(cloud_app: Any) -> None:
    token = await cloud_app.device()
    async with cloud_app.storage.reading() as session:
        tokens = (await session.scalars(select(TokenRow))).all()
        trail = (await session.scalars(select(AuditRow))).all()
    assert sha(token) in {row.token_sha256 for row in tokens}
    everything = repr([vars(row) for row in [*tokens, *trail]])
    assert token not in everything


ROLES = {
    "viewer": (403, 200),
    "technician": (403, 200),
    "reviewer": (403, 200),
    "engineer": (403, 200),
    "operator": (201, 200),
    "admin": (201, 200),
}


async def test_only_operators_and_admins_register_devices(sqlite_app: Any, tools: Any) -> None:
    for role, (create, read) in ROLES.items():
        headers = tools.bearer(await sqlite_app.token(role))
        body = {"device": f"bench-{role}", "site": "lab-a"}
        assert (await sqlite_app.http.post("/v1/devices", json=body, headers=headers)).status_code == create, role
        assert (await sqlite_app.http.get("/v1/devices", headers=headers)).status_code == read, role
        image = tools.jpeg()
        refused = await sqlite_app.http.post(
            "/v1/second-opinions", files={"image": image, "context": (None, "{}")}, headers=headers
        )
        assert refused.status_code == 403, role


async def test_a_device_may_neither_list_devices_nor_register_one(sqlite_app: Any, tools: Any) -> None:
    headers = tools.bearer(await sqlite_app.device())
    assert (await sqlite_app.http.get("/v1/devices", headers=headers)).status_code == 403
    body = {"device": "bench-2", "site": "lab-a"}
    assert (await sqlite_app.http.post("/v1/devices", json=body, headers=headers)).status_code == 403


async def test_an_operator_registers_only_in_its_own_site(cloud_app: Any, tools: Any) -> None:
    headers = tools.bearer(await cloud_app.token(site="lab-b"))
    answer = await cloud_app.http.post("/v1/devices", json={"device": "bench-1", "site": "lab-a"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "other_site")
    await cloud_app.device("bench-1", "lab-a")
    assert (await cloud_app.http.post("/v1/devices/bench-1/revoke", headers=headers)).status_code == 404


async def test_a_device_id_is_given_once_over_all_sites_and_again_after_its_end(cloud_app: Any, tools: Any) -> None:
    first = await cloud_app.device("bench-1", "lab-a")
    other = tools.bearer(await cloud_app.token(site="lab-b"))
    own = tools.bearer(await cloud_app.token())
    body = {"device": "bench-1", "site": "lab-b"}
    assert (await cloud_app.http.post("/v1/devices", json=body, headers=other)).status_code == 409
    await cloud_app.http.post("/v1/devices/bench-1/revoke", headers=own)
    assert (await cloud_app.http.get("/v1/devices", headers=own)).json()["items"] == []
    second = await cloud_app.device("bench-1", "lab-a")
    assert second != first
    assert (await refusal(cloud_app, tools.bearer(first)))[1] == "token_revoked"
    assert (await cloud_app.http.get("/v1/second-opinions", headers=tools.bearer(second))).status_code == 200


async def test_two_operators_who_register_the_same_device_at_once_make_one(cloud_app: Any, tools: Any) -> None:
    headers = tools.bearer(await cloud_app.token())
    body = {"device": "bench-1", "site": "lab-a"}
    posts = [cloud_app.http.post("/v1/devices", json=body, headers=headers) for _ in range(5)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*posts))
    assert statuses == [201, 409, 409, 409, 409]


async def test_signing_in_sets_a_cookie_that_opens_the_api_until_its_token_is_revoked(
    sqlite_app: Any, tools: Any
) -> None:
    token = await sqlite_app.token("operator")
    answer = await sqlite_app.http.post("/sign-in", data={"token": token, "next": "/devices"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
    cookie = answer.headers["set-cookie"]
    assert COOKIE_NAME in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert token not in cookie
    assert (await sqlite_app.http.get("/v1/devices")).status_code == 200
    foreign = {"origin": "http://evil"}
    body = {"device": "bench-1", "site": "lab-a"}
    refused = await sqlite_app.http.post("/v1/devices", json=body, headers=foreign)
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
    own = await sqlite_app.http.post("/v1/devices", json=body, headers={"origin": "http://cloud"})
    assert own.status_code == 201
    async with sqlite_app.storage.writing() as session:
        now = datetime.now(UTC)
        await session.execute(update(TokenRow).where(TokenRow.token_sha256 == sha(token)).values(revoked_at=now))
    assert (await sqlite_app.http.get("/v1/devices")).json()["code"] == "token_revoked"


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil"}, {"origin": "null"}, {}], ids=["foreign", "null", "none"]
)
async def test_a_page_of_another_site_signs_nobody_in_or_out(sqlite_app: Any, headers: dict[str, str]) -> None:
    token = await sqlite_app.token("operator")
    entering = await sqlite_app.http.post("/sign-in", data={"token": token, "next": "/devices"}, headers=headers)
    assert entering.headers["location"] == "/sign-in?error=foreign_origin&next=%2Fdevices"
    assert "set-cookie" not in entering.headers

    await sqlite_app.http.post("/sign-in", data={"token": token}, headers=OWN)
    leaving = await sqlite_app.http.post("/sign-out", headers=headers)
    assert (leaving.status_code, leaving.json()["code"]) == (403, "foreign_origin")
    assert (await sqlite_app.http.get("/v1/devices")).status_code == 200
    assert (await sqlite_app.http.post("/sign-out", headers=OWN)).status_code == 303
    assert (await sqlite_app.http.get("/v1/devices")).status_code == 401


async def test_a_forged_cookie_and_a_wrong_token_open_nothing(sqlite_app: Any, tools: Any) -> None:
    wrong = await sqlite_app.http.post("/sign-in", data={"token": "ahs_no", "next": "//evil"}, headers=OWN)
    assert wrong.headers["location"] == "/sign-in?error=token_unknown&next=%2F"
    device = await sqlite_app.http.post("/sign-in", data={"token": await sqlite_app.device()}, headers=OWN)
    assert "token_of_device" in device.headers["location"]
    for value in ("x", "a.b", "eyJ0IjoiMSJ9.AAAA", "\u00e9.x".encode("latin-1").decode("latin-1")):
        headers = {"cookie": f"{COOKIE_NAME}={value}".encode("latin-1")}
        assert (await sqlite_app.http.get("/v1/devices", headers=headers)).status_code == 401, value


async def test_pages_send_a_stranger_to_the_sign_in_page_and_back(sqlite_app: Any) -> None:
    answer = await sqlite_app.http.get("/devices", headers={"accept": "text/html"})
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?next=%2Fdevices")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "no_route"),
        ("DELETE", "/v1/devices", 405, "method_not_allowed"),
        ("GET", "/v1/second-opinions?limit=0", 422, "invalid_request"),
        ("GET", "/v1/second-opinions?since=2026-01-31T12:00:00", 422, "invalid_request"),
        ("GET", "/v1/second-opinions?device=me", 422, "invalid_request"),
        ("GET", "/v1/second-opinions/nothing", 404, "no_opinion"),
        ("GET", "/v1/devices/nothing", 404, "no_device"),
    ],
)
async def test_every_error_is_a_problem_document(
    sqlite_app: Any, tools: Any, method: str, path: str, status: int, code: str
) -> None:
    answer = await sqlite_app.http.request(method, path, headers=tools.bearer(await sqlite_app.token()))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
