"""A key is replaced: what the cloud goes on from, and that a device follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.update.errors import TrustRefused
from edge_agent.update.trust_tuf import TrustStore
from fleet.contract.release import Trust, UpdateCode
from fleet.release.errors import TrustInvalid, WrongKey
from fleet.release.keys import Keys, make_key
from fleet.release.repository import first_trust, resigned
from fleet.release.rotation import MAX_ROOTS, KeyRole, replaced, successor
from tests.unit.release.release_chain import NOW, SNAPSHOT_FOR, TIMESTAMP_FOR, Fleet, edited

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet.begun().released()


def after(fleet: Fleet, role: KeyRole, new: CryptoSigner) -> Fleet:
    """The fleet when operator and cloud have gone through it."""
    given = replaced(fleet.trust, role, root=fleet.keys.root, new=new, now=LATER)
    keys: Keys = replace(fleet.keys, **{role.value: new})
    trust = successor(fleet.trust, given, LATER)
    fresh = resigned(trust, keys.online, LATER, timestamp_for=TIMESTAMP_FOR, snapshot_for=SNAPSHOT_FOR)
    return replace(fleet, keys=keys, trust=fresh)


@pytest.mark.parametrize("role", list(KeyRole))
def test_devices_follow_and_take_the_next_release_of_the_new_key_alone(
    tmp_path: Path, fleet: Fleet, role: KeyRole
) -> None:
    store = TrustStore(tmp_path / "trust", fleet.root_bytes)
    store.refresh(fleet.trust, LATER)
    moved = after(fleet, role, make_key())
    assert len(store.refresh(moved.trust, LATER).by_key) == 1
    assert len(store.refresh(moved.released(head=b"head two", at=LATER).trust, LATER).by_key) == 2
    if role is not KeyRole.ROOT:
        with pytest.raises(TrustRefused) as caught:
            store.refresh(
                fleet.released(head=b"head x")
                .released(head=b"y")
                .fresh(LATER)
                .trust.model_copy(update={"roots": moved.trust.roots}),
                LATER,
            )
        assert caught.value.code in (UpdateCode.SIGNATURE, UpdateCode.ROLLBACK)


def test_after_a_stolen_release_key_what_the_thief_released_is_dropped(tmp_path: Path, fleet: Fleet) -> None:
    stolen = fleet.released(head=b"poison")
    store = TrustStore(tmp_path / "trust", fleet.root_bytes)
    assert len(store.refresh(stolen.trust, LATER).by_key) == 2
    new = make_key()
    given = replaced(fleet.trust, KeyRole.RELEASE, root=fleet.keys.root, new=new, now=LATER)
    trust = successor(stolen.trust, given, LATER)
    fresh = resigned(trust, fleet.keys.online, LATER, timestamp_for=TIMESTAMP_FOR, snapshot_for=SNAPSHOT_FOR)
    assert sorted(store.refresh(fresh, LATER).by_key) == [(r.digest, r.counter) for r in fleet.releases]


def test_only_the_root_key_replaces_keys(fleet: Fleet) -> None:
    with pytest.raises(WrongKey):
        replaced(fleet.trust, KeyRole.ONLINE, root=fleet.keys.release, new=make_key(), now=LATER)


def test_a_trust_carries_so_many_roots_and_no_more(fleet: Fleet) -> None:
    trust = fleet.trust
    for _ in range(MAX_ROOTS - 1):
        trust = replaced(trust, KeyRole.ONLINE, root=fleet.keys.root, new=make_key(), now=LATER)
    assert len(Trust.model_validate(trust.model_dump()).roots) == MAX_ROOTS
    with pytest.raises(TrustInvalid, match="has them all"):
        replaced(trust, KeyRole.ONLINE, root=fleet.keys.root, new=make_key(), now=LATER)


def expired(signed: Any) -> None:
    signed.expires = NOW


def older(signed: Any) -> None:
    signed.version = 1


def edited_targets(change: Callable[[Any], object]) -> Callable[[Trust, CryptoSigner, Keys], Trust]:
    return lambda given, new, keys: given.model_copy(update={"targets": edited(given.targets, new, change)})


SPOILED: dict[str, Callable[[Trust, CryptoSigner, Keys], Trust]] = {
    "no new root": lambda given, new, keys: given.model_copy(update={"roots": given.roots[:1]}),
    "another first root": lambda given, new, keys: given.model_copy(
        update={"roots": (first_trust(keys, LATER).roots[0], given.roots[1])}
    ),
    "a root that signs itself": lambda given, new, keys: given.model_copy(
        update={"roots": (given.roots[0], edited(given.roots[1], new))}
    ),
    "an expired root": lambda given, new, keys: given.model_copy(
        update={"roots": (given.roots[0], edited(given.roots[1], keys.root, expired))}
    ),
    "targets of the old key": lambda given, new, keys: given.model_copy(
        update={"targets": edited(given.targets, keys.release)}
    ),
    "expired targets": edited_targets(expired),
    "older targets": edited_targets(older),
    "targets that are no release": edited_targets(
        lambda signed: next(iter(signed.targets.values())).unrecognized_fields.clear()
    ),
}


@pytest.mark.parametrize("name", sorted(SPOILED))
def test_what_does_not_go_on_is_refused(fleet: Fleet, name: str) -> None:
    new = make_key()
    given = replaced(fleet.trust, KeyRole.RELEASE, root=fleet.keys.root, new=new, now=LATER)
    successor(fleet.trust, given, LATER)
    with pytest.raises(TrustInvalid):
        successor(fleet.trust, SPOILED[name](given, new, fleet.keys), LATER)
