"""Trust and releases over HTTP: what is proven before it is stored, who may, and what becomes of two at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tuf.api.metadata import Metadata, Targets

from cloud.auth.tokens import SYSTEM
from cloud.config import ReleaseSettings
from cloud.devices.figures import read_figures
from cloud.errors import ConfigurationError, LeaseLost
from cloud.ingest.bus import Incoming
from cloud.metrics import Metrics
from cloud.releases.desired import set_desired
from cloud.releases.publisher import PAGE, Publisher
from cloud.releases.rules import documents
from cloud.releases.signer import Signer
from cloud.releases.signing import load_online_key
from cloud.releases.store import TrustChanged, read_trust, remember_want, save_trust
from cloud.storage.leases import Held, Leases
from cloud.storage.tables import AuditRow, ChunkWantRow, DesiredRow, DeviceRow, DeviceStateRow, ReleaseRow
from fleet.contract import topics
from fleet.contract.http import ReleaseDetail, ReleasePage
from fleet.contract.messages import Activation, Desired, Need
from fleet.contract.release import SignedDesired, Trust
from fleet.release.documents import RELEASES_FILL_BYTES, text_of
from fleet.release.keys import make_key, make_keys, save_key
from fleet.release.pinned import pinned
from fleet.release.pruning import pruned
from fleet.release.repository import check_trust, online_keyid
from fleet.release.rotation import KeyRole, replaced
from tests.fakes.evaluations import changed, evidence_for, good_figures
from tests.fakes.releases import Offered, ReleaseDesk, bundle_zip

pytestmark = pytest.mark.anyio


@pytest.fixture
def desk(tmp_path: Path) -> ReleaseDesk:
    return ReleaseDesk(tmp_path / "keys")


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


@pytest.fixture
async def fleet(settings_for: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """On each database, with the factory's trust."""
    settings = settings_for(releases={"online_key_file": desk.online_key_file})
    async with releasing(settings, tools, desk) as started:
        assert (await started.give_trust()).status_code == 200
        yield started


