"""Releases over HTTP: what is proven before it is stored, who may, and what becomes of two at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tuf.api.metadata import Metadata, Targets

from cloud.auth.tokens import SYSTEM
from cloud.devices.figures import read_figures
from cloud.releases.rules import documents
from cloud.storage.tables import AuditRow, DesiredRow, DeviceStateRow, ReleaseRow
from fleet.contract.http import ReleaseDetail, ReleasePage
from fleet.release.documents import RELEASES_FILL_BYTES, text_of
from fleet.release.keys import make_keys
from fleet.release.pruning import pruned
from fleet.release.repository import check_trust
from tests.fakes.evaluations import evidence_for
from tests.fakes.releases import Offered, ReleaseDesk, bundle_zip
from tests.fakes.releasing import Releasing, refusal, releasing

pytestmark = pytest.mark.anyio


async def test_a_release_is_stored_signed_on_listed_and_on_record(fleet: Releasing, tools: Any) -> None:
    before = await fleet.trust()
    detail = await fleet.release(evidence=True)

    assert (detail.summary.counter, detail.summary.version) == (2, "1.2.0")
    assert detail.summary.created_by == "a operator"
    elsewhere = tools.bearer(await fleet.cloud.token("operator", site="lab-b"))
    page = (await fleet.http.get("/v1/releases", headers=elsewhere)).json()
    assert {item["created_by"] for item in page["items"]} == {""}
    found = (await fleet.http.get("/v1/releases/2", headers=elsewhere)).json()
    assert found["summary"]["created_by"] == ""
    assert detail.summary.evidence_accepted is True
    assert detail.target.evidence is not None
    assert detail.evidence == evidence_for(detail.target.digest, detail.target.evidence.champion)
    after = await fleet.trust()
    chain = check_trust(after, datetime.now(UTC))
    assert [release.counter for release in chain.releases] == [1, 2]
    versions = [{d.role: d.version for d in documents(trust)} for trust in (before, after)]
    assert all(versions[1][role] == versions[0][role] + 1 for role in ("targets", "snapshot", "timestamp"))

    viewer = tools.bearer(await fleet.cloud.token("viewer"))
    page = ReleasePage.model_validate((await fleet.http.get("/v1/releases", headers=viewer)).json())
    assert [item.counter for item in page.items] == [2, 1]
    one = await fleet.http.get("/v1/releases/2", headers=viewer)
    assert ReleaseDetail.model_validate(one.json()) == detail
    assert refusal(await fleet.http.get("/v1/releases/9", headers=viewer)) == (404, "no_release")
    async with fleet.cloud.storage.reading() as session:
        actions = (await session.execute(select(AuditRow.action, AuditRow.subject, AuditRow.principal_name))).all()
    assert ("trust.set", "trust", "a operator") in actions
    assert ("release.created", "release/2", "a operator") in actions


async def test_the_devices_that_run_a_release_are_counted_in_the_askers_site_alone(
    fleet: Releasing, tools: Any
) -> None:
    detail = await fleet.release()
    for device, site in (("bench-1", "lab-a"), ("bench-2", "lab-a"), ("bench-9", "lab-b")):
        await fleet.cloud.device(device, site)
        async with fleet.cloud.storage.writing() as session:
            state = await session.get(DeviceStateRow, device)
            state.reported = {"active": {"digest": detail.summary.digest}}
    for site, count in (("lab-a", 2), ("lab-b", 1), ("lab-c", 0)):
        viewer = tools.bearer(await fleet.cloud.token("viewer", site=site))
        page = ReleasePage.model_validate((await fleet.http.get("/v1/releases", headers=viewer)).json())
        assert [item.devices_running for item in page.items] == [count, 0], site


async def needed(fleet: Releasing) -> list[int]:
    answer = await fleet.http.get("/v1/releases/needed", headers=fleet.operator)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["counters"])


async def prune(fleet: Releasing, *keep: int, headers: dict[str, str] | None = None) -> httpx.Response:
    text = pruned(await fleet.trust(), keep, fleet.desk.keys.release, datetime.now(UTC))
    return await fleet.http.post("/v1/releases/prune", json={"targets": text}, headers=headers or fleet.operator)


async def test_releases_that_nobody_needs_are_left_out_and_what_is_needed_stays(fleet: Releasing, tools: Any) -> None:
    released = [await fleet.release(evidence=True) for _ in range(6)]
    digests = {detail.summary.counter: detail.summary.digest for detail in released}
    assert await needed(fleet) == [1, 7]
    await fleet.cloud.device("bench-1", "lab-b")
    async with fleet.cloud.storage.writing() as session:
        state = await session.get(DeviceStateRow, "bench-1")
        state.reported = {"active": {"digest": digests[2]}, "previous": digests[3], "pending": None}
        told = {"device": "bench-1", "version": 1, "release": digests[4], "counter": 4}
        made: dict[str, Any] = {"made_at": datetime.now(UTC), "made_by": SYSTEM.id}
        session.add(
            DesiredRow(device="bench-1", site_id="lab-b", published_version=0, version=1, document=told, **made)
        )
    assert await needed(fleet) == [1, 2, 3, 4, 7]
    await fleet.cloud.device("ward-1", "lab-a")
    rollout = await fleet.http.post("/v1/rollouts", json={"counter": 6, "devices": ["ward-1"]}, headers=fleet.operator)
    assert rollout.status_code == 201, rollout.text
    assert await needed(fleet) == [1, 2, 3, 4, 6, 7]

    before = await fleet.trust()
    for left_out in (1, 2, 3, 4, 6):
        refused = await prune(fleet, *({*range(1, 8)} - {left_out}))
        assert refusal(refused) == (409, "release_needed"), left_out
    assert await fleet.trust() == before
    viewer = tools.bearer(await fleet.cloud.token("viewer"))
    assert refusal(await prune(fleet, 7, headers=viewer)) == (403, "role_not_allowed")

    done = await prune(fleet, 1, 2, 3, 4, 6, 7)
    assert done.status_code == 200, done.text
    assert {item["counter"]: item["withdrawn"] for item in done.json()["items"]}[5] is True
    chain = check_trust(await fleet.trust(), datetime.now(UTC))
    assert [release.counter for release in chain.releases] == [1, 2, 3, 4, 6, 7]
    again = await fleet.http.post(
        "/v1/releases/prune", json={"targets": (await fleet.trust()).targets}, headers=fleet.operator
    )
    assert again.status_code == 200
    gone = await fleet.http.post("/v1/rollouts", json={"counter": 5, "devices": ["ward-1"]}, headers=fleet.operator)
    assert refusal(gone) == (409, "release_withdrawn")
    assert (await fleet.release()).summary.counter == 8
    async with fleet.cloud.storage.reading() as session:
        found = await session.scalars(select(AuditRow.after).where(AuditRow.action == "release.pruned"))
        assert list(found) == [{"counters": [5]}]


async def test_a_trust_message_without_room_takes_no_release_and_says_what_to_do(sqlite_fleet: Releasing) -> None:
    trust = await sqlite_fleet.trust()
    offered = sqlite_fleet.desk.offer(trust)
    document: Metadata[Targets] = Metadata.from_bytes(offered.targets.encode())
    document.signed.unrecognized_fields["x"] = "y" * RELEASES_FILL_BYTES
    document.sign(sqlite_fleet.desk.keys.release)
    answer = await sqlite_fleet.send(replace(offered, targets=text_of(document)))
    assert refusal(answer) == (422, "trust_full")
    assert "release prune" in answer.json()["detail"]
    async with sqlite_fleet.cloud.storage.reading() as session:
        figures = await read_figures(session, now=datetime.now(UTC))
    assert 0 < figures.trust_full_ratio < 0.1


async def test_who_may(sqlite_fleet: Releasing, tools: Any) -> None:
    fleet = sqlite_fleet
    offered = fleet.desk.offer(await fleet.trust())
    device = tools.bearer(await fleet.cloud.device())
    assert (await fleet.http.get("/v1/trust", headers=device)).status_code == 200
    assert refusal(await fleet.http.get("/v1/releases", headers=device)) == (403, "role_not_allowed")
    for role in ("viewer", "technician", "reviewer", "engineer"):
        person = tools.bearer(await fleet.cloud.token(role))
        assert (await fleet.http.get("/v1/trust", headers=person)).status_code == 200
        assert refusal(await fleet.send(offered, person)) == (403, "role_not_allowed")
        assert refusal(await fleet.http.post("/v1/trust", content="{}", headers=person)) == (403, "role_not_allowed")
    assert refusal(await fleet.send(offered, {"authorization": "Bearer ahs_nobody"}))[0] == 401
    assert refusal(await fleet.http.get("/v1/trust")) == (401, "token_missing")
    for role in ("operator", "admin"):
        person = tools.bearer(await fleet.cloud.token(role))
        assert (await fleet.send(fleet.desk.offer(await fleet.trust()), person)).status_code == 201


async def test_a_body_of_somebody_who_may_not_is_never_read(sqlite_fleet: Releasing, tools: Any) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 65536

    viewer = tools.bearer(await sqlite_fleet.cloud.token("viewer"))
    for path in ("/v1/releases", "/v1/trust"):
        headers = viewer | {"content-type": "multipart/form-data; boundary=b"}
        answer = await sqlite_fleet.http.post(path, content=endless(), headers=headers)
        assert refusal(answer) == (403, "role_not_allowed")
    assert read <= 2


async def test_too_large_a_body_is_refused_by_its_declared_length(sqlite_fleet: Releasing) -> None:
    headers = sqlite_fleet.operator | {"content-length": str(2**30), "content-type": "application/json"}
    for path in ("/v1/releases", "/v1/trust"):
        answer = await sqlite_fleet.http.post(path, content=b"{}", headers=headers)
        assert refusal(answer) == (413, "body_too_large")


async def test_one_release_is_received_at_a_time(sqlite_fleet: Releasing) -> None:
    offered = sqlite_fleet.desk.offer(await sqlite_fleet.trust())
    with sqlite_fleet.cloud.app.state.parts.releases.upload(SYSTEM):
        answer = await sqlite_fleet.send(offered)
        assert refusal(answer) == (503, "busy")
        assert int(answer.headers["retry-after"]) > 0
    assert (await sqlite_fleet.send(offered)).status_code == 201


async def test_two_webs_that_take_a_release_at_once_give_its_counter_to_one(
    settings_for: Callable[..., Any], tools: Any, desk: ReleaseDesk
) -> None:
    async with releasing(settings_for, tools, desk) as one, releasing(settings_for, tools, desk) as two:
        assert (await one.give_trust()).status_code == 200
        trust = await one.trust()
        offers = [desk.offer(trust, head=name) for name in (b"first", b"second")]
        answers = await asyncio.gather(one.send(offers[0]), two.send(offers[1]))
        assert sorted(answer.status_code for answer in answers) == [201, 409]
        lost = next(answer for answer in answers if answer.status_code == 409)
        assert lost.json()["hint"] == "fetch the trust again, and sign on top of it"
        page = ReleasePage.model_validate((await one.http.get("/v1/releases", headers=one.operator)).json())
        assert [item.counter for item in page.items] == [2, 1]
        check_trust(await one.trust(), datetime.now(UTC))
        assert (await one.release()).summary.counter == 3


async def test_a_repeated_release_is_answered_with_the_stored_one(fleet: Releasing) -> None:
    offered = fleet.desk.offer(await fleet.trust())
    answers = [await fleet.send(offered) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    other, _ = bundle_zip("9.0.0", b"other")
    assert refusal(await fleet.send(replace(offered, archive=other))) == (422, "archive_mismatch")


async def test_the_archive_of_a_factory_kit_can_be_given_later(sqlite_fleet: Releasing) -> None:
    fleet = sqlite_fleet
    trust, archive = fleet.desk.factory
    async with fleet.cloud.storage.reading() as session:
        sha256 = await session.scalar(select(ReleaseRow.archive_sha256).where(ReleaseRow.counter == 1))
    images = fleet.cloud.app.state.parts.images
    assert not await images.holds(sha256)
    answer = await fleet.send(Offered(fleet.desk.offer(trust).target, trust.targets, archive))
    assert answer.status_code == 201
    assert answer.json()["summary"]["counter"] == 1
    assert await images.get(sha256) == archive
    async with fleet.cloud.storage.reading() as session:
        given = select(AuditRow.subject).where(AuditRow.action == "release.archive_given")
        assert (await session.scalars(given)).all() == ["release/1"]


async def test_what_does_not_prove_itself_is_refused_with_a_code_of_its_own(sqlite_fleet: Releasing) -> None:
    fleet, desk = sqlite_fleet, sqlite_fleet.desk
    first = await fleet.trust()
    good = desk.offer(first)
    stranger = make_keys().release

    forged = json.loads(good.targets)
    forged["signed"]["targets"][good.target.path]["custom"]["version"] = "6.6.6"
    other, _ = bundle_zip("9.0.0", b"other")
    refused = {
        "targets_unreadable": replace(good, targets='{"signed": {}}'),
        "targets_not_signed": replace(good, targets=json.dumps(forged)),
        "archive_mismatch": replace(good, archive=other),
        "evidence_refused": replace(good, evidence=b"{}"),
    }
    for code, offered in refused.items():
        assert refusal(await fleet.send(offered)) == (422, code)
    signed_by_stranger = json.loads(good.targets)
    signature = stranger.sign(b"anything")
    signed_by_stranger["signatures"] = [{"keyid": signature.keyid, "sig": signature.signature}]
    answer = await fleet.send(replace(good, targets=json.dumps(signed_by_stranger)))
    assert refusal(answer) == (422, "targets_not_signed")

    assert await fleet.trust() == first, "a refusal changes nothing"
    assert (await fleet.send(good)).status_code == 201
    assert (await fleet.send(desk.offer(await fleet.trust()))).status_code == 201
    replayed = await fleet.send(good)
    assert refusal(replayed) == (409, "targets_version")
    assert refusal(await fleet.send(desk.offer(first, head=b"late"))) == (409, "targets_version")


async def test_a_missing_evidence_is_refused(sqlite_fleet: Releasing) -> None:
    offered = sqlite_fleet.desk.offer(await sqlite_fleet.trust(), evidence=True)
    assert refusal(await sqlite_fleet.send(replace(offered, evidence=None))) == (422, "evidence_refused")
    assert (await sqlite_fleet.send(offered)).status_code == 201
