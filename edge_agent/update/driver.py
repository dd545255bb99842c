"""Runs the update core on one thread: events in from a bounded queue, actions out to disk, trial, model and uplink."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Protocol

import structlog

from edge_agent.clock import Clock
from edge_agent.errors import DeviceFault
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.update.chunks_files import Arrival, ChunkStore
from edge_agent.update.core import UpdateCore
from edge_agent.update.errors import ArchiveRefused, NoSpace, TrustRefused
from edge_agent.update.installing import ModelInUse
from edge_agent.update.record import Model, UpdateRecord
from edge_agent.update.record_file import RecordFile
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.slots_files import Slots, check_bundle
from edge_agent.update.traffic import (
    Action,
    Ask,
    Assemble,
    Assembled,
    AssemblyFailed,
    ChunkFalse,
    ChunkStored,
    Collect,
    DesiredNotTaken,
    DesiredTaken,
    Event,
    FollowChunks,
    InUse,
    KeepSteps,
    LinkChanged,
    NoRoom,
    Note,
    NotInUse,
    Prepare,
    Prepared,
    Save,
    Soaked,
    Started,
    StepsKept,
    StopTrial,
    Tick,
    TrialEnded,
    TrustNotTaken,
    TrustTaken,
    Try,
    Use,
)
from edge_agent.update.trial import TrialResult
from edge_agent.update.trust import TrustKeeper
from fleet.contract.codec import WireError, decode
from fleet.contract.messages import UpdateState, UpdateStep
from fleet.contract.release import (
    CODE_FAMILIES,
    MAX_CHUNK_BYTES,
    MAX_TRUST_BYTES,
    CodeFamily,
    ReleaseTarget,
    SignedDesired,
    Trust,
    UpdateCode,
)

INBOX_EVENTS = 512
INBOX_CHUNKS = 256
"""Above it chunks find no room, so that trust, wishes and the link always do."""
TICK_S = 0.2
SAVE_RETRY_S = 2.0
TRIAL_END_S = 2.0
NOT_SAVED = "update_not_saved"
NOT_OPENED = "model_not_opened"
REFUSED = "update_refused"
MAX_TRUST_MESSAGE_BYTES = 2 * MAX_TRUST_BYTES
"""The documents stand in it as JSON text, which quotes them."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TrustMessage:
    """`trust` as it arrived."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class DesiredMessage:
    """`down/desired` as it arrived."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A chunk as it arrived."""

    sha256: str
    payload: bytes


Inbound = TrustMessage | DesiredMessage | ChunkMessage | LinkChanged | Event


