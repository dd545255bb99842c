"""Puts an agent together from its settings. The only place that knows all the parts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from edge_agent import wording_out
from edge_agent.capture.gate import QualityGate
from edge_agent.capture.opening import open_source
from edge_agent.capture.selection import FieldSelector
from edge_agent.capture.source import DroppedFrame, DropReason, FrameSource
from edge_agent.capturing import CaptureLoop, Tickets
from edge_agent.clock import EARLIEST, Clock
from edge_agent.config import Settings
from edge_agent.console_state import AgentConsole
from edge_agent.daemon import Agent, Parts, alarms_into, gauges_of, new_frames_queue
from edge_agent.errors import ConfigurationError, DeviceFault, StoreDamaged
from edge_agent.inference.switch import Switch
from edge_agent.live import LiveState
from edge_agent.live_fields import LiveFields
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.reading import FieldReader
from edge_agent.recording import RecordLoop, SourceName
from edge_agent.reloading import Reloader, Written
from edge_agent.reporting import Reporter
from edge_agent.store.calibrations_sqlite import limits_in
from edge_agent.store.chosen_sqlite import sent_pictures
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.repair_sqlite import Repaired
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import FOLDER, Store
from edge_agent.triage.budget import spent_before
from edge_agent.triage.sampling import Sampler
from edge_agent.update.start import UpdateStart
from edge_agent.updating import compose_update, updates_over
from edge_agent.uplink.asking import AskCore
from edge_agent.uplink.bus_paho import MAX_PACKET_BYTES, PahoBus
from edge_agent.uplink.cloud_http import HttpCloud
from edge_agent.uplink.core import UplinkCore
from edge_agent.uplink.courier import Courier
from edge_agent.uplink.driver import UplinkDriver
from edge_agent.uplink.traffic import Identity, SpoolGrew, Tuning
from edge_agent.version import agent_version
from edge_agent.wording_out import FRAME_DROPPED
from fleet.contract.base import ClockQuality
from fleet.contract.messages import (
    Capabilities,
    OpinionReady,
    Severity,
)
from models.runtime import available_providers

LOCK_NAME = "agent.lock"
MODEL_KEY = "model"
RESULTS_REJECTED = "results_rejected"
ROWS_SET_ASIDE = "rows_set_aside"
STORE_REPAIRED = "store_repaired"

log = structlog.get_logger()


@dataclass(slots=True)
class Composed:
    """An agent, ready to run, with what is shown of it."""

    agent: Agent
    parts: Parts
    console: AgentConsole


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps a second agent off the same data folder.

    Raises:
        ConfigurationError: there is one already, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_NAME).open("a")
    except OSError as exc:
        raise ConfigurationError(f"the data folder {folder} cannot be used: {exc.strerror}") from exc
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigurationError(
                f"another agent already uses the data folder {folder}: stop it or give another data_dir"
            ) from exc
        yield


def open_store(settings: Settings) -> Store:
    """The store of the data folder."""
    return Store(settings.data_dir, quotas_of(settings))


def open_calibrated(settings: Settings) -> tuple[Store, dict[str, float]]:
    """The store of the data folder, and the limits that this device has learnt; both are needed to begin.

    Limits that cannot be read are damage that no check has met: the store is opened again, which repairs it.
    """
    store = open_store(settings)
    try:
        return _with_limits(store)
    except StoreDamaged:
        return _with_limits(open_store(settings))


def _with_limits(store: Store) -> tuple[Store, dict[str, float]]:
    try:
        return store, limits_in(store.database)
    except BaseException:
        store.close()
        raise


def quotas_of(settings: Settings) -> Quotas:
    """What the spool may hold."""
    limits = settings.store
    return Quotas(
        rows=limits.spool_rows,
        image_bytes=limits.spool_image_bytes,
        event_bytes=limits.spool_event_bytes,
        images=limits.spool_images,
    )


def compose(
    settings: Settings,
    switch: Switch,
    store: Store,
    *,
    start: UpdateStart | None = None,
    written: Written | None = None,
) -> Composed:
    """Every part in its place; nothing runs yet.

    Args:
        settings: of the run.
        switch: the model, open.
        store: open.
        start: what the model update works on; None without updates.
        written: the settings as they may be changed while the agent runs; without it they never are.
    """
    clock, live, metrics = Clock(), LiveState(), Metrics()
    reads = Reads(store.database)
    on_use = model_teller(switch, store, metrics)
    on_use()
    grown = _Later()
    problems = Problems(alarms_into(store, clock, grown))
    store.on_rejected = count_teller(problems, rejection_told)
    store.on_set_aside = count_teller(problems, set_aside_told)
    if store.repaired is not None:
        problems.set(repair_told(store.repaired))
        metrics.store_repaired.set(1)
    frames, enough = new_frames_queue(), threading.Event()
    slide = store.open_slide(
        settings.slide.name, target_white_cells=settings.slide.target_white_cells, now=clock.now().utc
    )
    limit = settings.run.stop_after_fields
    tickets = Tickets(None if limit is None else limit - slide.fields)
    name = SourceName(settings.source.kind, open_source(settings.source).replayable)
    gate = QualityGate(settings.quality)
    fields = LiveFields(FieldSelector(settings.selection), gate)
    recorder = RecordLoop(
        settings,
        reader=FieldReader(switch, gate, settings.triage),
        store=store,
        sampler=_sampler(settings, store, clock),
        frames=frames,
        source=name,
        enough=enough,
        tickets=tickets,
        slide=slide,
        outcomes=fields,
        clock=clock,
        live=live,
        metrics=metrics,
        problems=problems,
        on_stored=grown,
    )
    capture = CaptureLoop(
        lambda: _resumed(settings, reads, name, slide.slide_id, drop_teller(store, clock, grown, metrics)),
        frames,
        fields=fields,
        tickets=tickets,
        enough=enough,
        strict=settings.run.exit_when_drained,
        metrics=metrics,
        problems=problems,
    )
    reporter = Reporter(switch, lambda: switch.facts, problems)
    reloader = Reloader(settings, written or Written(lambda: settings, threading.Event()), problems)
    reloader.apply = (recorder.use, lambda changed: store.use(quotas_of(changed)))
    parts = Parts(store, recorder, capture, live, metrics, problems, clock, reporter, reloader)
    if start is not None:
        parts.update = compose_update(settings, start, switch, parts, on_use=on_use, grown=grown)
        reporter.core = parts.update.core
    _connect(settings, parts)
    grown.targets = _listeners(parts)
    return Composed(Agent(settings, parts), parts, AgentConsole(settings, parts, switch))


class _Later:
    """A call whose receivers are known only when everything is put together."""

    def __init__(self) -> None:
        self.targets: tuple[Callable[[], None], ...] = ()

    def __call__(self) -> None:
        for target in self.targets:
            target()


def _listeners(parts: Parts) -> tuple[Callable[[], None], ...]:
    found: list[Callable[[], None]] = []
    if (driver := parts.driver) is not None:
        found.append(lambda: driver.post(SpoolGrew()))
    if (courier := parts.courier) is not None:
        found.append(courier.wake)
    return tuple(found)


def _connect(settings: Settings, parts: Parts) -> None:
    """The two ways to the cloud, as far as they are configured."""
    if settings.cloud.url is not None:
        parts.courier = Courier(
            HttpCloud(settings.cloud),
            AskCore(catch_up_s=settings.cloud.catch_up_s),
            store=parts.store,
            clock=parts.clock,
            metrics=parts.metrics,
        )
    if settings.mqtt.host is None:
        return
    courier = parts.courier

    def on_opinion(message: OpinionReady, fetch: bool) -> None:
        parts.metrics.opinions.labels(message.state.value).inc()
        if fetch and courier is not None:
            courier.want(message.opinion)

    parts.driver = UplinkDriver(
        UplinkCore(
            _identity(settings, parts.store), parts.report(), _tuning(settings), updates=parts.update is not None
        ),
        lambda deliver: PahoBus(settings.mqtt, client_id=settings.device.id, deliver=deliver),
        store=parts.store,
        clock=parts.clock,
        metrics=parts.metrics,
        gauges=lambda: gauges_of(parts.live, parts.problems),
        on_opinion=on_opinion,
        on_catch_up=courier.catch_up_soon if courier is not None else lambda: None,
        updates=None if parts.update is None else updates_over(parts.update),
    )


def _tuning(settings: Settings) -> Tuning:
    return Tuning(
        connect_deadline_s=settings.mqtt.connect_timeout_s * 3,
        ack_timeout_s=settings.mqtt.ack_timeout_s,
        telemetry_s=settings.mqtt.telemetry_s,
    )


def _identity(settings: Settings, store: Store) -> Identity:
    return Identity(
        device=settings.device.id,
        site=settings.device.site,
        boot=store.boot,
        agent_version=agent_version(),
        instance=os.urandom(6).hex(),
        capabilities=Capabilities(
            agent_version=agent_version(),
            python=platform.python_version(),
            onnxruntime=version("onnxruntime"),
            providers=available_providers(),
            cpu_cores=os.cpu_count() or 1,
            memory_bytes=_memory_bytes(),
            source=settings.source.kind,
            max_packet_bytes=MAX_PACKET_BYTES,
        ),
    )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _sampler(settings: Settings, store: Store, clock: Clock) -> Sampler:
    """Goes on with the budgets where earlier runs left them: a restart must not be a way round them."""
    now, policy = clock.now(), settings.sampling.policy
    sent = sent_pictures(store.database, policy.per_day or 0)

    def spent_s(*, audit: bool) -> list[float]:
        return spent_before(
            (picture for picture in sent if picture.audit is audit),
            now=now.utc,
            now_s=now.monotonic_s,
            clock_set=now.quality is not ClockQuality.UNSYNCED,
            earliest=EARLIEST,
        )

    return Sampler(
        policy,
        spent_s(audit=False),
        spent_s(audit=True),
        duplicate_above_ratio=settings.sampling.duplicate_above_ratio,
    )


def _resumed(
    settings: Settings, reads: Reads, name: SourceName, slide_id: int, on_drop: Callable[[DroppedFrame], None]
) -> FrameSource:
    """A source that goes on where the store stands. Of a watched folder no picture comes twice, whatever the slide."""
    of_slide = None if settings.source.watch else slide_id
    source = open_source(
        settings.source,
        on_drop=on_drop,
        known=lambda refs: reads.known_refs(name.key, refs, slide_id=of_slide),
        stamps=reads.file_stamps,
    )
    if source.replayable and source.kind != "folder" and (last := reads.last_ref(name.key, slide_id=slide_id)):
        try:
            source.resume_after(last)
        except ValueError as exc:
            # Another video or other settings under the same slide: begin anew; what is known is not counted twice.
            log.warning("source_not_resumed", error=str(exc))
    return source


def drop_teller(
    store: Store, clock: Clock, on_stored: Callable[[], None], metrics: Metrics
) -> Callable[[DroppedFrame], None]:
    """Makes an alarm of a dropped frame. Called by the source's own thread, which no full disk may end."""

    def tell(dropped: DroppedFrame) -> None:
        now = clock.now().utc
        # A file that cannot be read is met again at each start, and told of once.
        unreadable = dropped.reason is DropReason.UNREADABLE
        log.warning(FRAME_DROPPED, source_ref=dropped.source_ref, reason=dropped.reason.value, text=dropped.text)
        alarm = wording_out.alarm(f"{FRAME_DROPPED}_{dropped.reason}", Severity.WARNING, now)
        try:
            if not unreadable or store.see_file(FOLDER, dropped.source_ref, dropped.reason.value, now=now):
                store.alarm(alarm, now=now)
        except DeviceFault as exc:
            metrics.alarms_lost.inc()
            log.error("alarm_not_stored", code=alarm.code, error=str(exc))
        on_stored()

    return tell


