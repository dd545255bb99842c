"""Runs the update core on one thread: events in from a bounded queue, actions out to disk, trial, model and uplink."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, assert_never

import structlog

from edge_agent.clock import Clock
from edge_agent.errors import DeviceFault
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.update.core import UpdateCore
from edge_agent.update.errors import ArchiveRefused, TrustRefused
from edge_agent.update.installing import ModelInUse
from edge_agent.update.receiving import ChunkMessage, DesiredMessage, Receiver, TrustMessage
from edge_agent.update.record import Key, Model, UpdateRecord
from edge_agent.update.record_file import RecordFile
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.traffic import (
    Action,
    Ask,
    Assemble,
    Collect,
    Event,
    FollowChunks,
    InUse,
    KeepSteps,
    LinkChanged,
    Note,
    NotInUse,
    Prepare,
    Save,
    Soaked,
    Started,
    StepsKept,
    StopTrial,
    Tick,
    TrialEnded,
    Try,
    Use,
)
from edge_agent.update.trial import TrialResult
from edge_agent.update.warehouse import Warehouse
from fleet.contract.messages import UpdateState, UpdateStep
from fleet.contract.release import (
    CODE_FAMILIES,
    CodeFamily,
    ReleaseTarget,
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

log = structlog.get_logger()


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
        receiver: verifies what arrives.
        warehouse: carries out what concerns chunks and slots.
        record_file: keeps the record.
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
        receiver: Receiver,
        warehouse: Warehouse,
        record_file: RecordFile,
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
        self._receiver = receiver
        self._warehouse = warehouse
        self._record_file = record_file
        self._trial = trial
        self._store = store
        self._outside = outside
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._inbox: queue.Queue[Inbound] = queue.Queue(INBOX_EVENTS)
        self._trial_stop: threading.Event | None = None
        self._trial_thread: threading.Thread | None = None
        self._trial_of: Key | None = None
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
        record = self.core.record
        match event:
            case TrustMessage():
                # Either may start a trial at once: the core has to know whether a slide is being read now.
                self._look()
                self._handle_all(self._receiver.trust(event.payload))
            case DesiredMessage():
                self._look()
                self._handle_all(self._receiver.wish(event.payload))
            case ChunkMessage():
                candidate = None if record.candidate is None else Model.of(record.candidate).key
                wanted = self.core.chunks_wanted
                self._handle_all(self._receiver.chunk(event, wanted=wanted, candidate=candidate))
            case TrialEnded():
                if event.key == self._trial_of:  # a late one of another candidate ends no trial that runs now
                    self._end_trial()
                self._handle(event)
            case _:
                self._handle(event)

    def _tick(self) -> None:
        self._handle_all(self._receiver.due())
        evidence = self.models.evidence
        candidate = self.core.record.candidate
        if candidate is not None and evidence is not None:
            self._handle(Soaked((candidate.digest, candidate.counter), evidence))
        self._look()
        self._measure()

    def _look(self) -> None:
        self._handle(Tick(self._outside.reading()))

    # --- out --------------------------------------------------------------------------------------------------------

    def _handle_all(self, events: list[Event]) -> None:
        for event in events:
            self._handle(event)

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
                return self._warehouse.prepare(action.release)
            case FollowChunks():
                self._outside.follow_chunks(action.on)
            case Ask():
                self._metrics.update_asked.inc()
                self._outside.ask(action.release, action.missing)
            case Assemble():
                return self._warehouse.assemble(action.release)
            case Try():
                return self._start_trial(action.release)
            case StopTrial():
                self._end_trial()
            case Use():
                return self._use(action)
            case Collect():
                record = self.core.record
                proven = None if record.state is UpdateState.UNCONFIRMED else record.confirmed
                self._warehouse.collect(action.keep, chunks=action.chunks, confirmed=proven)
            case Note():
                self._metrics.update_notes.labels(action.code.value).inc()
                log.info("update_noted", code=action.code.value, text=action.text)
            case _:
                assert_never(action)
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

    def _start_trial(self, release: ReleaseTarget) -> Event | None:
        self._end_trial()
        model = Model.of(release)
        try:
            # Also after a restart: what was verified long ago may be something else by now.
            self._warehouse.verify(release)
        except TrustRefused as exc:
            return TrialEnded(model.key, exc.code, exc.text)
        stop = self._trial_stop = threading.Event()
        self._trial_of = model.key

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
        return None

    def _end_trial(self) -> None:
        if self._trial_stop is not None:
            self._trial_stop.set()
            self._trial_stop = None
        if self._trial_thread is not None:
            # It kills its child at once; an agent that ends must not leave one behind.
            self._trial_thread.join(TRIAL_END_S)
            self._trial_thread = None
        self._trial_of = None

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
