"""Targets without old releases, so that the trust message stays small enough for new ones. Pure.

What is left out, no device takes up any more, nor goes back to. So it is the cloud that says what is still needed.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from fleet.contract.release import ReleaseTarget, Trust
from fleet.release.checking import check_next, read_targets
from fleet.release.documents import read_document, release_of, text_of, trusted_root, verify, whole_seconds
from fleet.release.errors import TargetsRefused, WrongKey
from fleet.release.repository import TARGETS_LIFE


def pruned(trust: Trust, keep: Collection[int], release_signer: CryptoSigner, now: datetime) -> str:
    """The targets with these releases alone, signed: what `check_pruned_targets` accepts.

    Args:
        trust: as it is now.
        keep: counters; the highest must be among them.
        release_signer: the release key.
        now: when they are signed.

    Raises:
        WrongKey: another key than the root names for releases.
        TrustInvalid: the trust cannot be read.
        TargetsRefused: they would not be accepted.
    """
    root = trusted_root(trust)
    if release_signer.public_key.keyid not in root.roles[Targets.type].keyids:
        raise WrongKey("this release key is not the one that the root names for releases; give the right keys")
    before = read_document(Targets, trust.targets)
    verify(root, before)
    kept = {path: target for path, target in before.signed.targets.items() if release_of(target).counter in keep}
    document = Metadata(
        Targets(version=before.signed.version + 1, expires=whole_seconds(now + TARGETS_LIFE), targets=kept)
    )
    document.sign(release_signer)
    text = text_of(document)
    check_pruned_targets(trust, text, now)
    return text


def check_pruned_targets(trust: Trust, new_targets_text: str, now: datetime) -> tuple[ReleaseTarget, ...]:
    """The releases that new targets leave out of those of `trust`, proven; the numbers are those of new targets.

    1. they are one TUF targets document, without delegations;
    2. they are signed by the keys that the trusted root names for releases;
    3. their version is the next one;
    4. they are not expired;
    5. nothing is added or changed;
    6. at least one release is left out;
    7. the highest counter stays: the next release is told from it.

    Raises:
        TargetsRefused: which check, and what to do.
        TrustInvalid: `trust` itself cannot be read.
    """
    root = trusted_root(trust)
    before = read_document(Targets, trust.targets).signed
    after = read_targets(new_targets_text)  # 1
    check_next(root, before, after, now)  # 2, 3, 4
    for path, target in after.signed.targets.items():
        if before.targets.get(path) != target:
            raise TargetsRefused(5, f"{path} is added or changed; leave releases out, and nothing else")
    gone = [release_of(target) for path, target in before.targets.items() if path not in after.signed.targets]
    if not gone:
        raise TargetsRefused(6, "they leave nothing out")
    highest = max(release_of(target).counter for target in before.targets.values())
    if any(release.counter == highest for release in gone):
        raise TargetsRefused(7, f"release {highest} is the newest and stays")
    return tuple(sorted(gone, key=lambda release: release.counter))
