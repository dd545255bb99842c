"""Takes the first trust and new releases: proven, stored, and signed on with the online key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog
from sqlalchemy import select

from cloud.audit import trail
from cloud.auth.principals import Permission, Principal
from cloud.errors import Busy, Conflict, StorageUnavailable, Unprocessable
from cloud.releases import queries
from cloud.releases.needed import needed_counters
from cloud.releases.rules import archive_hashes, documents
from cloud.releases.signing import OnlineKey
from cloud.releases.store import TrustChanged, add_release, read_trust, save_trust
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.tables import DesiredRow, ReleaseRow
from fleet.contract.base import JsonObject
from fleet.contract.codec import encode
from fleet.contract.http import ReleaseDetail, ReleasePage
from fleet.contract.messages import Desired
from fleet.contract.release import ReleaseTarget, Trust
from fleet.release.errors import EvidenceRefused, TargetsRefused, TrustInvalid, WrongKey
from fleet.release.evidence import check_champion, check_evidence
from fleet.release.pruning import check_pruned_targets
from fleet.release.repository import check_new_targets, check_trust, releases_of
from fleet.release.rotation import successor

log = structlog.get_logger()

TRIES = 3
"""How often a release is signed on; the worker's own signing may come in between."""

RETRY_AFTER_S = 10

_CODES = {
    1: "targets_unreadable",
    2: "targets_not_signed",
    3: "targets_version",
    4: "targets_expired",
    5: "targets_rewritten",
    6: "targets_release",
    7: "release_counter",
    8: "archive_mismatch",
    9: "chunks_mismatch",
    10: "bundle_refused",
    11: "evidence_refused",
    12: "trust_full",
}
"""Number of a check of `check_new_targets` -> code of the problem."""

_BEHIND = {3, 7}
"""Checks that fail when another release came first."""

_BEHIND_HINT = "fetch the trust again, and sign on top of it"
_WRONG_HINT = "release it again with `ahs-fleet release create`; docs/cloud.md says what is checked"


