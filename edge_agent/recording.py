"""The recorder's thread: each frame is read and stored in one transaction, or waited with, never half kept."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from edge_agent import wording_out
from edge_agent.capture.frame import Frame
from edge_agent.capturing import Frames, Tickets
from edge_agent.clock import Clock
from edge_agent.config import Settings
from edge_agent.errors import DeviceFault, SlideClosed, StoreDamaged, StoreFull
from edge_agent.live import LatestField, LiveState
from edge_agent.live_fields import FieldOutcomes
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.reading import FieldReader, Judged
from edge_agent.slides.differential import differential
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import NewField, SlideTotals
from edge_agent.store.store_sqlite import Store
from edge_agent.triage.sampling import Sampler
from edge_agent.version import agent_version
from fleet.contract.base import CaptureId
from fleet.contract.cells import Decision
from fleet.contract.messages import ClosedBy, Severity, SlideResult
from models.runtime import ModelRuntimeError

WAIT_S = 0.25
MAX_TRIES = 2
DISK_FULL = "disk_full"
DISK_FAULT = "disk_fault"
FRAME_UNUSABLE = "frame_unusable"
TARGET_REACHED = "slide_target_reached"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SourceName:
    """Which kind of source the fields come from (its references are unique within it), and whether they last."""

    key: str
    replayable: bool


class RecordLoop:
    """See the module.

    Args:
        settings: device, slide, run, store.
        reader: reads a frame.
        store: keeps it.
        sampler: chooses what is sent.
        frames: where they come from.
        source: which source it is.
        enough: set here when the run is long enough.
        tickets: given back for frames that were not stored.
        slide: the open one.
        outcomes: told what became of each frame.
        on_stored: told after each commit.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reader: FieldReader,
        store: Store,
        sampler: Sampler,
        frames: Frames,
        source: SourceName,
        enough: threading.Event,
        tickets: Tickets,
        slide: SlideTotals,
        outcomes: FieldOutcomes,
        clock: Clock,
        live: LiveState,
        metrics: Metrics,
        problems: Problems,
        on_stored: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._store = store
        self._reads = Reads(store.database)
        self._sampler = sampler
        self._frames = frames
        self._source = source
        self._enough = enough
        self._tickets = tickets
        self._outcomes = outcomes
        self._clock = clock
        self._live = live
        self._metrics = metrics
        self._problems = problems
        self._on_stored = on_stored
        self._number = 0
        self._held: Frame | None = None
        self._tries = 0
        self.done = threading.Event()
        self.slide = slide
        live.put(slide=slide)

    def run(self, stop: threading.Event) -> None:
        """Until there are no more frames, the run is long enough, or stop."""
        # After a failure between a commit and its telling, the slide is ahead of what was shown.
        self.slide = self._reads.slide(self.slide.slide_id)
        while not stop.is_set():
            if self._long_enough():
                self._enough.set()
                break
            if self._held is None:
                try:
                    frame = self._frames.get(timeout=WAIT_S)
                except queue.Empty:
                    continue
                if frame is None:
                    break
                self._held, self._tries = frame, 0
            self._tries += 1
            if self._tries > MAX_TRIES:
                # It has brought this thread down before: give the frame up rather than every one behind it.
                self._unusable(self._held, "the agent failed on it repeatedly")
            else:
                self._one(self._held, stop)
            self._held = None
        if not stop.is_set():
            self.done.set()

    def close_slide(self) -> None:
        """Closes the slide and spools its result."""
        totals = self._reads.slide(self.slide.slide_id)
        now = self._clock.now().utc
        result = SlideResult(
            boot=0,
            seq=0,
            slide=totals.pseudonym,
            opened_at=totals.opened_at,
            closed_at=now,
            fields=totals.fields,
            withheld=totals.withheld,
            rbc=totals.rbc,
            platelets=totals.platelets,
            white_cells=totals.white_cells,
            limits={
                share.label: (share.low_ratio, share.high_ratio) for share in differential(totals.white_cells).shares
            },
            model=self._reader.engine.model.digest,
            closed_by=ClosedBy.RUN,
            target=totals.target_white_cells,
            uncertain=totals.uncertain,
            agent_version=agent_version(),
        )
        closed = self._store.close_slide(totals.slide_id, result, now=now)
        self._show(self._reads.slide(totals.slide_id))
        if closed:
            log.info(
                "slide_closed", slide=totals.name, fields=totals.fields, white_cells=sum(totals.white_cells.values())
            )
        self._on_stored()

    def use(self, settings: Settings) -> None:
        """From the next look on, these settings hold."""
        self._settings = settings

    def _long_enough(self) -> bool:
        limit = self._settings.run.stop_after_fields
        return limit is not None and self.slide.fields >= limit

    def _show(self, slide: SlideTotals) -> None:
        self.slide = slide
        self._live.put(slide=slide)

    def _open_slide(self) -> None:
        """A slide that was closed has its result: what comes now belongs to the next one."""
        wanted = self._settings.slide
        self._show(
            self._store.open_slide(wanted.name, target_white_cells=wanted.target_white_cells, now=self._clock.now().utc)
        )
        log.info("slide_opened", slide=self.slide.pseudonym)

    def _one(self, frame: Frame, stop: threading.Event) -> None:
        start_s = time.monotonic()
        self._number += 1
        capture = CaptureId(device=self._settings.device.id, boot=self._store.boot, frame=self._number)
        now = self._clock.now()
        if not self._await_room(stop):
            return
        if self.slide.closed_at is not None:
            self._open_slide()
        try:
            record, judged = self._reader.read(
                frame,
                capture=capture,
                slide=self.slide,
                source=self._source.key,
                replayable=self._source.replayable,
                site=self._settings.device.site,
                sampler=self._sampler,
                now=now,
                monotonic=time.monotonic,
            )
        except ModelRuntimeError as exc:
            self._unusable(frame, str(exc))
            return
        try:
            stored = self._keep(record, stop)
        except SlideClosed:
            self._open_slide()
            self._one(frame, stop)
            return
        if stored is None:
            return
        # From here on nothing may bring the frame back: a live field has no name by which it would be known again.
        self._held = None
        if stored:
            self._sampler.stored()
        if record.result.decision is Decision.WITHHELD:
            self._outcomes.withheld(frame, record.result.reasons, judged.focus)
        else:
            self._outcomes.counted(frame)
        if not stored:
            self._metrics.fields_repeated.inc()
            self._tickets.give_back()
            log.info("field_repeated", source_ref=frame.source_ref)
            return
        self._tell(record, judged, frame, latency_ms=(time.monotonic() - start_s) * 1000.0)

    def _await_room(self, stop: threading.Event) -> bool:
        """Takes no field while the disk has no room; False when asked to stop meanwhile."""
        least_bytes = self._settings.store.min_free_bytes
        while True:
            try:
                if self._store.database.free_bytes() >= least_bytes:
                    return True
                self._no_room(f"less than {least_bytes / 2**20:.0f} MB are free beside {self._store.database.path}")
            except DeviceFault as exc:
                self._disk_fault(exc)
            if stop.wait(self._settings.store.full_retry_s):
                return False

    def _keep(self, record: NewField, stop: threading.Event) -> bool | None:
        """Stores, however long the disk makes us wait. None when asked to stop before it could be stored.

        Raises:
            StoreDamaged: waiting would not help.
        """
        while True:
            try:
                stored = self._store.record_field(record, now=self._clock.now().utc)
            except StoreDamaged:
                raise
            except StoreFull as exc:
                self._no_room(str(exc))
            except DeviceFault as exc:
                self._disk_fault(exc)
            else:
                self._problems.clear(DISK_FULL)
                self._problems.clear(DISK_FAULT)
                return stored
            if stop.wait(self._settings.store.full_retry_s):
                return None

    def _disk_fault(self, exc: DeviceFault) -> None:
        self._metrics.store_retries.inc()
        self._problems.set(
            Problem(DISK_FAULT, str(exc), "Check the disk and the folder's permissions.", Severity.CRITICAL)
        )

    def _no_room(self, text: str) -> None:
        self._metrics.store_retries.inc()
        self._problems.set(
            Problem(
                DISK_FULL,
                f"The disk is full, no field is taken: {text}.",
                "Free some disk space; the agent goes on by itself and nothing stored is lost.",
                Severity.CRITICAL,
            )
        )

    def _unusable(self, frame: Frame, text: str) -> None:
        self._outcomes.unusable(frame)
        self._metrics.frames_unusable.inc()
        self._tickets.give_back()
        log.error("frame_unusable", source_ref=frame.source_ref, error=text)
        self._alarm(FRAME_UNUSABLE, Severity.WARNING)

    def _alarm(self, code: str, severity: Severity, *, count: int | None = None) -> None:
        now = self._clock.now().utc
        try:
            self._store.alarm(wording_out.alarm(code, severity, now, count=count), now=now)
        except DeviceFault as exc:
            log.error("alarm_not_stored", code=code, error=str(exc))
        self._on_stored()

    def _tell(self, record: NewField, judged: Judged, frame: Frame, *, latency_ms: float) -> None:
        result, metrics = record.result, self._metrics
        before, self.slide = self.slide, self._reads.slide(self.slide.slide_id)
        self._live.put(
            slide=self.slide,
            field_at_s=time.monotonic(),
            field=LatestField(result.capture_id, frame.captured_at, frame.image, judged, latency_ms, frame.um_per_px),
        )
        metrics.fields.labels(result.decision.value).inc()
        for reason in result.reasons:
            metrics.field_reasons.labels(reason).inc()
        for name, count in (
            ("RBC", result.counts.rbc),
            ("WBC", result.counts.wbc),
            ("Platelets", result.counts.platelets),
        ):
            metrics.cells.labels(name).inc(count)
        metrics.sampled.labels(record.sampled.value).inc()
        metrics.field_seconds.observe(latency_ms / 1000.0)
        log.info(
            "field_stored",
            capture_id=result.capture_id,
            source_ref=record.source_ref,
            decision=result.decision.value,
            reasons=list(result.reasons),
            rbc=result.counts.rbc,
            wbc=result.counts.wbc,
            platelets=result.counts.platelets,
            sampled=record.sampled.value,
            latency_ms=round(latency_ms, 1),
        )
        target = self.slide.target_white_cells
        if _identified(before) < target <= _identified(self.slide):
            self._alarm(TARGET_REACHED, Severity.INFO, count=target)
        self._on_stored()


def _identified(slide: SlideTotals) -> int:
    return differential(slide.white_cells).identified
