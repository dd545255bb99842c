"""The TUF repository in one message: made by the operator, extended by each release, kept fresh by the cloud. Pure.

Who signs what: `root` the root key, `targets` the release key, `snapshot` and `timestamp` the online key. There are no
consistent snapshots: a trust message carries all documents of one moment, so none can be fetched at another.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from fleet.contract.base import utc_now_text
from fleet.contract.release import SIGNED_AT, ReleaseTarget, Trust
from fleet.release.checking import check_new_targets
from fleet.release.documents import (
    check_size,
    check_trust,
    read_document,
    release_of,
    target_of,
    text_of,
    trusted_root,
    verify,
    whole_seconds,
)
from fleet.release.errors import TrustInvalid, WrongKey
from fleet.release.keys import Keys

ROOT_LIFE = timedelta(days=10 * 365)
TARGETS_LIFE = timedelta(days=5 * 365)
"""Of offline signatures: long, because the timestamp is what proves freshness."""
FIRST_SNAPSHOT_LIFE = timedelta(days=7)
FIRST_TIMESTAMP_LIFE = timedelta(days=3)

_FIRST_VERSION = 1

__all__ = [
    "check_new_targets",
    "check_trust",
    "first_trust",
    "freshness",
    "online_keyid",
    "releases_of",
    "resigned",
    "with_release",
]


def first_trust(keys: Keys, now: datetime) -> Trust:
    """The first documents: a root that names the keys, and no release yet."""
    root = Root(expires=whole_seconds(now + ROOT_LIFE), consistent_snapshot=False)
    root.add_key(keys.root.public_key, Root.type)
    root.add_key(keys.release.public_key, Targets.type)
    root.add_key(keys.online.public_key, Snapshot.type)
    root.add_key(keys.online.public_key, Timestamp.type)
    signed_root, targets = Metadata(root), Metadata(Targets(expires=whole_seconds(now + TARGETS_LIFE)))
    signed_root.sign(keys.root)
    targets.sign(keys.release)
    snapshot = _snapshot(keys.online, _FIRST_VERSION, _FIRST_VERSION, now + FIRST_SNAPSHOT_LIFE)
    timestamp = _timestamp(keys.online, _FIRST_VERSION, _FIRST_VERSION, now, now + FIRST_TIMESTAMP_LIFE)
    return Trust(roots=(text_of(signed_root),), timestamp=timestamp, snapshot=snapshot, targets=text_of(targets))


def releases_of(trust: Trust) -> tuple[ReleaseTarget, ...]:
    """The releases that a trust message names, by counter; nothing is verified (see `check_trust`).

    Raises:
        TrustInvalid: the targets cannot be read.
    """
    targets = read_document(Targets, trust.targets).signed.targets.values()
    return tuple(sorted((release_of(target) for target in targets), key=lambda release: release.counter))


def with_release(trust: Trust, target: ReleaseTarget, archive: bytes, release_signer: CryptoSigner) -> str:
    """The targets with one more release, signed: what `check_new_targets` accepts.

    Args:
        trust: as it is now.
        target: the new release; its `created_at` is when these targets are signed.
        archive: the bundle as one zip.
        release_signer: the release key.

    Raises:
        WrongKey: another key than the root names for releases.
        TrustInvalid: the trust cannot be read, or would grow larger than devices read.
        TargetsRefused: the release would not be accepted.
    """
    root = trusted_root(trust)
    if release_signer.public_key.keyid not in root.roles[Targets.type].keyids:
        raise WrongKey("this release key is not the one that the root names for releases; give the right keys")
    before = read_document(Targets, trust.targets)
    verify(root, before)
    targets = Targets(
        version=before.signed.version + 1,
        expires=whole_seconds(target.created_at + TARGETS_LIFE),
        targets={**before.signed.targets, target.path: target_of(target, archive)},
    )
    document = Metadata(targets)
    document.sign(release_signer)
    text = text_of(document)
    check_new_targets(trust, text, archive, target.created_at)
    return text


def resigned(
    trust: Trust, online_signer: CryptoSigner, now: datetime, *, timestamp_for: timedelta, snapshot_for: timedelta
) -> Trust:
    """The same roots and targets under a new snapshot and a new timestamp, one version higher each.

    Args:
        trust: as it is stored; its targets may be newer than its snapshot.
        online_signer: the online key.
        now: when it is signed; devices take it as a time that is over.
        timestamp_for: how long the timestamp holds.
        snapshot_for: how long the snapshot holds.

    Raises:
        WrongKey: another key than the root names for snapshot and timestamp.
        TrustInvalid: a document cannot be read, its targets are not signed, or all together grew too large.
    """
    root = trusted_root(trust)
    if any(online_signer.public_key.keyid not in root.roles[role].keyids for role in (Snapshot.type, Timestamp.type)):
        raise WrongKey("this online key is not the one that the root names; give the cloud the right online.key")
    targets = read_document(Targets, trust.targets)
    verify(root, targets)
    version = read_document(Snapshot, trust.snapshot).signed.version + 1
    timestamp_version = read_document(Timestamp, trust.timestamp).signed.version + 1
    renewed = trust.model_copy(
        update={
            "snapshot": _snapshot(online_signer, version, targets.signed.version, now + snapshot_for),
            "timestamp": _timestamp(online_signer, timestamp_version, version, now, now + timestamp_for),
        }
    )
    check_size(renewed)
    return renewed


def online_keyid(trust: Trust) -> str:
    """The key that the newest root names for role `timestamp`, and that signs wishes."""
    keyids = trusted_root(trust).roles[Timestamp.type].keyids
    if len(keyids) != 1:
        raise TrustInvalid("the root names no, or several, online keys; one is expected")
    return str(keyids[0])


def freshness(trust: Trust) -> tuple[datetime, datetime]:
    """When the timestamp and the snapshot expire."""
    timestamp, snapshot = read_document(Timestamp, trust.timestamp), read_document(Snapshot, trust.snapshot)
    return timestamp.signed.expires, snapshot.signed.expires


def _snapshot(signer: CryptoSigner, version: int, targets_version: int, expires: datetime) -> str:
    # Versions without hashes: the targets carry a signature of their own, and a changed byte is then told as one.
    meta = {"targets.json": MetaFile(targets_version)}
    document = Metadata(Snapshot(version=version, expires=whole_seconds(expires), meta=meta))
    document.sign(signer)
    return text_of(document)


def _timestamp(signer: CryptoSigner, version: int, snapshot_version: int, now: datetime, expires: datetime) -> str:
    timestamp = Timestamp(
        version=version,
        expires=whole_seconds(expires),
        snapshot_meta=MetaFile(snapshot_version),
        unrecognized_fields={SIGNED_AT: utc_now_text(now)},
    )
    document = Metadata(timestamp)
    document.sign(signer)
    return text_of(document)
