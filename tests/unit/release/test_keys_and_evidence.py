"""Private keys on disk, and what evidence may be named in a release."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fleet.contract.base import JsonObject
from fleet.release.errors import EvidenceRefused, KeyExists, KeyMissing, KeyUnreadable
from fleet.release.evidence import MAX_EVIDENCE_BYTES, check_champion, check_evidence, reference
from fleet.release.keys import ONLINE_KEY, RELEASE_KEY, load_key, load_keys, make_keys, save_keys
from fleet.release.pinned import pinned
from tests.fakes.evaluations import changed, evidence_bytes, evidence_for, good_figures

DIGEST = "sha256:" + "a" * 64


def test_keys_come_back_as_they_were_saved(tmp_path: Path) -> None:
    keys = make_keys()
    save_keys(tmp_path / "keys", keys)
    again = load_keys(tmp_path / "keys")
    for name in ("root", "release", "online"):
        assert getattr(again, name).public_key == getattr(keys, name).public_key
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "keys").iterdir())


def test_one_key_that_is_there_stops_all(tmp_path: Path) -> None:
    (tmp_path / RELEASE_KEY).write_bytes(b"precious")
    with pytest.raises(KeyExists):
        save_keys(tmp_path, make_keys())
    assert [path.name for path in tmp_path.iterdir()] == [RELEASE_KEY]
    assert (tmp_path / RELEASE_KEY).read_bytes() == b"precious"


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="keys init"):
        load_key(tmp_path / ONLINE_KEY)


def test_what_is_no_key_of_ours_is_refused(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "some.key"
    for data in (b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", other):
        path.write_bytes(data)
        with pytest.raises(KeyUnreadable):
            load_key(path)
    with pytest.raises(KeyUnreadable):
        load_key(tmp_path)


CHAMPION = "sha256:" + "b" * 64
OTHER = "sha256:" + "d" * 64
WORSE = changed(good_figures(), "home", named=0.5)

DRESSED = {"balanced_accuracy": 0.5, "named_error": 0.1, "nll": 0.5}
"""Figures that only cells of the types can have."""


def document(**changes: object) -> bytes:
    return evidence_bytes(DIGEST, CHAMPION, **{"made": "by a newer program", **changes})


def plan(**changes: object) -> JsonObject:
    return {**pinned().plan.model_dump(mode="json"), **changes}


def test_the_named_evidence_is_the_document_byte_for_byte() -> None:
    data = document()
    named = reference(data, DIGEST)
    assert (named.champion, named.frozen_set) == (CHAMPION, pinned().frozen_sets[0].sha256)
    assert check_evidence(named, DIGEST, data) == json.loads(data)
    assert check_evidence(None, DIGEST, None) is None
    for other in (data + b" ", document(figures={}), None):
        with pytest.raises(EvidenceRefused):
            check_evidence(named, DIGEST, other)
    with pytest.raises(EvidenceRefused):
        check_evidence(None, DIGEST, data)


def test_stricter_limits_than_those_that_ship_are_welcome() -> None:
    assert reference(document(plan=plan(outsiders_named=0.0)), DIGEST).accepted


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{}", "cannot be read"),
        (b" " * (MAX_EVIDENCE_BYTES + 1), "cannot be read"),
        (document(schema="ahs.evidence/3"), "cannot be read"),
        (document(accepted="yes"), "cannot be read"),
        (document(figures={"made for": "this test"}), "cannot be read"),
        (document(plan=None), "cannot be read"),
        (document(plan=plan(outsiders_named="0.04")), "cannot be read"),
        (document(plan=plan(outsiders_named=float("nan"))), "cannot be read"),
        (document(schema="ahs.evidence/1"), "evaluate the bundle anew"),
        (evidence_bytes(OTHER, CHAMPION), "not about this bundle"),
        (document(frozen_set="d5" * 32), "none of those that count"),
        (
            document(before=good_figures() | {"easy": good_figures()["home"]}),
            "slices that the frozen set does not have",
        ),
        (document(after=changed(good_figures(), "home", cells=12)), "of the candidate on that frozen set"),
        (
            document(
                before=changed(good_figures(), "outsiders", **DRESSED, named=0.1),
                after=changed(good_figures(), "outsiders", **DRESSED, named=1.0),
            ),
            "has no types, and yet balanced_accuracy, named_error, nll",
        ),
        (document(plan=plan(outsiders_named=0.5)), "allowed more than releases may: outsiders_named 0.5, at most 0.04"),
        (document(plan=plan(site_least_cells=1000)), "site_least_cells 1000, at most 12"),
        (document(after=WORSE), "did not accept this bundle: home: share named is worse by 0.4600"),
        (document(after=WORSE, accepted=True, reasons=[]), "says accepted, and by its own figures it should not"),
        (document(accepted=False, reasons=["worse"]), "says not accepted, and by its own figures nothing speaks"),
    ],
)
def test_evidence_that_does_not_speak_for_the_bundle_is_refused_with_its_reason(data: bytes, words: str) -> None:
    with pytest.raises(EvidenceRefused, match=words):
        reference(data, DIGEST)


def test_the_current_model_has_the_figures_of_its_own_evidence() -> None:
    own = evidence_for(CHAMPION, OTHER)
    made_worse = evidence_for(DIGEST, CHAMPION, before=WORSE, after=WORSE)
    check_champion(evidence_for(DIGEST, CHAMPION), [own])
    with pytest.raises(EvidenceRefused, match=r"home: named is 0\.5, and was 0\.96"):
        check_champion(made_worse, [own])
    with pytest.raises(EvidenceRefused, match="home: named"):
        check_champion(made_worse, [evidence_for(CHAMPION, OTHER, before=WORSE, after=WORSE), own])


def test_evidence_that_says_nothing_of_the_current_model_on_that_set_is_passed_over() -> None:
    made_worse = evidence_for(DIGEST, CHAMPION, before=WORSE, after=WORSE)
    check_champion(made_worse, [])
    check_champion(made_worse, [{"schema": "ahs.evidence/1"}, evidence_for(OTHER, CHAMPION)])
    check_champion(made_worse, [evidence_for(CHAMPION, OTHER, frozen_set="d5" * 32)])
