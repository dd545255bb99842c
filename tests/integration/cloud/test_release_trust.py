"""The trust of a fleet: given once, keys replaced, signed again in time, by the leader alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.auth.tokens import SYSTEM
from cloud.errors import ConfigurationError, LeaseLost
from cloud.metrics import Metrics
from cloud.releases.rules import documents
from cloud.releases.signer import Signer
from cloud.releases.signing import load_online_key
from cloud.releases.store import TrustChanged, save_trust
from cloud.storage.leases import Leases
from cloud.storage.tables import DesiredRow
from fleet.contract.messages import Activation, Desired
from fleet.contract.release import SignedDesired, Trust
from fleet.release.keys import make_key, make_keys, save_key
from fleet.release.pinned import pinned
from fleet.release.repository import check_trust, online_keyid
from fleet.release.rotation import KeyRole, replaced
from tests.fakes.evaluations import changed, good_figures
from tests.fakes.releases import ReleaseDesk
from tests.fakes.releasing import Releasing, leading, refusal, releasing, stored_trust

pytestmark = pytest.mark.anyio


async def test_the_trust_is_given_once_and_only_ours(
    sqlite_settings: Callable[..., Any], tools: Any, desk: ReleaseDesk, tmp_path: Path
) -> None:
    async with releasing(sqlite_settings, tools, desk) as fleet:
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
    async with releasing(sqlite_settings, tools, desk) as fleet:
        await fleet.give_trust()
        await fleet.release()
        await fleet.cloud.device("bench-1", "lab-a")
        await fleet.wish(activation=Activation.DOWNLOAD)
        before = await fleet.trust()
        given = replaced(before, role, root=desk.keys.root, new=new, now=datetime.now(UTC))
        if role is KeyRole.ONLINE:
            assert refusal(await fleet.give_trust(given)) == (422, "online_key_mismatch")
            assert await fleet.trust() == before
            desk.online_key_file.unlink()
            save_key(desk.online_key_file, new)
    async with releasing(sqlite_settings, tools, desk) as fleet:
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
    releases = [await fleet.release() for _ in range(2)]
    for number, detail in enumerate(releases, start=1):
        assert await fleet.wish(target=detail.target) == number
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
