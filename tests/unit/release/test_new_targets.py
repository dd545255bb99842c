"""New targets: a truthful chain and one edit, each refused by its own check."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, TargetFile

from fleet.contract.release import MAX_TRUST_BYTES, ReleaseTarget, Trust
from fleet.release.chunks import cut
from fleet.release.documents import RELEASES_FILL_BYTES, target_of, trust_bytes
from fleet.release.errors import TargetsRefused, TrustInvalid, WrongKey
from fleet.release.repository import check_new_targets, check_trust, online_keyid, resigned, with_release
from tests.unit.release.release_chain import (
    NOW,
    SNAPSHOT_FOR,
    TIMESTAMP_FOR,
    Fleet,
    archive_of,
    bundle_files,
    describe,
    edited,
    rotated_root,
)

LATER = NOW + timedelta(minutes=1)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.begun().released().released(head=b"head two")


@pytest.fixture(scope="module")
def new(fleet: Fleet) -> tuple[str, bytes]:
    return fleet.next_targets(head=b"head three")


def refused(fleet: Fleet, targets: str, archive: bytes) -> int:
    with pytest.raises(TargetsRefused) as caught:
        check_new_targets(fleet.trust, targets, archive, LATER)
    return caught.value.check


def newest(signed: Any) -> str:
    paths: list[str] = list(signed.targets)
    return max(paths, key=lambda path: int(path.partition("-")[0]))


def redescribed(**changes: object) -> Callable[[Any], None]:
    """An edit of the newest target's description, put under the name that it then has."""

    def change(signed: Any) -> None:
        target: TargetFile = signed.targets.pop(newest(signed))
        release = ReleaseTarget.model_validate({**target.custom, **changes})
        custom = {"custom": release.model_dump(mode="json", by_alias=True)}
        signed.targets[release.path] = TargetFile(target.length, dict(target.hashes), release.path, custom)

    return change


def test_the_next_release_is_accepted_and_told(fleet: Fleet, new: tuple[str, bytes]) -> None:
    release = check_new_targets(fleet.trust, *new, LATER)
    assert (release.counter, release.version) == (3, "1.3.0")
    assert sum(chunk.size_bytes for chunk in release.chunks) == len(new[1])


@pytest.mark.parametrize("junk", ["", "{}", "null", "[" * 5000])
def test_check_1_what_is_no_targets_document(fleet: Fleet, new: tuple[str, bytes], junk: str) -> None:
    assert refused(fleet, junk, new[1]) == 1


def test_check_1_another_kind_of_document(fleet: Fleet, new: tuple[str, bytes]) -> None:
    assert refused(fleet, fleet.trust.snapshot, new[1]) == 1


def test_check_1_a_trust_message_that_devices_would_not_read(fleet: Fleet, new: tuple[str, bytes]) -> None:
    padded = edited(new[0], fleet.keys.release, lambda s: s.unrecognized_fields.update(x="y" * MAX_TRUST_BYTES))
    assert refused(fleet, padded, new[1]) == 1


