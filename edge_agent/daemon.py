"""The agent: capture -> recorder -> store; uplink and courier beside them; the console over all of it.

Every part but the recorder may be absent or broken without stopping the others. SIGTERM sets `stop`: the field in hand
is finished, everything ends within STOP_S, and what did not leave is in the store. SIGKILL costs at most the field in
hand, which a replayable source delivers again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from edge_agent import wording_out
from edge_agent.capture.errors import SourceNotFound
from edge_agent.capture.source import FrameSource, SourceState
from edge_agent.capturing import CaptureLoop, Frames
from edge_agent.clock import Clock
from edge_agent.config import Settings
from edge_agent.errors import DeviceFault, StoreDamaged
from edge_agent.exit_codes import ExitCode
from edge_agent.live import LinkView, LiveState
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.recording import RecordLoop
from edge_agent.reloading import Reloader
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Waiting
from edge_agent.store.store_sqlite import Store
from edge_agent.supervision import Worker
from edge_agent.update.driver import UpdateDriver
from edge_agent.uplink.asking import AskState
from edge_agent.uplink.courier import Courier
from edge_agent.uplink.driver import UplinkDriver
from edge_agent.uplink.link import CONNECTED_STATES, LinkState
from edge_agent.uplink.traffic import CredentialsChanged, DeviceReport, ReportChanged, SpoolGrew
from fleet.contract.messages import Severity

QUEUE_FRAMES = 2
WATCH_S = 0.5
STOP_S = 4.5
BROKER_REFUSED = "broker_refused"
CLOUD_REFUSED = "cloud_refused"

log = structlog.get_logger()


@dataclass(slots=True)
class Parts:
    """What an agent is made of; `driver`, `courier` and `update` are None where nothing is configured."""

    store: Store
    recorder: RecordLoop
    capture: CaptureLoop
    live: LiveState
    metrics: Metrics
    problems: Problems
    clock: Clock
    report: Callable[[], DeviceReport]
    reloader: Reloader
    driver: UplinkDriver | None = None
    courier: Courier | None = None
    update: UpdateDriver | None = None


class Agent:
    """Runs the parts until it is stopped, or to the end of a bounded run.

    Args:
        settings: of the run.
        parts: composed by `edge_agent.composition`.
    """

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        self._reads = Reads(parts.store.database)
        self._tokens = [
            TokenWatch(file) for file in {settings.mqtt.token_file, settings.cloud.token_file} if file is not None
        ]
        self._camera_code: str | None = None

    def run(self, stop: threading.Event) -> ExitCode:
        """Blocks until the end.

        Raises:
            SourceNotFound, StoreDamaged: what a person has to put right first.
        """
        parts = self._parts
        halt = threading.Event()
        fatal: tuple[type[BaseException], ...] = (StoreDamaged, SourceNotFound)
        workers = [
            Worker("recorder", parts.recorder.run, stop=halt, metrics=parts.metrics, fatal=fatal),
            Worker("capture", parts.capture.run, stop=halt, metrics=parts.metrics, fatal=fatal),
        ]
        if parts.driver is not None:
            workers.append(Worker("uplink", parts.driver.run, stop=halt, metrics=parts.metrics, fatal=(StoreDamaged,)))
        if parts.courier is not None:
            workers.append(
                Worker("courier", parts.courier.run, stop=halt, metrics=parts.metrics, fatal=(StoreDamaged,))
            )
        if parts.update is not None:
            workers.append(Worker("update", parts.update.run, stop=halt, metrics=parts.metrics, fatal=(StoreDamaged,)))
        # Not waited for at the end: it reads the whole file, and begins again at the next start.
        checker = Worker("check", self._check, stop=halt, metrics=parts.metrics, fatal=(StoreDamaged,))
        for worker in (*workers, checker):
            worker.start()
        code = ExitCode.OK
        try:
            code = self._watch(stop, halt)
        finally:
            halt.set()
            deadline_s = time.monotonic() + STOP_S
            for worker in workers:
                if not worker.join(max(0.1, deadline_s - time.monotonic())):
                    log.warning("worker_left_behind", worker=worker.name)
        for worker in (*workers, checker):
            if worker.failure is not None:
                raise worker.failure
        return code

    def _check(self, stop: threading.Event) -> None:
        """The rest of the store's check after an unclean end, beside the work and behind it."""
        database = self._parts.store.database
        if database.unchecked and not stop.is_set():
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            began_s = time.monotonic()
            database.check()
            log.info("store_checked", seconds=round(time.monotonic() - began_s, 1))

    def _watch(self, stop: threading.Event, halt: threading.Event) -> ExitCode:
        """Looks after everything twice a second until the run is over."""
        drain_until_s: float | None = None
        while not stop.is_set() and not halt.is_set():
            self._parts.reloader.look()
            waiting = self._look()
            if self._parts.recorder.done.is_set():
                self._parts.live.put(finished=True)
                if self._settings.run.exit_when_drained:
                    if drain_until_s is None:
                        drain_until_s = time.monotonic() + self._settings.run.drain_timeout_s
                        waiting = self._close_slide() or waiting
                    if self._delivered(waiting):
                        log.info("run_delivered")
                        return ExitCode.OK
                    if time.monotonic() >= drain_until_s:
                        log.error("run_not_delivered", results=waiting.events, images=waiting.images)
                        return ExitCode.NOT_DELIVERED
                elif self._settings.run.stop_after_fields is not None:
                    log.info("run_finished", results=waiting.events, images=waiting.images)
                    return ExitCode.OK
            stop.wait(WATCH_S)
        return ExitCode.OK

    def _close_slide(self) -> Waiting | None:
        try:
            self._parts.recorder.close_slide()
            return self._parts.store.waiting()
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            log.error("slide_not_closed", error=str(exc))
            return None

    def _delivered(self, waiting: Waiting) -> bool:
        """Only a way that is configured is waited for: without one, staying in the store is what was asked for."""
        results = self._parts.driver is None or waiting.events == 0
        images = self._parts.courier is None or waiting.images == 0
        return results and images

    def _look(self) -> Waiting:
        parts = self._parts
        try:
            waiting = parts.store.waiting()
            parts.metrics.disk_free_bytes.set(free := parts.store.database.free_bytes())
            for name, value in self._reads.counters().items():
                parts.metrics.lasting.labels(name.value).set(value)
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            log.error("store_not_read", error=str(exc))
            waiting, free = parts.live.get().waiting, 0
        parts.metrics.spool_rows.set(waiting.events)
        parts.metrics.spool_images.set(waiting.images)
        parts.metrics.spool_image_bytes.set(waiting.image_bytes)
        parts.live.put(waiting=waiting, free_bytes=free, clock=parts.clock.now().quality.value)
        self._look_at_camera()
        self._look_at_links()
        for token in self._tokens:
            if token.changed():
                if parts.driver is not None:
                    parts.driver.post(CredentialsChanged())
                if parts.courier is not None:
                    parts.courier.credentials_changed()
        found = parts.problems.now()
        parts.metrics.problems.set(len(found))
        if parts.driver is not None:
            parts.driver.post(ReportChanged(parts.report()))
            if waiting.events > parts.driver.core.in_flight:
                # Rows may have come from outside: `ahs-edge spool retry`.
                parts.driver.post(SpoolGrew())
        return waiting

    def _look_at_camera(self) -> None:
        parts = self._parts
        source: FrameSource | None = parts.capture.source
        if source is None:
            return
        status = source.status()
        parts.live.put(camera=status, camera_kind=source.kind)
        # A source that was read to its end is closed behind it.
        over = status.state is SourceState.CLOSED and parts.recorder.done.is_set()
        parts.metrics.camera_up.set(status.sighted or over)
        parts.metrics.camera_fps.set(status.fps)
        parts.metrics.camera_reconnects.set(status.reconnects)
        for reason, frames in status.dropped.items():
            parts.metrics.frames_dropped.labels(reason.value).set(frames)
        wrong = not status.healthy and status.state is not SourceState.CLOSED
        code = f"camera_{status.state.value}" if wrong else None
        if self._camera_code is not None and self._camera_code != code:
            parts.problems.clear(self._camera_code)
        if code is not None:
            parts.problems.set(
                Problem(code, f"Camera: {status.text}", "Look at the camera and its cable.", Severity.CRITICAL)
            )
        self._camera_code = code

    def _look_at_links(self) -> None:
        parts, now = self._parts, self._parts.clock.now().utc
        if parts.driver is not None:
            core = parts.driver.core
            last = now if core.state in CONNECTED_STATES else _contact(parts.live.get().broker)
            parts.live.put(broker=LinkView(core.state.value, core.text, last))
            self._refusal(BROKER_REFUSED, core.state is LinkState.REFUSED, core.text)
        if parts.courier is not None:
            ask = parts.courier.core
            last = now if ask.state is AskState.READY and ask.text == "connected" else _contact(parts.live.get().cloud)
            parts.live.put(cloud=LinkView(ask.state.value, ask.text, last))
            self._refusal(CLOUD_REFUSED, ask.state is AskState.REFUSED, ask.text)

    def _refusal(self, code: str, refused: bool, text: str) -> None:
        if refused:
            what = "Ask the operator for a new device token and put it into the token file; the agent reads it again."
            self._parts.problems.set(Problem(code, text[:1].upper() + text[1:], what))
        else:
            self._parts.problems.clear(code)


