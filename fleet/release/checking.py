"""What new targets must keep before they are stored. The list on top is the code below."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from fleet.contract.release import MAX_TRUST_BYTES, ReleaseTarget, Trust
from fleet.release.chunks import cut
from fleet.release.documents import (
    DIGEST_ALGORITHM,
    RELEASES_FILL_BYTES,
    check_size,
    check_trust,
    read_document,
    release_of,
    trust_bytes,
    trusted_root,
    verify,
)
from fleet.release.errors import BundleRefused, TargetsRefused, TrustInvalid
from models.bundle import Bundle, BundleError, read_bundle

CLOCK_SLACK = timedelta(minutes=10)
"""How far the operator's clock may be ahead. Devices take `created_at` as a time that is over."""


def check_new_targets(trust: Trust, new_targets_text: str, archive: bytes, now: datetime) -> ReleaseTarget:
    """The one release that new targets add to those of `trust`, proven.

    1. they are one TUF targets document, without delegations, and with it the trust message is not too large;
    2. they are signed by the keys that the trusted root names for releases;
    3. their version is the next one;
    4. they are not expired;
    5. nothing that was released is removed or changed;
    6. exactly one release is added, and its description can be read and is about it;
    7. its counter is the next one, and it was not made in the future;
    8. length and SHA-256 are those of the archive;
    9. the chunk list is the one that our own cutting gives;
    10. the archive is a bundle, intact and safe, and the description names its digest, name, version and schema;
    11. its evidence, where it has any, compares it with a model that was released before, passed its self-test, and is
        the first release or has accepted evidence itself;
    12. the trust message keeps room for new keys.

    Args:
        trust: stored, and trusted.
        new_targets_text: as it was sent.
        archive: the bundle as one zip.
        now: of the one who checks.

    Raises:
        TargetsRefused: which check, and what to do.
        TrustInvalid: `trust` itself cannot be read.
    """
    root = trusted_root(trust)
    before = read_document(Targets, trust.targets).signed
    after = _readable(trust, new_targets_text)  # 1
    check_next(root, before, after, now)  # 2, 3, 4
    added = _added(before, after.signed)  # 5, 6
    release = _described(added)  # 6
    _check_counter(release, before, now)  # 7
    if (added.length, added.hashes) != (len(archive), {DIGEST_ALGORITHM: hashlib.sha256(archive).hexdigest()}):
        raise TargetsRefused(8, "the archive is not the one that was signed; send the archive of this release")
    try:
        chunks = tuple(cut(archive))
    except BundleRefused as exc:
        raise TargetsRefused(9, str(exc)) from exc
    if chunks != release.chunks:
        raise TargetsRefused(9, "the signed chunks are not those of the archive; release it with this version")
    _check_bundle(release, archive)  # 10
    _check_evidence(release, before)  # 11
    _check_room(trust, new_targets_text)  # 12
    return release


def _check_evidence(release: ReleaseTarget, before: Targets) -> None:
    if release.evidence is None:
        return
    known = [release_of(target) for target in before.targets.values()]
    champions = [one for one in known if one.digest == release.evidence.champion]
    if not champions:
        raise TargetsRefused(
            11, f"the evidence compares with {release.evidence.champion}, which was never released; evaluate it again"
        )
    first = min(one.counter for one in known)
    if not any(_may_be_compared_with(champion, first) for champion in champions):
        raise TargetsRefused(
            11,
            f"the evidence compares with release {champions[0].counter}, which is no measure: it must have passed its "
            "self-test, and be the first release or have accepted evidence of its own; evaluate it against such a one",
        )


def _may_be_compared_with(champion: ReleaseTarget, first: int) -> bool:
    proven = champion.counter == first or (champion.evidence is not None and champion.evidence.accepted)
    return champion.checked and proven


def _check_room(trust: Trust, text: str) -> None:
    size_bytes = trust_bytes(trust.model_copy(update={"targets": text}))
    if size_bytes > RELEASES_FILL_BYTES:
        raise TargetsRefused(
            12,
            f"with one release more the signed documents have {size_bytes} bytes; releases may fill "
            f"{RELEASES_FILL_BYTES} of the {MAX_TRUST_BYTES} that devices read. Leave out old ones first: "
            "ahs-fleet release prune --keep N",
        )


def check_archive(trust: Trust, release: ReleaseTarget, archive: bytes) -> None:
    """Whether an archive is the one that was signed for a release of `trust`.

    Raises:
        BundleRefused: another length or hash.
        TrustInvalid: the trust cannot be read, or does not name this release.
    """
    target = read_document(Targets, trust.targets).signed.targets.get(release.path)
    if target is None:
        raise TrustInvalid(f"the targets do not name release {release.counter}")
    try:
        target.verify_length_and_hashes(archive)
    except LengthOrHashMismatchError as exc:
        raise BundleRefused(
            f"the archive is not the one that was signed as release {release.counter}; pack it with this version"
        ) from exc