def test_check_12_a_trust_message_that_leaves_no_room_for_new_keys(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def padding(size: int) -> Callable[[Any], object]:
        return lambda signed: signed.unrecognized_fields.update(x="y" * size)

    base = trust_bytes(fleet.trust.model_copy(update={"targets": edited(new[0], fleet.keys.release, padding(0))}))
    fits = edited(new[0], fleet.keys.release, padding(RELEASES_FILL_BYTES - base))
    assert check_new_targets(fleet.trust, fits, new[1], LATER).counter == 3
    full = edited(new[0], fleet.keys.release, padding(RELEASES_FILL_BYTES - base + 1))
    with pytest.raises(TargetsRefused, match="release prune") as told:
        check_new_targets(fleet.trust, full, new[1], LATER)
    assert told.value.check == 12
    # What is full can still be signed again, also after every key was replaced once.
    grown = fleet.trust.model_copy(update={"targets": fits, "roots": fleet.trust.roots * 4})
    assert trust_bytes(grown) < MAX_TRUST_BYTES


def test_check_1_delegations(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def delegate(signed: Any) -> None:
        signed.delegations = Delegations({}, {})

    assert refused(fleet, edited(new[0], fleet.keys.release, delegate), new[1]) == 1


@pytest.mark.parametrize("signer", ["root", "online", "stranger", "nobody"])
def test_check_2_another_signer(fleet: Fleet, new: tuple[str, bytes], signer: str) -> None:
    key = {"stranger": CryptoSigner.generate_ed25519(), "nobody": None}.get(signer, getattr(fleet.keys, signer, None))
    targets = edited(new[0], key, lambda s: s.unrecognized_fields.update(x="y"))
    assert refused(fleet, targets, new[1]) == 2


def test_check_2_a_release_key_that_was_replaced(fleet: Fleet, new: tuple[str, bytes]) -> None:
    root = rotated_root(fleet.trust.roots[0], (fleet.keys.root,), new={"targets": CryptoSigner.generate_ed25519()})
    rotated = replace(fleet, trust=fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)}))
    assert refused(rotated, *new) == 2


@pytest.mark.parametrize("version", [1, 3, 5])
def test_check_3_another_version_than_the_next(fleet: Fleet, new: tuple[str, bytes], version: int) -> None:
    def change(signed: Any) -> None:
        signed.version = version

    assert refused(fleet, edited(new[0], fleet.keys.release, change), new[1]) == 3


def test_check_3_the_targets_that_stand_already(fleet: Fleet) -> None:
    assert refused(fleet, fleet.trust.targets, fleet.archives[2]) == 3


