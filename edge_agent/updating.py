"""Puts the model update of an agent together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from edge_agent.capture.gate import AnalysisSummary, QualityGate
from edge_agent.capture.measure import measure
from edge_agent.clock import Clock
from edge_agent.config import Settings
from edge_agent.daemon import Parts
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.live import Now
from edge_agent.slides.differential import differential
from edge_agent.triage.rules import decide
from edge_agent.update.core import UpdateCore
from edge_agent.update.driver import Outside, StepStore, UpdateDriver
from edge_agent.update.installing import Judge, ModelInUse
from edge_agent.update.receiving import ChunkMessage, DesiredMessage, Receiver, TrustMessage
from edge_agent.update.record import Model
from edge_agent.update.start import UpdateStart, start
from edge_agent.update.traffic import LinkChanged
from edge_agent.update.trial import TrialResult, run_trial
from edge_agent.update.warehouse import Warehouse
from edge_agent.uplink.driver import Updates
from edge_agent.uplink.traffic import ChunksMissing, ChunksWanted, Event, HandOn, ReportChanged, UpdateTopic
from edge_agent.wording_out import without_paths
from fleet.contract.cells import Decision
from fleet.contract.messages import UpdateStep
from models.runtime.results import FieldAnalysis, ImageRGB


def open_updates(settings: Settings) -> UpdateStart | None:
    """What the update works on, with the model that is to run; None where updates are off.

    Raises:
        BadArtefact: neither the slots nor the factory kit hold a model that can be used.
        StoreFault: the disk.
    """
    if settings.update.factory is None:
        return None
    chosen = settings.inference
    return start(
        settings.update,
        settings.data_dir,
        lambda path, digest: open_engine(path, threads=chosen.threads, self_test=settings.run.self_test, digest=digest),
        Clock(),
    )


def compose_update(
    settings: Settings,
    start: UpdateStart,
    switch: Switch,
    parts: Parts,
    *,
    on_use: Callable[[], None],
    grown: Callable[[], None],
) -> UpdateDriver:
    """The driver over everything; nothing runs yet.

    Args:
        settings, start, switch, parts: of the agent.
        on_use: told of each model that comes into use.
        grown: told of new rows in the spool.
    """
    limits = settings.update

    def trial(model: Model, stop: threading.Event) -> TrialResult:
        return run_trial(
            start.slots.archive(model),
            digest=model.digest,
            threads=switch.facts.threads,
            timeout_s=limits.trial_timeout_s,
            memory_bytes=limits.trial_memory_bytes,
            stop=stop,
        )

    def post(event: Event) -> None:
        if parts.driver is not None:
            parts.driver.post(event)

    outside = Outside(
        follow_chunks=lambda on: post(ChunksWanted(on)),
        ask=lambda model, missing: post(ChunksMissing(model.digest, missing)),
        changed=lambda: post(ReportChanged(parts.report())),
        stored=grown,
        reading=lambda: is_reading(parts.live.get(), now_s=time.monotonic(), quiet_s=limits.quiet_s),
    )
    return UpdateDriver(
        UpdateCore(start.record, limits),
        limits,
        receiver=Receiver(
            settings.device.id,
            trust=start.trust,
            chunks=start.chunks,
            clock=parts.clock,
            metrics=parts.metrics,
            retry_s=limits.space_retry_s,
        ),
        warehouse=Warehouse(start.chunks, start.slots, start.trust, parts.metrics),
        record_file=start.record_file,
        trial=trial,
        models=ModelInUse(switch, start.slots, judge_of(settings), on_use),
        store=DiscreetSteps(parts.store, folders_of(settings)),
        outside=outside,
        clock=parts.clock,
        metrics=parts.metrics,
        problems=parts.problems,
    )


class DiscreetSteps:
    """Takes the names of this workstation's folders and files out of the steps before they are kept for the cloud."""

    def __init__(self, store: StepStore, folders: Iterable[Path]) -> None:
        self._store = store
        self._folders = tuple(str(folder) for folder in folders)

    def append_step(self, step: UpdateStep, *, journal: str, number: int, now: datetime) -> bool:
        """See `StepStore`."""
        said = step.model_copy(update={"text": without_paths(step.text, self._folders)})
        return self._store.append_step(said, journal=journal, number=number, now=now)


def folders_of(settings: Settings) -> tuple[Path, ...]:
    """Folders whose names an error may hold, as given and as they really are."""
    given = [settings.data_dir, settings.update.factory, settings.inference.bundle]
    return tuple(form for path in given if path is not None for form in (path, path.absolute(), path.resolve()))


def updates_over(driver: UpdateDriver) -> Updates:
    """The update as the uplink knows it."""

    def hand_on(handed: HandOn) -> None:
        match handed.topic:
            case UpdateTopic.TRUST:
                driver.post(TrustMessage(handed.payload))
            case UpdateTopic.DESIRED:
                driver.post(DesiredMessage(handed.payload))
            case UpdateTopic.CHUNK:
                driver.post(ChunkMessage(handed.name, handed.payload))

    return Updates(hand_on, lambda up: driver.post(LinkChanged(up)))


def judge_of(settings: Settings) -> Judge:
    """The same gate and triage that the recorder applies, for two analyses of one picture."""
    gate = QualityGate(settings.quality)

    def judge(image: ImageRGB, analyses: tuple[FieldAnalysis, FieldAnalysis]) -> tuple[Decision, Decision]:
        measured = measure(image)

        def one(analysis: FieldAnalysis) -> Decision:
            reasons = gate.judge(measured, AnalysisSummary.of(analysis), um_per_px=settings.source.frame_um_per_px)
            return decide(analysis, [reason.value for reason in reasons], settings.triage).decision

        return one(analyses[0]), one(analyses[1])

    return judge


def is_reading(now: Now, *, now_s: float, quiet_s: float) -> bool:
    """Whether somebody reads a slide: fields come, and it is not full yet."""
    slide = now.slide
    if now.finished or slide is None or now.field_at_s is None or not slide.fields:
        return False
    full = differential(slide.white_cells).identified >= slide.target_white_cells
    return not full and now_s - now.field_at_s < quiet_s
