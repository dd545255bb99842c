"""Targets that leave old releases out: what is taken, and what each check refuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from fleet.release.checking import check_continues
from fleet.release.documents import check_trust
from fleet.release.errors import TargetsRefused, TrustInvalid, WrongKey
from fleet.release.pruning import check_pruned_targets, pruned
from fleet.release.repository import releases_of
from tests.unit.release.release_chain import NOW, Fleet, edited

LATER = NOW + timedelta(minutes=1)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.begun().released().released(head=b"head two").released(head=b"head three")


def refused(fleet: Fleet, text: str) -> int:
    with pytest.raises(TargetsRefused) as told:
        check_pruned_targets(fleet.trust, text, LATER)
    return told.value.check


def signed(fleet: Fleet, change: Callable[[Any], object], signer: CryptoSigner | None = None) -> str:
    """The present targets under the next version, changed."""

    def changed(targets: Any) -> None:
        targets.version += 1
        change(targets)

    return edited(fleet.trust.targets, signer or fleet.keys.release, changed)


def without(counter: int) -> Callable[[Any], object]:
    def change(targets: Any) -> None:
        del targets.targets[next(path for path in targets.targets if path.startswith(f"{counter}-"))]

    return change


def test_what_is_left_out_is_told_and_the_rest_is_as_it_was(fleet: Fleet) -> None:
    text = pruned(fleet.trust, {1, 3}, fleet.keys.release, LATER)
    assert [release.counter for release in check_pruned_targets(fleet.trust, text, LATER)] == [2]
    after = Fleet(fleet.keys, fleet.trust.model_copy(update={"targets": text}), fleet.archives).fresh(LATER)
    assert [release for release in fleet.releases if release.counter != 2] == list(after.releases)
    check_trust(after.trust, LATER)
    check_continues(fleet.trust, after.trust)
    with pytest.raises(TrustInvalid, match="was set back"):
        check_continues(after.trust, fleet.trust)
    # The next release goes on from the highest counter.
    assert releases_of(after.trust)[-1].counter == 3


def test_another_key_signs_nothing(fleet: Fleet) -> None:
    with pytest.raises(WrongKey):
        pruned(fleet.trust, {3}, fleet.keys.online, LATER)


def test_each_check_refuses_what_it_is_for(fleet: Fleet) -> None:
    def same(targets: Any) -> None:
        pass

    def again(targets: Any) -> None:
        without(1)(targets)
        targets.version += 1

    def expired(targets: Any) -> None:
        without(1)(targets)
        targets.expires = NOW

    def altered(targets: Any) -> None:
        without(1)(targets)
        next(iter(targets.targets.values())).length += 1

    assert refused(fleet, "{}") == 1
    assert refused(fleet, fleet.trust.snapshot) == 1
    assert refused(fleet, signed(fleet, without(1), fleet.keys.online)) == 2
    assert refused(fleet, signed(fleet, again)) == 3
    assert refused(fleet, signed(fleet, expired)) == 4
    assert refused(fleet, signed(fleet, altered)) == 5
    assert refused(fleet, signed(fleet, same)) == 6
    assert refused(fleet, signed(fleet, without(3))) == 7


def test_newer_documents_without_the_highest_counter_are_not_gone_on_from(fleet: Fleet) -> None:
    text = signed(fleet, without(3))
    after = Fleet(fleet.keys, fleet.trust.model_copy(update={"targets": text}), fleet.archives).fresh(LATER)
    with pytest.raises(TrustInvalid, match="was set back"):
        check_continues(fleet.trust, after.trust)