def test_check_4_expired(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def change(signed: Any) -> None:
        signed.expires = NOW

    assert refused(fleet, edited(new[0], fleet.keys.release, change), new[1]) == 4


def test_check_5_an_older_release_removed_or_changed(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def remove(signed: Any) -> None:
        del signed.targets[fleet.releases[0].path]

    def change(signed: Any) -> None:
        path = fleet.releases[0].path
        signed.targets[path].unrecognized_fields["custom"]["checked"] = False

    for edit in (remove, change):
        assert refused(fleet, edited(new[0], fleet.keys.release, edit), new[1]) == 5


def test_check_6_none_or_two_added(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def none(signed: Any) -> None:
        del signed.targets[newest(signed)]

    def two(signed: Any) -> None:
        signed.targets["firmware.bin"] = TargetFile(5, {"sha256": "0" * 64}, "firmware.bin")

    for edit in (none, two):
        assert refused(fleet, edited(new[0], fleet.keys.release, edit), new[1]) == 6


def test_check_6_a_description_that_is_none_or_of_something_else(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def undescribed(signed: Any) -> None:
        signed.targets[newest(signed)].unrecognized_fields.clear()

    def renamed(signed: Any) -> None:
        target = signed.targets.pop(newest(signed))
        signed.targets["3-other.zip"] = TargetFile(
            target.length, target.hashes, "3-other.zip", target.unrecognized_fields
        )

    def weaker(signed: Any) -> None:
        signed.targets[newest(signed)].hashes["md5"] = "0" * 32

    for edit in (undescribed, renamed, weaker):
        assert refused(fleet, edited(new[0], fleet.keys.release, edit), new[1]) == 6


@pytest.mark.parametrize("counter", [1, 2, 4])
def test_check_7_another_counter_than_the_next(fleet: Fleet, new: tuple[str, bytes], counter: int) -> None:
    assert refused(fleet, edited(new[0], fleet.keys.release, redescribed(counter=counter)), new[1]) == 7


def test_check_7_made_in_the_future(fleet: Fleet, new: tuple[str, bytes]) -> None:
    future = redescribed(created_at=NOW + timedelta(days=1))
    assert refused(fleet, edited(new[0], fleet.keys.release, future), new[1]) == 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:],
        lambda data: b"",
    ],
)
def test_check_8_another_archive(fleet: Fleet, new: tuple[str, bytes], spoil: Callable[[bytes], bytes]) -> None:
    assert refused(fleet, new[0], spoil(new[1])) == 8


def test_check_9_a_chunk_list_of_another_cutting(fleet: Fleet, new: tuple[str, bytes]) -> None:
    def swap(signed: Any) -> None:
        chunks = signed.targets[newest(signed)].unrecognized_fields["custom"]["chunks"]
        chunks[0], chunks[1] = chunks[1], chunks[0]

    assert refused(fleet, edited(new[0], fleet.keys.release, swap), new[1]) == 9


def signed_archive(fleet: Fleet, archive: bytes, release: ReleaseTarget) -> str:
    """Targets that name an archive, whatever it is."""

    def add(signed: Any) -> None:
        signed.version += 1
        signed.targets[release.path] = target_of(release, archive)

    return edited(fleet.trust.targets, fleet.keys.release, add)


def test_check_9_an_archive_that_is_no_zip(fleet: Fleet) -> None:
    archive = b"no zip at all" * 100
    good, digest = archive_of()
    chunks = (describe(good, digest, counter=3).chunks[0].model_copy(update={"size_bytes": len(archive)}),)
    release = describe(good, digest, counter=3).model_copy(update={"size_bytes": len(archive), "chunks": chunks})
    assert refused(fleet, signed_archive(fleet, archive, release), archive) == 9


def repacked(archive: bytes, **members: bytes | None) -> bytes:
    """The same zip with members added or left out."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        content = {info.filename: old.read(info) for info in old.infolist()}
        for name, data in {**content, **members}.items():
            if data is not None:
                new.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        {"../../etc/cron.d/evil": b"x"},
        {"/etc/passwd": b"x"},
        {"golden/../../x": b"x"},
        {"extra.bin": b"x"},
        {"head.npz": b"another head"},
        {"head.npz": None},
        {"manifest.json": None},
    ],
)
def test_check_10_a_bundle_that_escapes_or_is_not_intact(fleet: Fleet, members: dict[str, bytes | None]) -> None:
    good, digest = archive_of(version="1.3.0", files=bundle_files(b"head three"))
    archive = repacked(good, **members)
    release = describe(archive, digest, counter=3, version="1.3.0")
    assert refused(fleet, signed_archive(fleet, archive, release), archive) == 10


@pytest.mark.parametrize("changes", [{"digest": "sha256:" + "a" * 64}, {"version": "9.9.9"}, {"name": "other"}])
def test_check_10_a_description_of_another_bundle(
    fleet: Fleet, new: tuple[str, bytes], changes: dict[str, str]
) -> None:
    assert refused(fleet, edited(new[0], fleet.keys.release, redescribed(**changes)), new[1]) == 10


def evidence_against(champion: str) -> dict[str, object]:
    return {"evidence": {"sha256": "e" * 64, "champion": champion, "frozen_set": "f" * 64, "accepted": True}}


def followed(fleet: Fleet, head: bytes, **changes: object) -> Fleet:
    """One release more, with these fields of its description."""
    targets, archive = fleet.next_targets(head=head)
    trust = fleet.trust.model_copy(update={"targets": edited(targets, fleet.keys.release, redescribed(**changes))})
    return replace(fleet, trust=trust, archives={**fleet.archives, len(fleet.archives) + 1: archive}).fresh()


@pytest.mark.parametrize(
    ("first", "second", "champion", "accepted"),
    [
        ({}, {}, 0, True),
        ({}, {}, 1, False),
        ({}, {"with evidence": True}, 1, True),
        ({}, {"with evidence": True, "checked": False}, 1, False),
        ({"checked": False}, {}, 0, False),
        ({"checked": False}, {"with evidence": True}, 1, True),
    ],
    ids=[
        "the first",
        "one without evidence",
        "one with evidence",
        "unchecked",
        "the first, unchecked",
        "not by the first",
    ],
)
def test_check_11_evidence_compares_with_a_release_that_is_a_measure(
    first: dict[str, object], second: dict[str, object], champion: int, accepted: bool
) -> None:
    one = followed(Fleet.begun(), b"head one", **first)
    proof = evidence_against(one.releases[0].digest) if second.get("with evidence") else {}
    checked = {"checked": second.get("checked", True)}
    two = followed(one, b"head two", **checked, **proof)
    targets, archive = two.next_targets(head=b"head three")
    compared = redescribed(**evidence_against(two.releases[champion].digest))
    third = edited(targets, two.keys.release, compared)
    if accepted:
        assert check_new_targets(two.trust, third, archive, LATER).counter == 3
    else:
        assert refused(two, third, archive) == 11


def test_check_11_evidence_that_compares_with_what_was_never_released(fleet: Fleet, new: tuple[str, bytes]) -> None:
    stranger = redescribed(**evidence_against("sha256:" + "a" * 64))
    assert refused(fleet, edited(new[0], fleet.keys.release, stranger), new[1]) == 11


# What the operator and the cloud make.


def test_a_wrong_release_key_signs_nothing(fleet: Fleet) -> None:
    archive, digest = archive_of()
    with pytest.raises(WrongKey, match="release key"):
        with_release(fleet.trust, describe(archive, digest, counter=3), archive, fleet.keys.online)


def test_a_release_that_would_be_refused_is_not_signed(fleet: Fleet) -> None:
    archive, digest = archive_of()
    with pytest.raises(TargetsRefused, match="next counter is 3"):
        with_release(fleet.trust, describe(archive, digest, counter=7), archive, fleet.keys.release)


def test_a_wrong_online_key_signs_nothing(fleet: Fleet) -> None:
    with pytest.raises(WrongKey, match="online"):
        resigned(fleet.trust, fleet.keys.release, NOW, timestamp_for=TIMESTAMP_FOR, snapshot_for=SNAPSHOT_FOR)


def test_signing_again_goes_one_version_up_and_keeps_the_rest(fleet: Fleet) -> None:
    before, after = check_trust(fleet.trust), check_trust(fleet.fresh(LATER).trust, LATER)
    assert (after.snapshot.version, after.timestamp.version) == (
        before.snapshot.version + 1,
        before.timestamp.version + 1,
    )
    assert (after.targets, after.root) == (before.targets, before.root)
    assert after.timestamp.expires == LATER + TIMESTAMP_FOR


def test_the_online_key_is_the_one_that_the_newest_root_names(fleet: Fleet) -> None:
    assert online_keyid(fleet.trust) == fleet.keys.online.public_key.keyid


BROKEN: dict[str, Callable[[Fleet], Trust]] = {
    "another root in between": lambda f: f.trust.model_copy(update={"roots": (*f.trust.roots, f.trust.roots[0])}),
    "a root of another fleet": lambda f: f.trust.model_copy(update={"roots": Fleet.begun().trust.roots}),
    "an older snapshot": lambda f: f.trust.model_copy(
        update={"snapshot": Fleet(f.keys, f.trust).fresh().trust.snapshot}
    ),
    "targets that the snapshot does not name": lambda f: f.trust.model_copy(update={"targets": f.next_targets()[0]}),
    "a timestamp of the release key": lambda f: f.trust.model_copy(
        update={"timestamp": edited(f.trust.timestamp, f.keys.release)}
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_documents_that_do_not_prove_each_other_are_refused(fleet: Fleet, name: str) -> None:
    with pytest.raises(TrustInvalid):
        check_trust(BROKEN[name](fleet))


def test_expiry_is_judged_when_asked(fleet: Fleet) -> None:
    check_trust(fleet.trust, NOW)
    with pytest.raises(TrustInvalid, match="expired"):
        check_trust(fleet.trust, NOW + TIMESTAMP_FOR)


def test_our_own_cutting_is_what_is_signed(fleet: Fleet) -> None:
    assert tuple(cut(fleet.archives[1])) == fleet.releases[0].chunks
