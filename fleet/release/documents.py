"""TUF documents as the text that was signed, read and checked with python-tuf. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fleet.contract.codec import encode
from fleet.contract.release import MAX_TRUST_BYTES, ReleaseTarget, Trust
from fleet.release.errors import TrustInvalid

DIGEST_ALGORITHM = "sha256"
ROOM_FOR_KEYS_BYTES = 48 * 1024
"""Of a trust message, that releases leave free: a full one could not be signed again once a key was replaced."""

RELEASES_FILL_BYTES = MAX_TRUST_BYTES - ROOM_FOR_KEYS_BYTES
"""Up to this size of the trust message releases are added."""

Role = TypeVar("Role", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Chain:
    """A trust message whose documents prove each other."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    @property
    def releases(self) -> tuple[ReleaseTarget, ...]:
        """What the targets name, by counter."""
        found = [release_of(target) for target in self.targets.targets.values()]
        return tuple(sorted(found, key=lambda release: release.counter))


def text_of(document: Metadata[Root] | Metadata[Timestamp] | Metadata[Snapshot] | Metadata[Targets]) -> str:
    """A document as it is kept and sent."""
    return document.to_bytes(JSONSerializer(compact=True)).decode()


def read_document(kind: type[Role], text: str) -> Metadata[Role]:
    """Reads one document without verifying it.

    Raises:
        TrustInvalid: it is no TUF document of this kind.
    """
    try:
        document: Metadata[Role] = Metadata.from_bytes(text.encode())
    except RepositoryError as exc:
        raise TrustInvalid(f"the {kind.type} document cannot be read: {_cause(exc)}") from exc
    if document.signed.type != kind.type:
        raise TrustInvalid(f"the {kind.type} document is in truth a {document.signed.type} document")
    return document


def trusted_root(trust: Trust) -> Root:
    """The newest root, reached from the first, each signed by the one before and by itself.

    Raises:
        TrustInvalid: a link of the chain does not hold.
    """
    root: Root | None = None
    for number, text in enumerate(trust.roots, start=1):
        document = read_document(Root, text)
        if document.signed.version != number:
            raise TrustInvalid(f"root {number} says that it is root {document.signed.version}")
        for judge in (root, document.signed):
            if judge is not None:
                verify(judge, document)
        root = document.signed
    if root is None:
        raise TrustInvalid("there is no root")
    return root


def verify(root: Root, document: Metadata[Role]) -> None:
    """Whether a document is signed by the keys that the root names for its role.

    Raises:
        TrustInvalid: not by enough of them.
    """
    try:
        root.verify_delegate(document.signed.type, document.signed_bytes, document.signatures)
    except (RepositoryError, ValueError) as exc:
        raise TrustInvalid(
            f"{document.signed.type} {document.signed.version} is not signed by the keys that root "
            f"{root.version} names for it"
        ) from exc


def check_trust(trust: Trust, now: datetime | None = None) -> Chain:
    """Verifies a whole trust message, as a device does that has seen none before.

    1. it is not larger than devices read;
    2. each root is signed by the one before and by itself;
    3. timestamp, snapshot and targets are signed by the keys that the last root names;
    4. the timestamp names this snapshot, the snapshot these targets;
    5. each target is a release that can be read, and is named after it;
    6. nothing is expired at `now`; None does not judge it.

    Raises:
        TrustInvalid: which of them does not hold.
    """
    check_size(trust)
    root = trusted_root(trust)
    timestamp = read_document(Timestamp, trust.timestamp)
    snapshot = read_document(Snapshot, trust.snapshot)
    targets = read_document(Targets, trust.targets)
    verify(root, timestamp)
    verify(root, snapshot)
    verify(root, targets)
    named = snapshot.signed.meta.get("targets.json")
    if timestamp.signed.snapshot_meta.version != snapshot.signed.version:
        raise TrustInvalid("the timestamp names another snapshot: the documents are not of one moment")
    if named is None or named.version != targets.signed.version:
        raise TrustInvalid("the snapshot names other targets: the documents are not of one moment")
    chain = Chain(root, timestamp.signed, snapshot.signed, targets.signed)
    if targets.signed.delegations is not None:
        raise TrustInvalid("the targets delegate to others, which no device follows")
    _ = chain.releases
    for role in (root, timestamp.signed, snapshot.signed, targets.signed) if now is not None else ():
        if role.is_expired(now):
            raise TrustInvalid(f"{role.type} {role.version} has expired on {role.expires.isoformat()}; sign it again")
    return chain


def trust_bytes(trust: Trust) -> int:
    """Size of a trust message as it is sent."""
    return len(encode(trust))


def check_size(trust: Trust) -> None:
    """Refuses more than devices read, counted as it is sent.

    Raises:
        TrustInvalid: too large.
    """
    size_bytes = trust_bytes(trust)
    if size_bytes > MAX_TRUST_BYTES:
        raise TrustInvalid(f"the trust message has {size_bytes} bytes; devices read {MAX_TRUST_BYTES}")


def release_of(target: TargetFile) -> ReleaseTarget:
    """The release that a target is.

    Raises:
        TrustInvalid: its description cannot be read, or is not about this target.
    """
    try:
        release = ReleaseTarget.model_validate(target.custom)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TrustInvalid(f"target {target.path}: its description cannot be read: {place}: {first['msg']}") from exc
    if release.path != target.path or release.size_bytes != target.length or set(target.hashes) != {DIGEST_ALGORITHM}:
        raise TrustInvalid(f"target {target.path} and its description are not about the same archive")
    return release


def target_of(release: ReleaseTarget, archive: bytes) -> TargetFile:
    """The TUF target of a release."""
    hashes = {DIGEST_ALGORITHM: hashlib.sha256(archive).hexdigest()}
    custom = release.model_dump(mode="json", by_alias=True)
    return TargetFile(len(archive), hashes, release.path, {"custom": custom})


def whole_seconds(moment: datetime) -> datetime:
    """A time as TUF writes it."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _cause(exc: BaseException) -> str:
    return str(exc.__cause__ or exc)[:200]
