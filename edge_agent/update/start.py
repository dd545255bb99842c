"""What runs when the agent starts: the factory kit is installed once, the record is read, and a model is opened.

1. the kit's root is the anchor of the trust store;
2. the record is read; a lost one is made again from the slots; without a slot the kit is installed, by the checks of
   any other release, but without judging expiry: metadata that expired on the shelf stop installing, never reading;
3. an unconfirmed model that brought the agent down too often is dropped;
4. the model that is to run is opened, its digest compared with the record; if that fails the one before it is, and
   then the kit's.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from edge_agent.clock import Clock
from edge_agent.errors import BadArtefact
from edge_agent.inference.engine import BundleEngine
from edge_agent.update.chunks_files import ChunkStore
from edge_agent.update.errors import ArchiveRefused, NoSpace, TrustRefused
from edge_agent.update.record import Model, UpdateRecord, barring, booted, lost, moved
from edge_agent.update.record_file import RecordFile
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.slots_files import Slots
from edge_agent.update.states import UpdateTrigger
from edge_agent.update.trust import TrustKeeper
from edge_agent.update.trust_tuf import TrustStore
from fleet.contract.codec import WireError, decode
from fleet.contract.messages import UpdateState
from fleet.contract.release import MAX_TRUST_BYTES, ReleaseTarget, Trust, UpdateCode

FOLDER = "update"
KIT_TRUST = "trust.json"
KIT_ARCHIVE = "bundle.zip"

Open = Callable[[Path, str], BundleEngine]
"""Opens an archive that must have this digest; BadArtefact when it cannot be used."""

log = structlog.get_logger()


@dataclass(slots=True)
class UpdateStart:
    """Everything the update works on, and the model that runs."""

    record: UpdateRecord
    engine: BundleEngine
    record_file: RecordFile
    chunks: ChunkStore
    slots: Slots
    trust: TrustKeeper


def start(settings: UpdateSettings, data_dir: Path, open_model: Open, clock: Clock) -> UpdateStart:
    """See the module.

    Raises:
        BadArtefact: kit and slots are of no use; nothing can be read with.
        StoreFault: the disk.
    """
    if settings.factory is None:
        raise ValueError("there are no updates without a factory kit")
    folder = data_dir / FOLDER
    kit = _Kit(settings.factory, folder)
    slots, record_file = Slots(folder / "slots"), RecordFile(folder)
    known = record_file.load()
    record = known or _rebuilt(slots) or kit.installed(slots, clock)
    now = clock.now().utc
    after = booted(record, at=now, max_boots=settings.max_boots)
    if after is not known:
        record_file.save(after)
    opened = _Opening(slots, record_file, open_model, clock, kit)
    record, engine = opened.run(after)
    return UpdateStart(record, engine, record_file, ChunkStore(folder / "chunks"), slots, kit.trust)


class _Kit:
    """The factory kit on its read-only place."""

    def __init__(self, folder: Path, update: Path) -> None:
        self._folder = folder
        try:
            self._message = decode(Trust, (folder / KIT_TRUST).read_bytes(), limit_bytes=2 * MAX_TRUST_BYTES)
            update.mkdir(parents=True, exist_ok=True)
            self.trust = TrustStore(update / "trust", self._message.roots[0].encode())
        except (OSError, WireError, TrustRefused) as exc:
            raise BadArtefact(
                f"the factory kit {folder} cannot be used: {exc}; give the folder that `ahs-fleet factory` wrote, or "
                "leave update.factory out"
            ) from exc

    def installed(self, slots: Slots, clock: Clock) -> UpdateRecord:
        """Installs the kit's model and begins a record with it."""
        archive = self._folder / KIT_ARCHIVE

        def write(file: BinaryIO) -> bool:
            with archive.open("rb") as source:
                shutil.copyfileobj(source, file)
            return True

        try:
            releases = self.trust.refresh(self._message, clock.now().utc, judge_expiry=False)
            release = self._release(list(releases.by_key.values()), archive)
            slots.install(release, write, self.trust.check_archive)
            model = Model.of(release)
            slots.mark_confirmed(model)
        except (OSError, TrustRefused, ArchiveRefused, NoSpace) as exc:
            raise BadArtefact(f"the model of the factory kit {self._folder} cannot be installed: {exc}") from exc
        log.info("factory_model_installed", model=f"{model.name} {model.version}", counter=model.counter)
        return UpdateRecord(confirmed=model, floor=model.counter, journal=_journal())

    def _release(self, releases: list[ReleaseTarget], archive: Path) -> ReleaseTarget:
        """The release whose archive lies in the kit; the refusal of the last one tried when there is none."""
        refusal: TrustRefused | None = None
        for release in sorted(releases, key=lambda one: one.counter):
            try:
                self.trust.check_archive(release, archive)
            except TrustRefused as exc:
                refusal = exc
            else:
                return release
        raise refusal or TrustRefused(UpdateCode.SIGNATURE, "the kit's list names no release")


@dataclass(slots=True)
class _Opening:
    slots: Slots
    record_file: RecordFile
    open_model: Open
    clock: Clock
    kit: _Kit

    def run(self, record: UpdateRecord) -> tuple[UpdateRecord, BundleEngine]:
        """Opens what is to run, or what is to run instead; the record says which."""
        while True:
            try:
                return record, self.open_model(self.slots.archive(record.running), record.running.digest)
            except BadArtefact as exc:
                log.error("model_not_opened", counter=record.running.counter, error=str(exc))
                failure = exc
            instead = self._instead(record, str(failure))
            if instead is None:
                raise failure
            self.record_file.save(instead)
            record = instead

    def _instead(self, record: UpdateRecord, text: str) -> UpdateRecord | None:
        now, code = self.clock.now().utc, UpdateCode.LOAD
        if record.state is UpdateState.UNCONFIRMED:
            barred = barring(record, code, metadata=None)
            return moved(record, UpdateTrigger.FAILED, at=now, code=code, text=text, boots=0, barred=barred)
        if record.previous is not None:
            return lost(record, record.previous, at=now, code=code, text=text)
        factory = self.kit.installed(self.slots, self.clock).confirmed
        if factory.key == record.confirmed.key and record.text == text:
            return None  # the very kit has just been installed anew, and still cannot be opened
        return lost(record, factory, at=now, code=code, text=text)


def _rebuilt(slots: Slots) -> UpdateRecord | None:
    """A record from what lies in the slots: the last that proved itself, the one before it, the floor they give."""
    proven = [slot.model for slot in slots.installed() if slot.confirmed]
    if not proven:
        return None
    confirmed, previous = proven[0], proven[1] if len(proven) > 1 else None
    floor = min(confirmed.counter, previous.counter) if previous is not None else confirmed.counter
    log.warning("update_record_rebuilt", counter=confirmed.counter)
    return UpdateRecord(confirmed=confirmed, previous=previous, floor=floor, journal=_journal())


def _journal() -> str:
    return secrets.token_hex(8)