def check_continues(known: Trust, given: Trust) -> None:
    """Whether documents prove each other and go on from those that are known, with nothing taken back.

    Args:
        known: trusted, as they were signed last.
        given: by the cloud.

    Raises:
        TrustInvalid: another root, or older targets; nothing must be signed on top of them.
    """
    if given.roots[: len(known.roots)] != known.roots:
        raise TrustInvalid("the cloud's documents stand on another root than yours; is it the right cloud?")
    check_trust(given)
    before, after = read_document(Targets, known.targets).signed, read_document(Targets, given.targets).signed
    # Newer ones may leave old releases out; the counters that were given out are never given back.
    changed = [path for path, target in before.targets.items() if after.targets.get(path, target) != target]
    set_back = _highest(after) < _highest(before) or (after.version == before.version and after != before)
    if after.version < before.version or changed or set_back:
        raise TrustInvalid(
            f"the cloud shows targets {after.version}, older than your {before.version}: it was set back; "
            "nothing is signed on top of that"
        )


def read_archive(archive: bytes) -> Bundle:
    """A bundle from its archive's bytes, every file verified.

    Raises:
        BundleRefused: not intact, not safe, or of an unknown schema.
    """
    with tempfile.TemporaryDirectory(prefix="ahs-release-") as folder:
        path = Path(folder) / "bundle.zip"
        path.write_bytes(archive)
        try:
            return read_bundle(path)
        except BundleError as exc:
            raise BundleRefused(str(exc).removeprefix(f"{path}: ")) from exc


def check_next(root: Root, before: Targets, after: Metadata[Targets], now: datetime) -> None:
    """Checks 2 to 4 of any change: signed for releases, the next version, not expired.

    Raises:
        TargetsRefused: which, and what to do.
    """
    try:
        verify(root, after)  # 2
    except TrustInvalid as exc:
        raise TargetsRefused(2, f"{exc}; sign with the release key of this fleet") from exc
    if after.signed.version != before.version + 1:
        raise TargetsRefused(
            3, f"targets {before.version + 1} are next, not {after.signed.version}; get the trust again and sign again"
        )
    if after.signed.is_expired(now):
        raise TargetsRefused(4, f"they expired on {after.signed.expires.isoformat()}; sign them again")


def _readable(trust: Trust, text: str) -> Metadata[Targets]:
    document = read_targets(text)
    try:
        check_size(trust.model_copy(update={"targets": text}))
    except TrustInvalid as exc:
        raise TargetsRefused(1, str(exc)) from exc
    return document


def read_targets(text: str) -> Metadata[Targets]:
    """Check 1 of any change, without the size: one TUF targets document that delegates to nobody.

    Raises:
        TargetsRefused: it is not.
    """
    try:
        document = read_document(Targets, text)
    except TrustInvalid as exc:
        raise TargetsRefused(1, str(exc)) from exc
    if document.signed.delegations is not None:
        raise TargetsRefused(1, "they delegate to others, which no device follows; sign plain targets")
    return document


def _added(before: Targets, after: Targets) -> TargetFile:
    for path, target in before.targets.items():
        if after.targets.get(path) != target:
            raise TargetsRefused(5, f"{path} is removed or changed; get the trust again and sign again")
    added = [target for path, target in after.targets.items() if path not in before.targets]
    if len(added) != 1:
        raise TargetsRefused(6, f"{len(added)} releases are added; add exactly one")
    return added[0]


def _described(target: TargetFile) -> ReleaseTarget:
    try:
        return release_of(target)
    except TrustInvalid as exc:
        raise TargetsRefused(6, str(exc)) from exc


def _highest(targets: Targets) -> int:
    return max((release_of(target).counter for target in targets.targets.values()), default=0)


def _check_counter(release: ReleaseTarget, before: Targets, now: datetime) -> None:
    highest = _highest(before)
    if release.counter != highest + 1:
        raise TargetsRefused(7, f"the next counter is {highest + 1}, not {release.counter}; sign again with it")
    if release.created_at > now + CLOCK_SLACK:
        raise TargetsRefused(
            7, f"it says it was made on {release.created_at.isoformat()}, which is to come; set the clock"
        )


def _check_bundle(release: ReleaseTarget, archive: bytes) -> None:
    try:
        bundle = read_archive(archive)
    except BundleRefused as exc:
        raise TargetsRefused(10, str(exc)) from exc
    manifest = bundle.manifest
    said = (release.digest, release.name, release.version, release.bundle_schema)
    if said != (bundle.digest, manifest.name, manifest.version, manifest.schema_):
        raise TargetsRefused(
            10, f"the archive holds {manifest.name} {manifest.version} ({bundle.digest}), not this one"
        )