def count_teller(problems: Problems, told: Callable[[int], Problem]) -> Callable[[int], None]:
    """Makes a problem of rows that meet one fate, with how many since the start; it stands until the next one."""
    found = 0

    def tell(rows: int) -> None:
        nonlocal found
        found += rows
        problem = told(found)
        log.error(problem.code, rows=rows)
        problems.set(problem)

    return tell


def rejection_told(results: int) -> Problem:
    """Makes a problem of results that the cloud refused for good: they are gone."""
    return Problem(
        RESULTS_REJECTED,
        f"The cloud refused {results} results since the start; they are in the local store only.",
        "Tell the operator: the cloud keeps refused results with the reason. Check that no other workstation "
        "uses this device's name.",
    )


def set_aside_told(rows: int) -> Problem:
    """Makes a problem of rows that cannot be sent; they stay until somebody looks."""
    return Problem(
        ROWS_SET_ASIDE,
        f"Since the start {rows} rows could not be sent and were set aside; everything else goes on.",
        "See `ahs-edge spool ls --aside` for the reason of each.",
    )


def repair_told(repaired: Repaired) -> Problem:
    """Makes a problem of a store that was damaged; it stands until the next start, the damaged file for good."""
    saved = sum(repaired.saved.get(table, 0) for table in ("fields", "spool"))
    lost = ", ".join(f"{rows} of {table}" for table, rows in repaired.lost.items()) or "none that is known of"
    salt = " Pseudonyms of specimens are others from now on." if repaired.salt_lost else ""
    return Problem(
        STORE_REPAIRED,
        f"The store was damaged and has been replaced: {saved} rows of fields and spool saved, lost: {lost}.{salt}",
        f"Look at the disk's health. The damaged file is kept as {repaired.kept_as.name}.",
    )


def model_teller(switch: Switch, store: Store, metrics: Metrics) -> Callable[[], None]:
    """Notes which model answers, in the store for reports and in the metrics."""

    def tell() -> None:
        model = switch.model
        metrics.model.clear()
        metrics.model.labels(model.name, model.version, model.digest).set(1)
        try:
            store.remember(MODEL_KEY, model.model_dump_json())
        except DeviceFault as exc:
            log.error("model_not_remembered", error=str(exc))

    return tell
