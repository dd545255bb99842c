"""Private keys on disk, and what evidence may be named in a release."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fleet.release.errors import EvidenceRefused, KeyExists, KeyMissing, KeyUnreadable
from fleet.release.evidence import MAX_EVIDENCE_BYTES, check_evidence, reference
from fleet.release.keys import ONLINE_KEY, RELEASE_KEY, load_key, load_keys, make_keys, save_keys

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


def document(**changes: object) -> bytes:
    words = {
        "schema": "ahs.evidence/1",
        "candidate": DIGEST,
        "champion": "sha256:" + "b" * 64,
        "frozen_set": "c" * 64,
        "accepted": True,
        "reasons": [],
        "figures": {"candidate": {"all": {"accuracy": 0.9}}},
        "made": "by a newer program",
    }
    return json.dumps({**words, **changes}).encode()


def test_the_named_evidence_is_the_document_byte_for_byte() -> None:
    data = document()
    named = reference(data, DIGEST)
    assert check_evidence(named, DIGEST, data) == json.loads(data)
    assert check_evidence(None, DIGEST, None) is None
    for other in (data + b" ", document(figures={}), None):
        with pytest.raises(EvidenceRefused):
            check_evidence(named, DIGEST, other)
    with pytest.raises(EvidenceRefused):
        check_evidence(None, DIGEST, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        document(schema="ahs.evidence/2"),
        document(candidate="sha256:" + "d" * 64),
        document(accepted=False, reasons=["worse"]),
        document(accepted="yes"),
        b" " * (MAX_EVIDENCE_BYTES + 1),
    ],
)
def test_evidence_that_does_not_speak_for_the_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        reference(data, DIGEST)
