"""What the device trusts: a truthful chain and one edit, each refused with its own code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.update.errors import TrustRefused
from edge_agent.update.trust_tuf import TrustStore
from fleet.contract.release import MAX_TRUST_BYTES, Trust, UpdateCode
from fleet.release.keys import make_keys
from fleet.release.repository import first_trust, resigned
from tests.unit.release.release_chain import (
    NOW,
    ONLINE_ROLES,
    SNAPSHOT_FOR,
    TIMESTAMP_FOR,
    Fleet,
    edited,
    rotated_root,
)

LATER = NOW + timedelta(hours=1)
STRANGER = CryptoSigner.generate_ed25519()


@pytest.fixture
def fleet() -> Fleet:
    """Two releases, as the cloud serves them."""
    return Fleet.begun().released().released(head=b"head two")


@pytest.fixture
def store(tmp_path: Path, fleet: Fleet) -> TrustStore:
    return TrustStore(tmp_path / "trust", fleet.root_bytes)


def refused(store: TrustStore, trust: Trust, now: datetime = LATER) -> UpdateCode:
    with pytest.raises(TrustRefused) as caught:
        store.refresh(trust, now)
    return caught.value.code


def with_part(trust: Trust, part: str, text: str) -> Trust:
    return trust.model_copy(update={part: (text,) if part == "roots" else text})


def test_a_truthful_chain_gives_its_releases(store: TrustStore, fleet: Fleet) -> None:
    releases = store.refresh(fleet.trust, LATER)
    assert sorted(releases.by_key) == sorted((r.digest, r.counter) for r in fleet.releases)
    first = fleet.releases[0]
    assert releases.find(first.digest, 1) == first
    assert releases.online_keyid == fleet.keys.online.public_key.keyid
    assert releases.chunks == {chunk.sha256 for release in fleet.releases for chunk in release.chunks}


def test_the_same_message_again_changes_nothing(store: TrustStore, fleet: Fleet) -> None:
    assert store.refresh(fleet.trust, LATER) == store.refresh(fleet.trust, LATER)


def test_a_release_that_nobody_signed_is_not_found(store: TrustStore, fleet: Fleet) -> None:
    releases = store.refresh(fleet.trust, LATER)
    with pytest.raises(TrustRefused) as caught:
        releases.find(fleet.releases[0].digest, 2)
    assert caught.value.code is UpdateCode.SIGNATURE


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_a_flipped_bit_is_a_wrong_signature(store: TrustStore, fleet: Fleet, part: str) -> None:
    text = getattr(fleet.trust, part)
    place = text.index('"expires":"2') + len('"expires":"')
    flipped = f"{text[:place]}{chr(ord(text[place]) ^ 1)}{text[place + 1 :]}"
    assert refused(store, with_part(fleet.trust, part, flipped)) is UpdateCode.SIGNATURE
    assert not store.releases.by_key


def test_a_flipped_bit_in_a_later_root_is_a_wrong_signature(store: TrustStore, fleet: Fleet) -> None:
    root = rotated_root(fleet.trust.roots[0], (fleet.keys.root,), new={})
    flipped = root.replace('"version":2', '"version":3')
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, flipped)})
    assert refused(store, trust) is UpdateCode.SIGNATURE


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("junk", ["", "{}", "[]", "null", "[" * 5000, "\ud800", '{"signed": 1, "signatures": []}'])
def test_what_is_no_document_is_refused(store: TrustStore, fleet: Fleet, part: str, junk: str) -> None:
    trust = Trust.model_construct(**{**dict(fleet.trust), part: junk})
    assert refused(store, trust) is UpdateCode.SIGNATURE


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_a_strangers_key_is_a_wrong_signature(store: TrustStore, fleet: Fleet, part: str) -> None:
    trust = with_part(fleet.trust, part, edited(getattr(fleet.trust, part), STRANGER))
    assert refused(store, trust) is UpdateCode.SIGNATURE


@pytest.mark.parametrize(
    ("part", "key"), [("targets", "online"), ("timestamp", "release"), ("snapshot", "release"), ("targets", "root")]
)
def test_another_roles_key_is_a_wrong_signature(store: TrustStore, fleet: Fleet, part: str, key: str) -> None:
    signer = getattr(fleet.keys, key)
    trust = with_part(fleet.trust, part, edited(getattr(fleet.trust, part), signer))
    assert refused(store, trust) is UpdateCode.SIGNATURE


@pytest.mark.parametrize(("part", "other"), [("timestamp", "snapshot"), ("snapshot", "timestamp"), ("targets", "root")])
def test_a_document_in_anothers_place_is_refused(store: TrustStore, fleet: Fleet, part: str, other: str) -> None:
    text = fleet.trust.roots[0] if other == "root" else getattr(fleet.trust, other)
    assert refused(store, with_part(fleet.trust, part, text)) is UpdateCode.SIGNATURE


def test_an_unsigned_document_is_refused(store: TrustStore, fleet: Fleet) -> None:
    text = edited(fleet.trust.targets, None, lambda signed: signed.targets.clear())
    assert refused(store, with_part(fleet.trust, "targets", text)) is UpdateCode.SIGNATURE


def test_another_fleets_whole_chain_is_refused(store: TrustStore) -> None:
    assert refused(store, Fleet.begun().released().trust) is UpdateCode.SIGNATURE


def test_another_fleets_root_is_not_followed(tmp_path: Path, fleet: Fleet) -> None:
    other = Fleet.begun().released()
    store = TrustStore(tmp_path / "other", other.root_bytes)
    assert refused(store, fleet.trust) is UpdateCode.SIGNATURE


# Rollback, freeze, mix and match.


def test_an_older_message_is_a_rollback(store: TrustStore, fleet: Fleet) -> None:
    store.refresh(fleet.fresh(LATER).trust, LATER)
    assert refused(store, fleet.trust) is UpdateCode.ROLLBACK
    assert len(store.releases.by_key) == 2


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_an_older_document_in_a_newer_message_is_a_rollback(store: TrustStore, fleet: Fleet, part: str) -> None:
    newer = fleet.released(head=b"head three")
    store.refresh(newer.trust, LATER)
    trust = with_part(newer.released(head=b"head four").trust, part, getattr(fleet.trust, part))
    assert refused(store, trust) is UpdateCode.ROLLBACK
    assert len(store.releases.by_key) == 3


def test_a_known_timestamp_brings_nothing_new_in(store: TrustStore, fleet: Fleet) -> None:
    before = store.refresh(fleet.trust, LATER)
    trust = with_part(fleet.released(head=b"head three").trust, "timestamp", fleet.trust.timestamp)
    assert store.refresh(trust, LATER) == before


@pytest.mark.parametrize("part", ["snapshot", "targets"])
def test_documents_of_two_moments_are_refused_also_at_first(store: TrustStore, fleet: Fleet, part: str) -> None:
    trust = with_part(fleet.released(head=b"head three").trust, part, getattr(fleet.trust, part))
    assert refused(store, trust) is UpdateCode.ROLLBACK


def test_a_stolen_online_key_cannot_bring_older_targets_back(store: TrustStore, fleet: Fleet) -> None:
    older = Fleet(fleet.keys, with_part(fleet.trust, "targets", first_trust(fleet.keys, NOW).targets))
    store.refresh(fleet.trust, LATER)
    assert refused(store, older.fresh(LATER).trust) is UpdateCode.ROLLBACK


def test_a_stolen_online_key_cannot_leave_the_targets_out(store: TrustStore, fleet: Fleet) -> None:
    def forget(signed: Any) -> None:
        signed.version += 1
        signed.meta.clear()

    def follow(signed: Any) -> None:
        signed.version += 1
        signed.snapshot_meta.version += 1

    store.refresh(fleet.trust, LATER)
    online = fleet.keys.online
    trust = with_part(fleet.trust, "snapshot", edited(fleet.trust.snapshot, online, forget))
    trust = with_part(trust, "timestamp", edited(trust.timestamp, online, follow))
    with pytest.raises(TrustRefused):
        store.refresh(trust, LATER)
    assert len(store.releases.by_key) == 2


def test_a_frozen_chain_is_stale_and_good_again_when_signed_again(store: TrustStore, fleet: Fleet) -> None:
    store.refresh(fleet.trust, LATER)
    much_later = NOW + TIMESTAMP_FOR + timedelta(seconds=1)
    assert refused(store, fleet.trust, much_later) is UpdateCode.STALE
    assert len(store.refresh(fleet.fresh(much_later).trust, much_later).by_key) == 2


@pytest.mark.parametrize(
    ("timestamp_for", "snapshot_for"), [(timedelta(minutes=1), SNAPSHOT_FOR), (TIMESTAMP_FOR, timedelta(minutes=1))]
)
def test_an_expired_timestamp_or_snapshot_is_stale(
    store: TrustStore, fleet: Fleet, timestamp_for: timedelta, snapshot_for: timedelta
) -> None:
    trust = resigned(fleet.trust, fleet.keys.online, NOW, timestamp_for=timestamp_for, snapshot_for=snapshot_for)
    assert refused(store, trust) is UpdateCode.STALE


def test_expired_targets_are_stale(store: TrustStore, fleet: Fleet) -> None:
    years_later = NOW + timedelta(days=6 * 365)
    assert refused(store, fleet.fresh(years_later).trust, years_later) is UpdateCode.STALE


def test_an_expired_root_is_stale(store: TrustStore, fleet: Fleet) -> None:
    def expire(signed: Any) -> None:
        signed.expires = NOW

    root = edited(rotated_root(fleet.trust.roots[0], (), new={}), fleet.keys.root, expire)
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)})
    assert refused(store, trust) is UpdateCode.STALE


# Endless data, foreign targets.


def test_more_than_is_read_is_refused_by_its_length(store: TrustStore, fleet: Fleet) -> None:
    trust = with_part(fleet.trust, "snapshot", " " * MAX_TRUST_BYTES)
    assert refused(store, trust) is UpdateCode.LENGTH


def test_a_foreign_target_is_none_of_our_releases(store: TrustStore, fleet: Fleet) -> None:
    def smuggle(signed: Any) -> None:
        known = next(iter(signed.targets.values()))
        signed.targets["firmware.bin"] = type(known)(5, {"sha256": "0" * 64}, "firmware.bin")
        moved = type(known)(known.length, dict(known.hashes), "9-other.zip", dict(known.unrecognized_fields))
        signed.targets["9-other.zip"] = moved

    targets = edited(fleet.trust.targets, fleet.keys.release, smuggle)
    releases = store.refresh(with_part(fleet.trust, "targets", targets), LATER)
    assert len(releases.by_key) == 2


def test_the_chunks_of_a_release_of_a_newer_schema_are_those_of_something_signed(
    store: TrustStore, fleet: Fleet
) -> None:
    named = {chunk.sha256 for release in fleet.releases for chunk in release.chunks}

    def newer(signed: Any) -> None:
        known = next(iter(signed.targets.values()))
        custom = {"schema": "ahs.release/2", "chunks": [{"sha256": "c" * 64, "zstd": True}, {"name": 7}, "junk"]}
        for path, more in (("7-new.zip", custom), ("8-odd.zip", {"chunks": 7}), ("9-none.zip", ["chunks"])):
            signed.targets[path] = type(known)(5, {"sha256": "0" * 64}, path, {"custom": more})

    later = with_part(fleet.trust, "targets", edited(fleet.trust.targets, fleet.keys.release, newer))
    releases = store.refresh(later, LATER)
    assert len(releases.by_key) == 2
    assert releases.chunks == named | {"c" * 64}


# Roots.


def rotated(fleet: Fleet, **new: CryptoSigner) -> Fleet:
    """Online key replaced, signed by the old root and the new."""
    root = rotated_root(fleet.trust.roots[-1], (fleet.keys.root,), new=dict.fromkeys(ONLINE_ROLES, new["online"]))
    keys = type(fleet.keys)(fleet.keys.root, fleet.keys.release, new["online"])
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)})
    return Fleet(keys, trust, fleet.archives).fresh(LATER)


def test_a_root_signed_by_old_and_new_key_is_followed(store: TrustStore, fleet: Fleet) -> None:
    new = CryptoSigner.generate_ed25519()
    root = rotated_root(fleet.trust.roots[0], (fleet.keys.root, new), new={"root": new})
    releases = store.refresh(fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)}), LATER)
    assert len(releases.by_key) == 2


@pytest.mark.parametrize("signer", ["old", "new"])
def test_a_root_signed_by_one_of_both_keys_is_refused(store: TrustStore, fleet: Fleet, signer: str) -> None:
    new = CryptoSigner.generate_ed25519()
    signers = {"old": (fleet.keys.root,), "new": (new,)}[signer]
    root = rotated_root(fleet.trust.roots[0], signers, new={"root": new})
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)})
    assert refused(store, trust) is UpdateCode.SIGNATURE


def test_after_a_rotation_the_old_online_key_counts_no_more(store: TrustStore, fleet: Fleet) -> None:
    new = CryptoSigner.generate_ed25519()
    store.refresh(rotated(fleet, online=new).trust, LATER)
    assert refused(store, fleet.fresh(LATER).fresh(LATER).fresh(LATER).trust) is UpdateCode.SIGNATURE


def test_a_skipped_root_is_a_rollback(store: TrustStore, fleet: Fleet) -> None:
    second = rotated_root(fleet.trust.roots[0], (fleet.keys.root,), new={})
    third = rotated_root(second, (fleet.keys.root,), new={})
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, third)})
    assert refused(store, trust) is UpdateCode.ROLLBACK


def test_a_bootstrap_root_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustRefused) as caught:
        TrustStore(tmp_path / "trust", b"no root")
    assert caught.value.code is UpdateCode.SIGNATURE


# Time.


def test_a_clock_in_1970_does_not_unfreeze_what_has_expired(store: TrustStore, fleet: Fleet) -> None:
    later = fleet.released(head=b"head three", at=NOW + timedelta(days=30))
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    store.refresh(later.trust, clock)
    assert store.reference_time(clock) == NOW + timedelta(days=30)
    stale = resigned(
        later.trust, later.keys.online, NOW, timestamp_for=timedelta(days=1), snapshot_for=timedelta(days=60)
    )
    assert refused(store, stale, clock) is UpdateCode.STALE


def test_the_floor_of_time_outlives_a_restart(tmp_path: Path, fleet: Fleet) -> None:
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    TrustStore(tmp_path / "trust", fleet.root_bytes).refresh(fleet.fresh(LATER).trust, clock)
    again = TrustStore(tmp_path / "trust", fleet.root_bytes)
    assert again.reference_time(clock) == LATER


def test_a_clock_ten_years_ahead_stops_updates_until_it_is_right_again(store: TrustStore, fleet: Fleet) -> None:
    assert refused(store, fleet.trust, NOW + timedelta(days=3650)) is UpdateCode.STALE
    assert len(store.refresh(fleet.trust, LATER).by_key) == 2


def test_a_stolen_online_key_cannot_push_the_floor_for_good(store: TrustStore, fleet: Fleet) -> None:
    future = NOW + timedelta(days=4 * 365)
    store.refresh(fleet.fresh(future).trust, LATER)
    assert refused(store, fleet.fresh(LATER).fresh(LATER).trust) is UpdateCode.STALE
    assert len(store.refresh(rotated(fleet, online=CryptoSigner.generate_ed25519()).trust, LATER).by_key) == 2


def test_the_kit_is_verified_without_judging_its_expiry(store: TrustStore, fleet: Fleet) -> None:
    years_later = NOW + timedelta(days=20 * 365)
    assert len(store.refresh(fleet.trust, years_later, judge_expiry=False).by_key) == 2
    assert refused(store, fleet.trust, years_later) is UpdateCode.STALE


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_the_kit_passes_the_same_checks_otherwise(store: TrustStore, fleet: Fleet, part: str) -> None:
    trust = with_part(fleet.trust, part, edited(getattr(fleet.trust, part), STRANGER))
    with pytest.raises(TrustRefused) as caught:
        store.refresh(trust, LATER, judge_expiry=False)
    assert caught.value.code is UpdateCode.SIGNATURE


def test_an_old_kit_neither_undoes_nor_is_hindered_by_what_came_later(store: TrustStore, fleet: Fleet) -> None:
    later = fleet.released(head=b"head three")
    store.refresh(later.trust, LATER)
    assert len(store.refresh(fleet.trust, LATER, judge_expiry=False).by_key) == 2
    assert len(store.releases.by_key) == 3


CHANGES: dict[str, Callable[[Trust], Trust]] = {
    "roots": lambda trust: trust.model_copy(update={"roots": (trust.roots[0], "{}")}),
    "timestamp": lambda trust: with_part(trust, "timestamp", "{}"),
}


@pytest.mark.parametrize("part", sorted(CHANGES))
def test_a_refused_message_leaves_what_was_trusted(store: TrustStore, fleet: Fleet, part: str) -> None:
    before = store.refresh(fleet.trust, LATER)
    refused(store, CHANGES[part](fleet.fresh(LATER).trust))
    assert store.releases == before
    assert store.refresh(fleet.fresh(LATER).trust, LATER) == before


def test_keys_are_made_anew_each_time() -> None:
    keys = make_keys()
    assert len({keys.root.public_key.keyid, keys.release.public_key.keyid, keys.online.public_key.keyid}) == 3