class ReleaseService:
    """One per process. `now` is the wall clock.

    Args:
        key: the online key; None answers 409: releases are off.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        images: ImageStore,
        key: OnlineKey | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._images = images
        self._key = key
        self._now = now
        self._receiving = False

    @property
    def key(self) -> OnlineKey:
        """The online key; Conflict (409) where there is none."""
        if self._key is None:
            raise Conflict(
                "releases are switched off here: there is no online key",
                code="releases_off",
                hint="the operator sets releases.online_key_file to the online.key of `ahs-fleet keys init`",
            )
        return self._key

    @contextmanager
    def upload(self, principal: Principal) -> Iterator[None]:
        """Leave to send a body, one at a time, for it is held in memory; Busy (503) while another is received."""
        _ = self.key
        if self._receiving:
            raise Busy("another release is being received", retry_after_s=RETRY_AFTER_S)
        self._receiving = True
        try:
            yield
        finally:
            self._receiving = False

    async def set_trust(self, principal: Principal, trust: Trust) -> Trust:
        """Takes the first trust, with the releases in it; the same root of trust again changes nothing.

        1. who asks may; 2. the documents prove each other; 3. those of the offline keys have not expired; 4. our
        online key is the one that the root names; 5. there is no other trust. Newer roots on top of the known ones
        replace a key: see `successor`.

        Returns:
            The trust as it is kept.

        Raises:
            Forbidden, Unprocessable, Conflict: which of them does not hold.
        """
        principal.require(Permission.MANAGE_RELEASES)
        key, now = self.key, self._now()
        async with self._storage.reading() as session:
            standing = await read_trust(session)
        if standing is not None and standing.roots[: len(trust.roots)] == trust.roots:
            return standing
        if standing is not None and trust.roots[: len(standing.roots)] == standing.roots:
            return await self._replace_keys(principal, key, standing, trust, now)
        signed = await asyncio.to_thread(_proven, trust, key, now)
        releases, hashes = releases_of(trust), archive_hashes(trust)
        async with self._storage.writing() as session:
            known = await read_trust(session)
            if known is not None:
                if known.roots[0] != trust.roots[0]:
                    raise Conflict(
                        "this cloud has another trust already",
                        code="trust_exists",
                        hint="GET /v1/trust shows it; releases are added to it with POST /v1/releases",
                    )
                return known
            await save_trust(session, None, signed, by=principal.id, now=now)
            for target in releases:
                await add_release(
                    session,
                    target,
                    archive_sha256=hashes[target.path],
                    evidence=None,
                    site_id=principal.site_id,
                    by=principal.id,
                    now=now,
                )
            after = {"root_sha256": hashlib.sha256(trust.roots[0].encode()).hexdigest(), "releases": len(releases)}
            trail.record(session, principal, action="trust.set", subject="trust", after=after)
        log.info("trust_set", releases=len(releases))
        return signed

    async def _replace_keys(
        self, principal: Principal, key: OnlineKey, standing: Trust, given: Trust, now: datetime
    ) -> Trust:
        """Goes on under newer roots; what each device is to run is signed again, for the online key may be new."""
        signed = await asyncio.to_thread(_gone_on, standing, given, key, now)
        async with self._storage.writing() as session:
            await save_trust(session, standing, signed, by=principal.id, now=now)
            for row in (await session.scalars(select(DesiredRow).where(DesiredRow.envelope.is_not(None)))).all():
                row.envelope = encode(key.sign(Desired.model_validate(row.document))).decode()
                row.published_version = 0
            trail.record(session, principal, action="trust.keys_replaced", subject=f"root/{len(signed.roots)}")
        log.info("trust_keys_replaced", root=len(signed.roots))
        return signed

    async def create(
        self, principal: Principal, *, targets: str, archive: bytes, evidence: bytes | None
    ) -> ReleaseDetail:
        """Takes a release.

        1. who asks may; 2. the targets and the archive keep every check of `check_new_targets`; 3. the evidence is
        the document that was signed, and says of the current model what that model's own evidence says; 4. archive and
        evidence are stored; 5. snapshot and timestamp are signed on top, and trust, release and audit are written in
        one transaction, unless another release came first.

        The targets that stand already are taken as a repetition: the stored release is answered, and an archive that
        was missing (that of a factory kit) is kept.

        Raises:
            Forbidden, Conflict, Unprocessable: the sender's fault.
            StorageUnavailable: nobody's; send it again.
        """
        principal.require(Permission.MANAGE_RELEASES)
        key, now = self.key, self._now()
        async with self._storage.reading() as session:
            trust = await queries.get_trust(session)
        if targets == trust.targets:
            return await self._repeated(principal, archive)
        target, document = await asyncio.to_thread(_checked, trust, targets, archive, evidence, now)
        if document is not None:
            await self._check_champion(document)
        archive_sha256 = await self._images.put(archive)
        if evidence is not None:
            await self._images.put(evidence)
        for _ in range(TRIES):
            try:
                await self._store(principal, key, trust.targets, targets, target, archive_sha256, document, now)
                break
            except _SignedMeanwhile:
                continue
        else:
            raise StorageUnavailable("the trust was signed again each time the release was to be stored")
        log.info("release_created", counter=target.counter, digest=target.digest, version=target.version)
        async with self._storage.reading() as session:
            return await queries.get_release(session, principal, target.counter)

    async def _check_champion(self, document: JsonObject) -> None:
        """Against all evidence that is on record for that model; releases are only ever added."""
        query = select(ReleaseRow.evidence).where(ReleaseRow.digest == document["champion"])
        async with self._storage.reading() as session:
            found = (await session.scalars(query)).all()
        with _weighed():
            check_champion(document, [each for each in found if each is not None])

    async def prune(self, principal: Principal, targets: str) -> ReleasePage:
        """Takes targets that leave old releases out; the same again changes nothing.

        1. who asks may; 2. the targets keep every check of `check_pruned_targets`; 3. nothing that is still needed is
        left out, judged in the transaction that writes them, with the rows of what is left out locked: a rollout of one
        of them that starts meanwhile is seen, or sees that it is gone.

        Raises:
            Forbidden, Conflict, Unprocessable: which of them does not hold.
            StorageUnavailable: nobody's; send it again.
        """
        principal.require(Permission.MANAGE_RELEASES)
        key, now = self.key, self._now()
        for _ in range(TRIES):
            async with self._storage.reading() as session:
                trust = await queries.get_trust(session)
            if targets == trust.targets:
                break
            gone = await asyncio.to_thread(_left_out, trust, targets, now)
            signed = await asyncio.to_thread(key.resign, trust.model_copy(update={"targets": targets}), now)
            async with self._storage.writing() as session:
                standing = await read_trust(session)
                if standing is not None and standing.targets == trust.targets and standing != trust:
                    continue
                counters = [release.counter for release in gone]
                rows = select(ReleaseRow.counter).where(ReleaseRow.counter.in_(counters))
                await session.execute(rows.order_by(ReleaseRow.counter).with_for_update())
                if needed := sorted(await needed_counters(session) & set(counters)):
                    raise Conflict(
                        f"still needed by a device or a rollout: {', '.join(map(str, needed))}",
                        code="release_needed",
                        hint="GET /v1/releases/needed says what must stay; sign again with it",
                    )
                await save_trust(session, trust, signed, by=principal.id, now=now)
                after = {"counters": counters}
                trail.record(session, principal, action="release.pruned", subject="trust", after=after)
            log.info("releases_pruned", counters=counters)
            break
        else:
            raise StorageUnavailable("the trust was signed again each time the targets were to be stored")
        async with self._storage.reading() as session:
            return await queries.list_releases(session, principal)

    async def _store(
        self,
        principal: Principal,
        key: OnlineKey,
        expected: str,
        targets: str,
        target: ReleaseTarget,
        archive_sha256: str,
        evidence: JsonObject | None,
        now: datetime,
    ) -> None:
        async with self._storage.reading() as session:
            trust = await queries.get_trust(session)
        if trust.targets != expected:
            raise TrustChanged
        signed = await asyncio.to_thread(key.resign, trust.model_copy(update={"targets": targets}), now)
        async with self._storage.writing() as session:
            standing = await read_trust(session)
            if standing is not None and standing.targets == expected and standing != trust:
                raise _SignedMeanwhile
            await save_trust(session, trust, signed, by=principal.id, now=now)
            await add_release(
                session,
                target,
                archive_sha256=archive_sha256,
                evidence=evidence,
                site_id=principal.site_id,
                by=principal.id,
                now=now,
            )
            after = {
                "digest": target.digest,
                "version": target.version,
                "checked": target.checked,
                "evidence": target.evidence.sha256 if target.evidence else None,
            }
            subject = f"release/{target.counter}"
            trail.record(session, principal, action="release.created", subject=subject, after=after)

    async def _repeated(self, principal: Principal, archive: bytes) -> ReleaseDetail:
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(archive).hexdigest())
        async with self._storage.reading() as session:
            newest = select(ReleaseRow.counter).where(ReleaseRow.archive_sha256 == sha256)
            counter = await session.scalar(newest.order_by(ReleaseRow.counter.desc()).limit(1))
            if counter is None:
                raise Unprocessable(
                    "these targets stand already, and none of their releases has this archive",
                    code=_CODES[8],
                    hint="send the archive of the release, or new targets",
                )
            detail = await queries.get_release(session, principal, counter)
        if not await self._images.holds(sha256):
            await self._images.put(archive)
            async with self._storage.writing() as session:
                subject, after = f"release/{counter}", {"archive_sha256": sha256}
                trail.record(session, principal, action="release.archive_given", subject=subject, after=after)
        return detail


class _SignedMeanwhile(Exception):
    """The worker has signed the trust again between our reading and our writing."""


def _gone_on(standing: Trust, given: Trust, key: OnlineKey, now: datetime) -> Trust:
    with _told():
        return key.resign(successor(standing, given, now), now)


def _proven(trust: Trust, key: OnlineKey, now: datetime) -> Trust:
    with _told():
        check_trust(trust)
        for document in documents(trust)[len(trust.roots) - 1 :]:
            if document.role in ("root", "targets") and document.expires_at <= now:
                raise TrustInvalid(f"{document.role} {document.version} has expired; sign it again")
        return key.resign(trust, now)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except WrongKey as exc:
        raise Unprocessable(
            "the root names another online key than the one this cloud has",
            code="online_key_mismatch",
            hint="set releases.online_key_file to the online.key that was made with this trust",
        ) from exc
    except (TrustInvalid, ValueError) as exc:
        raise Unprocessable(
            str(exc), code="trust_invalid", hint="send the trust.json of `ahs-fleet factory` as it is"
        ) from exc


def _left_out(trust: Trust, targets: str, now: datetime) -> tuple[ReleaseTarget, ...]:
    with _numbered():
        return check_pruned_targets(trust, targets, now)


@contextmanager
def _numbered() -> Iterator[None]:
    try:
        yield
    except TargetsRefused as exc:
        kind, hint = (Conflict, _BEHIND_HINT) if exc.check in _BEHIND else (Unprocessable, _WRONG_HINT)
        raise kind(str(exc), code=_CODES[exc.check], hint=hint) from exc


def _checked(
    trust: Trust, targets: str, archive: bytes, evidence: bytes | None, now: datetime
) -> tuple[ReleaseTarget, JsonObject | None]:
    with _numbered():
        target = check_new_targets(trust, targets, archive, now)
    with _weighed():
        return target, check_evidence(target.evidence, target.digest, evidence)


@contextmanager
def _weighed() -> Iterator[None]:
    try:
        yield
    except EvidenceRefused as exc:
        raise Unprocessable(
            str(exc), code="evidence_refused", hint="send the evidence.json that was given to `ahs-fleet release`"
        ) from exc
