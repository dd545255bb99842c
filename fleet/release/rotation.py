"""A key is replaced: the next root, signed by the root key before and after, and how a cloud goes on from it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleet.contract.release import Trust
from fleet.release.documents import read_document, release_of, text_of, trusted_root, verify, whole_seconds
from fleet.release.errors import TrustInvalid, WrongKey
from fleet.release.repository import ROOT_LIFE, TARGETS_LIFE

MAX_ROOTS = 64
"""Roots that a trust message carries."""

VERSIONS_LEFT_OUT = 100
"""Of targets, when the release key is replaced: room for versions that whoever stole it may have signed."""


class KeyRole(StrEnum):
    """Which of the three keys."""

    ROOT = "root"
    RELEASE = "release"
    ONLINE = "online"


ROLES = {
    KeyRole.ROOT: (Root.type,),
    KeyRole.RELEASE: (Targets.type,),
    KeyRole.ONLINE: (Snapshot.type, Timestamp.type),
}
"""Key -> the TUF roles that it signs."""


def replaced(trust: Trust, role: KeyRole, *, root: CryptoSigner, new: CryptoSigner, now: datetime) -> Trust:
    """The trust under a next root that names another key; snapshot and timestamp stay for the cloud to sign.

    Args:
        trust: as it was signed last.
        role: whose key is replaced. For the release key the targets are signed anew, with the same releases.
        root: the root key as it is now.
        new: the key that takes the place.
        now: when it is signed.

    Raises:
        WrongKey: `root` is not the root key.
        TrustInvalid: the trust cannot be read, or has had as many roots as it can carry.
    """
    before = trusted_root(trust)
    if root.public_key.keyid not in before.roles[Root.type].keyids:
        raise WrongKey("this root key is not the one that the root names; give the right root.key")
    if len(trust.roots) >= MAX_ROOTS:
        raise TrustInvalid(f"a trust carries {MAX_ROOTS} roots and has them all; begin a new trust and new kits")
    document = read_document(Root, trust.roots[-1])
    document.signed.version += 1
    document.signed.expires = whole_seconds(now + ROOT_LIFE)
    for name in ROLES[role]:
        for keyid in list(document.signed.roles[name].keyids):
            document.signed.revoke_key(keyid, name)
        document.signed.add_key(new.public_key, name)
    document.signatures.clear()
    for signer in (root, new) if role is KeyRole.ROOT else (root,):
        document.sign(signer, append=True)
    update: dict[str, object] = {"roots": (*trust.roots, text_of(document))}
    if role is KeyRole.RELEASE:
        update["targets"] = _signed_again(trust, new, now)
    return trust.model_copy(update=update)


def successor(known: Trust, given: Trust, now: datetime) -> Trust:
    """What a cloud goes on from when it is given newer roots; it then signs snapshot and timestamp itself.

    1. the given roots are the known ones and at least one more;
    2. each is signed by the one before and by itself;
    3. the last has not expired;
    4. where the last root still names the key of the known targets, those stay; otherwise the given targets are signed
       by the key that it names, newer than the known ones, not expired, and all of them releases.

    Raises:
        TrustInvalid: which of them does not hold.
    """
    count = len(known.roots)
    if given.roots[:count] != known.roots or len(given.roots) == count:
        raise TrustInvalid("these roots do not go on from the ones that are known here")
    root = trusted_root(given)
    _unexpired(root.is_expired, "root", now)
    before = read_document(Targets, known.targets)
    if _holds(root, before):
        return known.model_copy(update={"roots": given.roots})
    after = read_document(Targets, given.targets)
    verify(root, after)
    if after.signed.version <= before.signed.version:
        raise TrustInvalid(
            f"the release key is replaced, but targets {after.signed.version} are not newer than "
            f"{before.signed.version}"
        )
    _unexpired(after.signed.is_expired, "targets", now)
    if after.signed.delegations is not None:
        raise TrustInvalid("the targets delegate to others, which no device follows")
    for target in after.signed.targets.values():
        release_of(target)
    return known.model_copy(update={"roots": given.roots, "targets": given.targets})


def _signed_again(trust: Trust, signer: CryptoSigner, now: datetime) -> str:
    before = read_document(Targets, trust.targets).signed
    version, expires = before.version + VERSIONS_LEFT_OUT, whole_seconds(now + TARGETS_LIFE)
    document = Metadata(Targets(version=version, expires=expires, targets=before.targets))
    document.sign(signer)
    return text_of(document)


def _holds(root: Root, targets: Metadata[Targets]) -> bool:
    try:
        verify(root, targets)
    except TrustInvalid:
        return False
    return True


def _unexpired(is_expired: Callable[[datetime], bool], name: str, now: datetime) -> None:
    if is_expired(now):
        raise TrustInvalid(f"the {name} document has expired; sign it again")