class TokenWatch:
    """Notices that a token file was written anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()

    def changed(self) -> bool:
        """Since the last look."""
        before, self._seen = self._seen, self._stamp()
        return self._seen != before

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size


def gauges_of(live: LiveState, problems: Problems) -> dict[str, float]:
    """What telemetry says of the live state."""
    now = live.get()
    found: dict[str, float] = {
        "spool_rows": float(now.waiting.events),
        "spool_images": float(now.waiting.images),
        "problems": float(len(problems.now())),
    }
    if now.free_bytes is not None:
        found["disk_free_bytes"] = float(now.free_bytes)
    if now.camera is not None:
        found["camera_up"] = float(now.camera.sighted or now.finished)
        found["camera_fps"] = now.camera.fps
    if now.field is not None:
        found["field_latency_ms"] = now.field.latency_ms
    if now.slide is not None:
        found["slide_fields"] = float(now.slide.fields)
        found["slide_uncertain"] = float(now.slide.uncertain)
        found["slide_withheld"] = float(now.slide.withheld)
    return found


def alarms_into(store: Store, clock: Clock, on_stored: Callable[[], None]) -> Callable[[Problem, bool], None]:
    """Makes an alarm of each problem that appears and of each that goes."""

    def tell(problem: Problem, appeared: bool) -> None:
        now = clock.now().utc
        code = problem.code if appeared else f"{problem.code}{wording_out.OVER}"
        severity = problem.severity if appeared else Severity.INFO
        log.warning("problem_appeared" if appeared else "problem_over", code=problem.code, text=problem.text)
        try:
            store.alarm(wording_out.alarm(code, severity, now), now=now)
        except DeviceFault as exc:
            # On a full disk the alarm cannot be kept; the console and the report still say it.
            log.error("alarm_not_stored", code=code, error=str(exc))
        on_stored()

    return tell


def new_frames_queue() -> Frames:
    """Bounded: a slow model makes the source wait or lose frames, never the memory grow."""
    return queue.Queue(QUEUE_FRAMES)


def _contact(view: LinkView | None) -> datetime | None:
    return None if view is None else view.last_contact_at