@pytest.fixture
async def sqlite_fleet(sqlite_settings: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """The same for what does not depend on the database."""
    settings = sqlite_settings(releases={"online_key_file": desk.online_key_file})
    async with releasing(settings, tools, desk) as started:
        assert (await started.give_trust()).status_code == 200
        yield started


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem document, which always has a hint."""
    problem = answer.json()
    assert problem["hint"], problem
    assert answer.headers["content-type"].startswith("application/problem+json")
    return answer.status_code, problem["code"]


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
    settings = settings_for(releases={"online_key_file": desk.online_key_file})
    async with releasing(settings, tools, desk) as one, releasing(settings, tools, desk) as two:
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


async def test_the_trust_is_given_once_and_only_ours(
    sqlite_settings: Callable[..., Any], tools: Any, desk: ReleaseDesk, tmp_path: Path
) -> None:
    settings = sqlite_settings(releases={"online_key_file": desk.online_key_file})
    async with releasing(settings, tools, desk) as fleet:
        assert refusal(await fleet.http.get("/v1/trust", headers=fleet.operator)) == (404, "no_trust")
        assert refusal(await fleet.send(desk.offer(desk.trust))) == (404, "no_trust")
        stranger = ReleaseDesk(tmp_path / "other-keys")
        assert refusal(await fleet.give_trust(stranger.trust)) == (422, "online_key_mismatch")
        broken = desk.trust.model_copy(update={"targets": stranger.trust.targets})
        assert refusal(await fleet.give_trust(broken)) == (422, "trust_invalid")
        old = ReleaseDesk(tmp_path / "old-keys", at=datetime.now(UTC) - timedelta(days=20 * 365))
        assert refusal(await fleet.give_trust(old.trust)) == (422, "trust_invalid")

        assert (await fleet.give_trust()).status_code == 200
        kept = await fleet.trust()
        assert kept.targets == desk.trust.targets
        check_trust(kept, datetime.now(UTC))
        await fleet.release()
        again = await fleet.give_trust()
        assert again.status_code == 200
        assert Trust.model_validate(again.json()) == await fleet.trust(), "nothing was taken back"
        assert refusal(await fleet.give_trust(stranger.trust))[0] == 422


@pytest.mark.parametrize(
    ("forged", "words"),
    [
        ({"after": changed(good_figures(), "home", named=0.2)}, "did not accept"),
        ({"after": changed(good_figures(), "home", named=0.2), "accepted": True}, "by its own figures"),
        ({"frozen_set": "d5" * 32}, "none of those that count"),
        ({"plan": {**pinned().plan.model_dump(mode="json"), "outsiders_named": 1.0}}, "allowed more than releases may"),
        ({"schema": "ahs.evidence/1"}, "evaluate the bundle anew"),
    ],
)
async def test_evidence_that_was_signed_and_does_not_hold_is_refused_with_its_reason(
    sqlite_fleet: Releasing, forged: dict[str, Any], words: str
) -> None:
    answer = await sqlite_fleet.send(sqlite_fleet.desk.offer(await sqlite_fleet.trust(), forged=forged))
    assert refusal(answer) == (422, "evidence_refused")
    assert words in answer.json()["detail"]


async def test_the_current_model_cannot_be_made_worse_than_its_own_evidence_says(sqlite_fleet: Releasing) -> None:
    await sqlite_fleet.release(evidence=True)
    worse = changed(good_figures(), "home", named=0.5)
    trust = await sqlite_fleet.trust()
    forged = sqlite_fleet.desk.offer(trust, forged={"before": worse, "after": worse}, champion=2)
    answer = await sqlite_fleet.send(forged)
    assert refusal(answer) == (422, "evidence_refused")
    assert "home: named is 0.5, and was 0.96" in answer.json()["detail"]
    assert await sqlite_fleet.trust() == trust
    honest = sqlite_fleet.desk.offer(trust, evidence=True, champion=2)
    assert (await sqlite_fleet.send(honest)).status_code == 201


@pytest.mark.parametrize("role", list(KeyRole))
async def test_a_replaced_key_is_taken_and_what_devices_are_to_run_is_signed_again(
    sqlite_settings: Callable[..., Any], tools: Any, desk: ReleaseDesk, role: KeyRole
) -> None:
    new = make_key()
    async with releasing(sqlite_settings(releases={"online_key_file": desk.online_key_file}), tools, desk) as fleet:
        await fleet.give_trust()
        await fleet.release()
        await fleet.cloud.device("bench-1", "lab-a")
        key = load_online_key(ReleaseSettings(online_key_file=desk.online_key_file))
        assert key is not None
        async with fleet.cloud.storage.writing() as session:
            await set_desired(
                session,
                key=key,
                device="bench-1",
                site_id="lab-a",
                release=None,
                counter=0,
                rollout=None,
                activation=Activation.DOWNLOAD,
                by=SYSTEM.id,
                now=datetime.now(UTC),
            )
        before = await fleet.trust()
        given = replaced(before, role, root=desk.keys.root, new=new, now=datetime.now(UTC))
        if role is KeyRole.ONLINE:
            assert refusal(await fleet.give_trust(given)) == (422, "online_key_mismatch")
            assert await fleet.trust() == before
            desk.online_key_file.unlink()
            save_key(desk.online_key_file, new)
    async with releasing(sqlite_settings(releases={"online_key_file": desk.online_key_file}), tools, desk) as fleet:
        answer = await fleet.give_trust(given)
        assert answer.status_code == 200, answer.text
        after = await fleet.trust()
        assert after.roots == given.roots
        assert check_trust(after, datetime.now(UTC)).releases == check_trust(before).releases
        async with fleet.cloud.storage.reading() as session:
            row = await session.get(DesiredRow, "bench-1")
        assert SignedDesired.model_validate_json(row.envelope).keyid == online_keyid(after)
        assert row.published_version == 0
        assert (await fleet.give_trust(given)).status_code == 200
        assert await fleet.trust() == after


async def test_roots_that_do_not_go_on_are_refused(sqlite_fleet: Releasing, desk: ReleaseDesk) -> None:
    before = await sqlite_fleet.trust()
    keys = make_keys()
    forged = before.model_copy(update={"roots": (*before.roots, before.roots[0])})
    assert refusal(await sqlite_fleet.give_trust(forged)) == (422, "trust_invalid")
    stolen = replaced(before, KeyRole.ROOT, root=desk.keys.root, new=keys.root, now=datetime.now(UTC))
    half = json.loads(stolen.roots[-1])
    half["signatures"] = half["signatures"][:1]
    one = stolen.model_copy(update={"roots": (*before.roots, json.dumps(half))})
    assert refusal(await sqlite_fleet.give_trust(one)) == (422, "trust_invalid")
    assert await sqlite_fleet.trust() == before


async def test_without_an_online_key_releases_are_off(sqlite_app: Any, tools: Any, desk: ReleaseDesk) -> None:
    fleet = Releasing(sqlite_app, desk, tools.bearer(await sqlite_app.token("operator")))
    assert refusal(await fleet.give_trust()) == (409, "releases_off")
    assert refusal(await fleet.send(desk.offer(desk.trust))) == (409, "releases_off")
    assert (await fleet.http.get("/v1/releases", headers=fleet.operator)).json() == {"items": []}


async def test_a_key_file_that_is_no_key_stops_the_start(
    sqlite_settings: Callable[..., Any], tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "online.key").write_text("not a key")
    for name in ("online.key", "absent.key"):
        settings = sqlite_settings(releases={"online_key_file": tmp_path / name})
        with pytest.raises(ConfigurationError, match=r"releases\.online_key_file"):
            async with tools.running(settings, tools.StagedAnalyser()):
                pass


async def leading(storage: Any) -> Held:
    held = await Leases(storage, lease_s=60).acquire("host", "tests")
    assert held is not None
    return held


async def stored_trust(storage: Any) -> Trust:
    async with storage.reading() as session:
        trust = await read_trust(session)
    assert trust is not None
    return trust


async def test_documents_are_signed_again_at_half_of_their_life_and_when_they_have_expired(
    storage: Any, desk: ReleaseDesk, settings_for: Callable[..., Any]
) -> None:
    key = load_online_key(settings_for(releases={"online_key_file": desk.online_key_file}).releases)
    now = [datetime.now(UTC)]
    async with storage.writing() as session:
        await save_trust(session, None, desk.trust, by=SYSTEM.id, now=now[0])
    held = await leading(storage)
    signer = Signer(storage, key, Metrics(), now=lambda: now[0])

    async def versions() -> dict[str, int]:
        trust = await stored_trust(storage)
        check_trust(trust)
        return {document.role: document.version for document in documents(trust)}

    first = await versions()
    assert await signer.renew(held) is False, "fresh documents are left alone"
    now[0] += timedelta(days=2, hours=13)  # the kit's timestamp is good for three days, ours are for one
    assert await signer.renew(held) is True
    second = await versions()
    assert (second["timestamp"], second["snapshot"]) == (first["timestamp"] + 1, first["snapshot"] + 1)
    assert (second["root"], second["targets"]) == (first["root"], first["targets"])
    now[0] += timedelta(days=40)  # the cloud was off: everything of the online key has expired
    assert await signer.renew(held) is True
    check_trust(await stored_trust(storage), now[0])


async def test_a_deposed_leader_signs_nothing(
    storage: Any, desk: ReleaseDesk, settings_for: Callable[..., Any]
) -> None:
    key = load_online_key(settings_for(releases={"online_key_file": desk.online_key_file}).releases)
    later = datetime.now(UTC) + timedelta(days=30)
    async with storage.writing() as session:
        await save_trust(session, None, desk.trust, by=SYSTEM.id, now=later)
    held = await leading(storage)
    await Leases(storage, lease_s=60).release(held)
    await leading(storage)
    with pytest.raises(LeaseLost):
        await Signer(storage, key, Metrics(), now=lambda: later).renew(held)
    assert await stored_trust(storage) == desk.trust


async def test_two_that_sign_on_top_of_the_same_trust_cannot_both_be_stored(
    storage: Any, desk: ReleaseDesk, settings_for: Callable[..., Any]
) -> None:
    key = load_online_key(settings_for(releases={"online_key_file": desk.online_key_file}).releases)
    assert key is not None
    now = datetime.now(UTC)
    async with storage.writing() as session:
        await save_trust(session, None, desk.trust, by=SYSTEM.id, now=now)
    one, two = (key.resign(desk.trust, now + timedelta(minutes=minute)) for minute in (1, 2))
    async with storage.writing() as session:
        await save_trust(session, desk.trust, one, by=SYSTEM.id, now=now)
    with pytest.raises(TrustChanged):
        async with storage.writing() as session:
            await save_trust(session, desk.trust, two, by=SYSTEM.id, now=now)
    assert await stored_trust(storage) == one


async def test_what_a_device_is_to_run_grows_by_version_and_is_signed_by_the_key_of_the_timestamp(
    fleet: Releasing, desk: ReleaseDesk
) -> None:
    await fleet.cloud.device()
    key = fleet.cloud.app.state.parts.releases.key
    releases = [await fleet.release() for _ in range(2)]
    for number, detail in enumerate(releases, start=1):
        async with fleet.cloud.storage.writing() as session:
            version = await set_desired(
                session,
                key=key,
                device="bench-1",
                site_id="lab-a",
                release=detail.target.digest,
                counter=detail.target.counter,
                rollout="a-rollout",
                activation=Activation.ACTIVATE,
                by=SYSTEM.id,
                now=datetime.now(UTC),
            )
        assert version == number
    async with fleet.cloud.storage.reading() as session:
        row = await session.get(DesiredRow, "bench-1")
    envelope = SignedDesired.model_validate_json(row.envelope)
    desired = Desired.model_validate_json(envelope.signed)
    assert (desired.version, desired.release, desired.counter) == (2, releases[1].target.digest, 3)
    assert desired == Desired.model_validate(row.document)
    assert row.published_version == 0
    named = check_trust(await fleet.trust()).root.roles["timestamp"].keyids
    assert envelope.keyid in named
    desk.keys.online.public_key.verify_signature(_signature(envelope), envelope.signed.encode())


def _signature(envelope: SignedDesired) -> Any:
    from securesystemslib.signer import Signature

    return Signature(envelope.keyid, envelope.signature)


@dataclass
class KeepingBus:
    """A broker that keeps what it is given, each message once more in `sent`."""

    retained: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    async def connect(self) -> None:
        return None

    async def receive(self, *, limit: int, wait_s: float) -> list[Incoming]:
        await asyncio.sleep(0.01)
        return []

    def done(self, incoming: Incoming) -> None:
        return None

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, qos: int = 1
    ) -> None:
        self.sent.append(topic)
        if retain:
            self.retained[topic] = payload

    async def close(self) -> None:
        return None


@contextlib.asynccontextmanager
async def publishing(fleet: Releasing, held: Held, clock: Callable[[], float]) -> AsyncIterator[KeepingBus]:
    bus = KeepingBus()
    parts = fleet.cloud.app.state.parts
    settings = ReleaseSettings(republish_s=900, collect_s=0)
    publisher = Publisher(
        storage=parts.storage,
        images=parts.images,
        settings=settings,
        metrics=parts.metrics,
        poll_s=0.01,
        clock_s=clock,
    )
    task = asyncio.create_task(publisher.serve(bus, held))
    try:
        yield bus
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def wish(fleet: Releasing, device: str) -> None:
    async with fleet.cloud.storage.writing() as session:
        await set_desired(
            session,
            key=fleet.cloud.app.state.parts.releases.key,
            device=device,
            site_id="lab-a",
            release=None,
            counter=0,
            rollout=None,
            activation=Activation.ACTIVATE,
            by=SYSTEM.id,
            now=datetime.now(UTC),
        )


async def test_a_fleet_of_several_pages_is_told_once_then_only_what_changes_and_all_of_it_after_a_while(
    fleet: Releasing, tools: Any
) -> None:
    devices = [f"bench-{number:03}" for number in range(PAGE + 7)]
    operator = await fleet.cloud.device("bench-x")
    assert operator
    async with fleet.cloud.storage.writing() as session:
        principal_id = await session.scalar(select(DeviceRow.principal_id).where(DeviceRow.device == "bench-x"))
        now = datetime.now(UTC)
        for device in devices:
            row = DeviceRow(
                device=device,
                site_id="lab-a",
                principal_id=principal_id,
                label="",
                created_at=now,
                created_by=SYSTEM.id,
            )
            session.add(row)
    for device in devices:
        await wish(fleet, device)
    clock_s = [100.0]
    async with publishing(fleet, await leading(fleet.cloud.storage), lambda: clock_s[0]) as bus:
        await tools.eventually(lambda: len(bus.sent) >= len(devices) + 1)
        await tools.eventually(lambda: everything_is_marked(fleet))
        assert sorted(bus.sent) == sorted([topics.TRUST, *(topics.down(device, "desired") for device in devices)])

        bus.sent.clear()
        await wish(fleet, devices[3])
        await tools.eventually(lambda: everything_is_marked(fleet))
        assert bus.sent == [topics.down(devices[3], "desired")]

        bus.sent.clear()
        bus.retained.clear()  # lost without a word
        clock_s[0] += 901
        await tools.eventually(lambda: len(bus.retained) == len(devices) + 1)


async def everything_is_marked(fleet: Releasing) -> bool:
    async with fleet.cloud.storage.reading() as session:
        left = select(DesiredRow.device).where(DesiredRow.version > DesiredRow.published_version)
        return not (await session.scalars(left)).all()


async def test_a_deposed_leader_marks_nothing_as_published(sqlite_fleet: Releasing) -> None:
    storage = sqlite_fleet.cloud.storage
    await sqlite_fleet.cloud.device()
    await wish(sqlite_fleet, "bench-1")
    held = await leading(storage)
    await Leases(storage, lease_s=60).release(held)
    await leading(storage)
    with pytest.raises(LeaseLost):
        async with publishing(sqlite_fleet, held, lambda: 0.0) as bus:
            await asyncio.sleep(0.5)
    assert topics.down("bench-1", "desired") in bus.sent, "the version stays to be published by who leads now"
    assert not await everything_is_marked(sqlite_fleet)


async def test_a_revoked_device_is_told_nothing(sqlite_fleet: Releasing, tools: Any) -> None:
    for device in ("bench-1", "bench-2"):
        await sqlite_fleet.cloud.device(device)
        await wish(sqlite_fleet, device)
    revoked = await sqlite_fleet.http.post("/v1/devices/bench-1/revoke", headers=sqlite_fleet.operator)
    assert revoked.status_code == 204
    async with publishing(sqlite_fleet, await leading(sqlite_fleet.cloud.storage), lambda: 0.0) as bus:
        await tools.eventually(lambda: topics.down("bench-2", "desired") in bus.sent)
    assert topics.down("bench-1", "desired") not in bus.sent


@pytest.mark.parametrize("damage", ["damaged", "gone"])
async def test_a_chunk_that_cannot_be_read_is_counted_and_the_rest_goes_out(
    sqlite_fleet: Releasing, tools: Any, damage: str
) -> None:
    detail = await sqlite_fleet.release()
    await sqlite_fleet.cloud.device()
    parts = sqlite_fleet.cloud.app.state.parts
    async with parts.storage.reading() as session:
        sha256 = await session.scalar(select(ReleaseRow.archive_sha256).where(ReleaseRow.counter == 2))
    stored = sqlite_fleet.cloud.settings.data_dir / "images" / sha256[:2] / sha256[2:4] / sha256
    if damage == "gone":
        stored.unlink()
    else:
        content = bytearray(stored.read_bytes())
        content[10] ^= 1
        stored.write_bytes(content)
    names = list(dict.fromkeys(chunk.sha256 for chunk in detail.target.chunks))
    async with parts.storage.writing() as session:
        device = await session.get(DeviceRow, "bench-1")
        need = Need(
            message_id="need-0001",
            device="bench-1",
            boot=1,
            seq=1,
            sent_at=datetime.now(UTC),
            release=detail.target.digest,
            missing=tuple(names),
            max_packet_bytes=70_000,
        )
        await remember_want(session, need, device, now=datetime.now(UTC))
    async with publishing(sqlite_fleet, await leading(parts.storage), time.monotonic) as bus:

        async def served() -> bool:
            async with parts.storage.reading() as session:
                row = await session.get(ChunkWantRow, "bench-1")
                return row.served_at is not None

        await tools.eventually(served)
    out = [topic for topic in bus.sent if "/chunk/" in topic]
    expected = [] if damage == "gone" else [topics.chunk(name) for name in names[1:]]
    assert out == expected
    counted = parts.metrics.registry.get_sample_value("ahs_cloud_release_chunks_total", {"outcome": "unreadable"})
    assert counted == len(names) - len(out)
