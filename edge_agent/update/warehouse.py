"""Chunks, slots and trust together: what a release needs of the disk, each act answered with an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import structlog

from edge_agent.metrics import Metrics
from edge_agent.update.chunks_files import ChunkStore
from edge_agent.update.errors import ArchiveRefused, NoSpace, TrustRefused
from edge_agent.update.record import Model
from edge_agent.update.slots_files import Slots, check_bundle
from edge_agent.update.traffic import Assembled, AssemblyFailed, NoRoom, Prepared
from edge_agent.update.trust import TrustKeeper
from fleet.contract.release import ReleaseTarget, UpdateCode

log = structlog.get_logger()


class Warehouse:
    """See the module. Every act may be repeated."""

    def __init__(self, chunks: ChunkStore, slots: Slots, trust: TrustKeeper, metrics: Metrics) -> None:
        self._chunks = chunks
        self._slots = slots
        self._trust = trust
        self._metrics = metrics

    def prepare(self, release: ReleaseTarget) -> Prepared | NoRoom:
        """What is missing of a release; nothing of one that is installed."""
        key = (release.digest, release.counter)
        slots = self._slots.installed()
        if any(slot.model.key == key for slot in slots):
            return Prepared(key, frozenset())
        try:
            return Prepared(key, self._chunks.prepare(release, [(slot.release, slot.archive) for slot in slots]))
        except NoSpace as exc:
            return NoRoom(key, str(exc))

    def assemble(self, release: ReleaseTarget) -> Assembled | AssemblyFailed | Prepared | NoRoom:
        """Brings a release into its slot; one that is there already is verified again.

        Returns:
            `Prepared` with the chunks that have turned out to be damaged, where there are such.
        """
        key, bad = (release.digest, release.counter), frozenset[str]()

        def write(file: BinaryIO) -> bool:
            nonlocal bad
            bad = self._chunks.assemble(release, file)
            return not bad

        try:
            if self._is_whole(release):
                return Assembled(key)
            self._chunks.prepare(release, [(slot.release, slot.archive) for slot in self._slots.installed()])
            if self._slots.install(release, write, self._trust.check_archive):
                return Assembled(key)
        except (TrustRefused, ArchiveRefused) as exc:
            self._metrics.update_refused.labels("archive", exc.code.value).inc()
            return AssemblyFailed(key, exc.code, exc.text)
        except NoSpace as exc:
            return NoRoom(key, str(exc))
        log.warning("update_chunks_damaged", chunks=len(bad))
        return Prepared(key, bad)

    def verify(self, release: ReleaseTarget) -> None:
        """Whether the archive in a release's slot is still what was signed.

        Raises:
            TrustRefused: it is not (`E_HASH`, `E_LEN`); no list that is known names it (`E_STALE`); it cannot be read.
        """
        try:
            self._trust.check_archive(release, self._slots.archive(Model.of(release)))
        except TrustRefused as exc:
            if exc.code is not UpdateCode.SIGNATURE:
                raise
            raise TrustRefused(UpdateCode.STALE, exc.text) from exc

    def collect(self, keep: Iterable[Model], *, chunks: bool, confirmed: Model | None) -> None:
        """Deletes what is not kept.

        Args:
            keep: models whose slots stay.
            chunks: whether chunks stay.
            confirmed: marked as the last one that proved itself.
        """
        try:
            if not chunks:
                self._chunks.clear()
            if confirmed is not None:
                self._slots.mark_confirmed(confirmed)
        except NoSpace as exc:
            log.warning("update_mark_not_written", error=str(exc))
        gone = self._slots.collect(keep)
        if gone:
            log.info("update_slots_collected", slots=gone)

    def _is_whole(self, release: ReleaseTarget) -> bool:
        archive = self._slots.archive(Model.of(release))
        if not archive.is_file():
            return False
        try:
            self._trust.check_archive(release, archive)
            check_bundle(release, archive)
        except (TrustRefused, ArchiveRefused) as exc:
            log.warning("update_slot_damaged", counter=release.counter, error=exc.text)
            return False
        return True