class StepStore(Protocol):
    """Keeps steps for the cloud, each number once."""

    def append_step(self, step: UpdateStep, *, journal: str, number: int, now: datetime) -> bool:
        """Stores a step; False when its number is known."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """What the driver asks of the rest of the agent.

    Attributes:
        follow_chunks: receive chunks, or no longer.
        ask: say which chunks are missing.
        changed: the record or the model is another now.
        stored: there are new rows in the spool.
        reading: whether a slide is being read.
    """

    follow_chunks: Callable[[bool], None]
    ask: Callable[[Model, tuple[str, ...]], None]
    changed: Callable[[], None]
    stored: Callable[[], None]
    reading: Callable[[], bool]


Trial = Callable[[Model, threading.Event], TrialResult]


class UpdateDriver:
    """See the module.

    Args:
        core: decides.
        settings: times and limits.
        device: for whom a wish must be.
        record_file, chunks, slots, trust: the disk.
        trial: runs one, on a thread of its own.
        models: opens and exchanges models.
        store: takes the steps.
        outside: the rest of the agent.
    """

    def __init__(
        self,
        core: UpdateCore,
        settings: UpdateSettings,
        *,
        device: str,
        record_file: RecordFile,
        chunks: ChunkStore,
        slots: Slots,
        trust: TrustKeeper,
        trial: Trial,
        models: ModelInUse,
        store: StepStore,
        outside: Outside,
        clock: Clock,
        metrics: Metrics,
        problems: Problems,
    ) -> None:
        self.core = core
        self.models = models
        self._settings = settings
        self._device = device
        self._record_file = record_file
        self._chunks = chunks
        self._slots = slots
        self._trust = trust
        self._trial = trial
        self._store = store
        self._outside = outside
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._inbox: queue.Queue[Inbound] = queue.Queue(INBOX_EVENTS)
        self._wish: bytes | None = None
        self._trusted = False
        self._trust_again: tuple[float, bytes] | None = None
        self._trial_stop: threading.Event | None = None
        self._trial_thread: threading.Thread | None = None
        self._stop = threading.Event()

    def post(self, event: Inbound) -> None:
        """Hands an event over, from any thread; a chunk that finds no room is counted, and asked for again."""
        if isinstance(event, ChunkMessage) and self._inbox.qsize() >= INBOX_CHUNKS:
            self._metrics.update_inbox_lost.inc()
            return
        try:
            self._inbox.put_nowait(event)
        except queue.Full:
            self._metrics.update_inbox_lost.inc()

    def run(self, stop: threading.Event) -> None:
        """Until stop. A thread that is restarted begins where the record stands."""
        self._stop = stop
        try:
            self._handle(Started())
            while not stop.is_set():
                try:
                    self._take(self._inbox.get(timeout=TICK_S))
                except queue.Empty:
                    self._tick()
                else:
                    if self._inbox.empty():
                        self._tick()
        finally:
            self._end_trial()
        self._ended_clean()

    # --- in ---------------------------------------------------------------------------------------------------------

    def _take(self, event: Inbound) -> None:
        match event:
            case TrustMessage():
                self._take_trust(event.payload)
            case DesiredMessage():
                self._wish = event.payload
                self._take_wish()
            case ChunkMessage():
                self._take_chunk(event)
            case TrialEnded():
                self._trial_stop = None
                self._handle(event)
            case _:
                self._handle(event)

    def _tick(self) -> None:
        if self._trust_again is not None and self._clock.now().monotonic_s >= self._trust_again[0]:
            self._take_trust(self._trust_again[1])
        evidence = self.models.evidence
        candidate = self.core.record.candidate
        if candidate is not None and evidence is not None:
            self._handle(Soaked((candidate.digest, candidate.counter), evidence))
        self._handle(Tick(self._outside.reading()))
        self._measure()

    def _take_trust(self, payload: bytes) -> None:
        self._trust_again = None
        try:
            trust = decode(Trust, payload, limit_bytes=MAX_TRUST_MESSAGE_BYTES)
            releases = self._trust.refresh(trust, self._clock.now().utc)
        except WireError as exc:
            code = UpdateCode.LENGTH if exc.code == "too_large" else UpdateCode.SIGNATURE
            self._handle(TrustNotTaken(code, str(exc)))
            return
        except TrustRefused as exc:
            self._metrics.update_refused.labels("trust", exc.code.value).inc()
            if exc.code is UpdateCode.SPACE:
                self._trust_again = (self._clock.now().monotonic_s + self._settings.space_retry_s, payload)
                log.warning("trust_not_kept", error=exc.text)
                return
            self._handle(TrustNotTaken(exc.code, exc.text))
            return
        self._trusted = True
        metadata = hashlib.sha256(trust.targets.encode()).hexdigest()
        self._handle(TrustTaken(releases.by_key, metadata, earliest_expiry(trust)))
        if self._wish is not None:
            self._take_wish()

    def _take_wish(self) -> None:
        if not self._trusted or self._wish is None:
            return  # looked at when there is trust; the broker keeps both and sends both at each connection
        try:
            signed = decode(SignedDesired, self._wish)
            desired = self._trust.verify_desired(signed)
            if desired.device != self._device:
                raise TrustRefused(UpdateCode.SIGNATURE, f"the wish is for {desired.device}")
        except WireError as exc:
            self._handle(DesiredNotTaken(UpdateCode.SIGNATURE, str(exc)))
        except TrustRefused as exc:
            self._metrics.update_refused.labels("desired", exc.code.value).inc()
            self._handle(DesiredNotTaken(exc.code, exc.text))
        else:
            self._handle(DesiredTaken(desired))

    def _take_chunk(self, event: ChunkMessage) -> None:
        size_bytes = len(event.payload)
        self._metrics.update_bytes.inc(size_bytes)
        try:
            arrival = Arrival.FALSE
            if size_bytes <= MAX_CHUNK_BYTES:
                arrival = self._chunks.put(event.sha256, event.payload)
            elif event.sha256 not in self.core.chunks_wanted:
                arrival = Arrival.FOREIGN
        except NoSpace as exc:
            self._no_room(exc)
            return
        self._metrics.update_chunks.labels(arrival.value).inc()
        if arrival is Arrival.FALSE:
            self._handle(ChunkFalse(event.sha256))
        elif arrival is not Arrival.FOREIGN:
            self._handle(ChunkStored(event.sha256))

    def _no_room(self, exc: NoSpace) -> None:
        candidate = self.core.record.candidate
        if candidate is not None:
            self._handle(NoRoom((candidate.digest, candidate.counter), str(exc)))

    # --- out --------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        before = self.core.record
        waiting: deque[Event] = deque([event])
        while waiting:
            for action in self.core.handle(waiting.popleft(), self._clock.now()):
                answer = self._act(action)
                if answer is not None:
                    waiting.append(answer)
                if self._stop.is_set() and isinstance(action, Save):
                    return  # whether it was saved or not: nothing more is begun
        if self.core.record is not before:
            self._warn(self.core.record)
            self._outside.changed()

    def _act(self, action: Action) -> Event | None:
        match action:
            case Save():
                self._save(action.record)
            case KeepSteps():
                return self._keep_steps(action.record)
            case Prepare():
                return self._prepare(action.release)
            case FollowChunks():
                self._outside.follow_chunks(action.on)
            case Ask():
                self._metrics.update_asked.inc()
                self._outside.ask(action.release, action.missing)
            case Assemble():
                return self._assemble(action.release)
            case Try():
                self._start_trial(action.model)
            case StopTrial():
                self._end_trial()
            case Use():
                return self._use(action)
            case Collect():
                self._collect(action)
            case Note():
                self._metrics.update_notes.labels(action.code.value).inc()
                log.info("update_noted", code=action.code.value, text=action.text)
        return None

    def _save(self, record: UpdateRecord) -> None:
        """Durable, however long the disk makes us wait: nothing further is done before."""
        while True:
            try:
                self._record_file.save(record)
                self._problems.clear(NOT_SAVED)
                return
            except DeviceFault as exc:
                what = "Free some disk space; the update goes on by itself, and fields are read meanwhile."
                self._problems.set(Problem(NOT_SAVED, f"The update waits: {exc}", what))
                if self._stop.wait(SAVE_RETRY_S):
                    return

    def _keep_steps(self, record: UpdateRecord) -> Event | None:
        number = 0
        try:
            for told in record.untold:
                now = self._clock.now().utc
                fresh = self._store.append_step(told.step, journal=record.journal, number=told.number, now=now)
                number = told.number
                if fresh:
                    self._log_step(told.step)
        except DeviceFault as exc:
            log.error("update_step_not_stored", error=str(exc))
        self._outside.stored()
        return StepsKept(number) if number else None

    def _log_step(self, step: UpdateStep) -> None:
        self._metrics.update_steps.labels(step.after.value, step.code or "").inc()
        log.info(
            "update_stepped",
            before=step.before.value,
            after=step.after.value,
            code=step.code,
            counter=step.counter,
            release=step.release,
            text=step.text,
        )

    def _prepare(self, release: ReleaseTarget) -> Event:
        key = (release.digest, release.counter)
        try:
            slots = self._slots.installed()
            if any(slot.model.key == key for slot in slots):
                return Prepared(key, frozenset())
            return Prepared(key, self._chunks.prepare(release, [(slot.release, slot.archive) for slot in slots]))
        except NoSpace as exc:
            return NoRoom(key, str(exc))

    def _assemble(self, release: ReleaseTarget) -> Event:
        key, bad = (release.digest, release.counter), frozenset[str]()

        def write(file: BinaryIO) -> bool:
            nonlocal bad
            bad = self._chunks.assemble(release, file)
            return not bad

        try:
            archive = self._slots.archive(Model.of(release))
            if archive.is_file() and self._is_whole(release):
                return Assembled(key)
            self._chunks.prepare(release, [(slot.release, slot.archive) for slot in self._slots.installed()])
            if self._slots.install(release, write, self._trust.check_archive):
                return Assembled(key)
            log.warning("update_chunks_damaged", chunks=len(bad))
            return Prepared(key, bad)
        except (TrustRefused, ArchiveRefused) as exc:
            self._metrics.update_refused.labels("archive", exc.code.value).inc()
            return AssemblyFailed(key, exc.code, exc.text)
        except NoSpace as exc:
            return NoRoom(key, str(exc))

    def _is_whole(self, release: ReleaseTarget) -> bool:
        archive = self._slots.archive(Model.of(release))
        try:
            self._trust.check_archive(release, archive)
            check_bundle(release, archive)
        except (TrustRefused, ArchiveRefused) as exc:
            log.warning("update_slot_damaged", counter=release.counter, error=exc.text)
            return False
        return True

    def _start_trial(self, model: Model) -> None:
        self._end_trial()
        stop = self._trial_stop = threading.Event()

        def work() -> None:
            try:
                result = self._trial(model, stop)
            except OSError as exc:
                result = TrialResult(UpdateCode.TIMEOUT, f"the trial could not be started: {exc.strerror}")
            if not stop.is_set():
                self.models.tried(model, result)
                self._inbox.put(TrialEnded(model.key, result.code, result.text))

        self._trial_thread = threading.Thread(target=work, name="trial", daemon=True)
        self._trial_thread.start()

    def _end_trial(self) -> None:
        if self._trial_stop is not None:
            self._trial_stop.set()
            self._trial_stop = None
        if self._trial_thread is not None:
            # It kills its child at once; an agent that ends must not leave one behind.
            self._trial_thread.join(TRIAL_END_S)
            self._trial_thread = None

    def _use(self, action: Use) -> Event:
        try:
            self.models.use(action.model, action.shadow)
        except ArchiveRefused as exc:
            what = "The one before goes on reading. Start the agent again; tell the operator if it stays so."
            self._problems.set(Problem(NOT_OPENED, f"A model could not be opened: {exc.text}"[:400], what))
            return NotInUse(action.model.key, exc.code, exc.text)
        self._problems.clear(NOT_OPENED)
        self._outside.changed()
        return InUse(action.model.key)

    def _collect(self, action: Collect) -> None:
        if not action.chunks:
            self._chunks.clear()
        gone = self._slots.collect(action.keep)
        record = self.core.record
        try:
            if record.state is not UpdateState.UNCONFIRMED:
                self._slots.mark_confirmed(record.confirmed)
        except NoSpace as exc:
            log.warning("update_mark_not_written", error=str(exc))
        if gone:
            log.info("update_slots_collected", slots=gone)

    # --- small ------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        state = self.core.record.state
        for each in UpdateState:
            self._metrics.update_state.labels(each.value).set(each is state)
        self._metrics.update_counter.set(self.core.record.running.counter)
        figures = self.core.soak
        if figures is not None:
            for name in ("fields", "white_cells", "disagreement_ratio", "uncertain_ratio", "withheld_ratio"):
                self._metrics.update_soak.labels(name).set(getattr(figures, name) or 0.0)
            self._metrics.update_soak.labels("latency_ratio").set(figures.latency_ratio or 0.0)

    def _warn(self, record: UpdateRecord) -> None:
        """What smells of an attack is a problem that a person sees, not only a line on the model's page."""
        if record.code is None or CODE_FAMILIES[record.code] is not CodeFamily.SECURITY:
            self._problems.clear(REFUSED)
            return
        text = f"A model update was refused ({record.code.value}): {record.text}"[:400]
        what = "The model in use goes on reading. Tell the operator of the fleet."
        self._problems.set(Problem(REFUSED, text, what))

    def _ended_clean(self) -> None:
        """An end on purpose says nothing against the model that runs."""
        record = self.core.record
        if record.boots:
            try:
                self._record_file.save(record.model_copy(update={"boots": 0}))
            except DeviceFault as exc:
                log.warning("update_record_not_saved", error=str(exc))


def earliest_expiry(trust: Trust) -> datetime | None:
    """When the first of the verified documents expires; None when none of them says so."""
    found = []
    for text in (trust.timestamp, trust.snapshot, trust.targets):
        try:
            moment = datetime.fromisoformat(str(json.loads(text)["signed"]["expires"]))
        except (ValueError, KeyError, TypeError):
            continue
        found.append(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    return min(found, default=None)
