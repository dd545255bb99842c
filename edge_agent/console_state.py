"""The console's view of a running agent: live state for what moves, the store for the gallery."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from edge_agent.capture.source import SourceState
from edge_agent.config import Settings
from edge_agent.console.view import (
    CameraStatus,
    CellCard,
    CloudStatus,
    FieldStatus,
    Health,
    HealthPart,
    LiveField,
    LiveSnapshot,
    ModelCard,
    ModelStatus,
    OverlayBox,
    PartState,
    Problem,
    SelfTestCheck,
    Severity,
    SlideStatus,
    TypeShare,
    UpdateCard,
)
from edge_agent.daemon import Parts
from edge_agent.inference.switch import Switch
from edge_agent.live import LatestField, LinkView, Now
from edge_agent.problems import Problem as AgentProblem
from edge_agent.slides.differential import differential, estimate_platelets
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import SlideTotals, StoredCell, Waiting
from edge_agent.update_words import update_card, update_text
from edge_agent.uplink.asking import AskState
from edge_agent.uplink.link import CONNECTED_STATES, LinkState
from edge_agent.version import agent_version
from fleet.contract.base import ClockQuality
from fleet.contract.cells import ModelRef
from fleet.contract.messages import Severity as WireSeverity
from models.runtime import encode_jpeg

JPEG_QUALITY = 85
_CAMERA = {
    SourceState.UP: PartState.OK,
    SourceState.WAITING: PartState.OK,
    SourceState.ENDED: PartState.OFF,
    SourceState.CLOSED: PartState.UNKNOWN,
    SourceState.CONNECTING: PartState.BUSY,
    SourceState.RECONNECTING: PartState.WARNING,
    SourceState.TRICKLING: PartState.WARNING,
}


class AgentConsole:
    """Implements `edge_agent.console.view.ConsoleView`; safe to call from any thread."""

    def __init__(self, settings: Settings, parts: Parts, switch: Switch) -> None:
        self._settings = settings
        self._parts = parts
        self._switch = switch
        self._reads = Reads(parts.store.database)
        self._lock = threading.Lock()
        self._encoded: LiveField | None = None

    def snapshot(self) -> LiveSnapshot:
        """State of everything now; no store access."""
        now, model = self._parts.live.get(), self._switch.model
        return LiveSnapshot(
            taken_at=datetime.now(UTC),
            device=self._settings.device.id,
            site=self._settings.device.site,
            agent_version=agent_version(),
            camera=self._camera(now),
            model=self._model_status(model),
            cloud=_cloud(now),
            slide=None if now.slide is None else self._slide(now.slide),
            field=None if now.field is None else _field(now.field),
            problems=tuple(
                Problem(
                    found.text,
                    found.what_to_do,
                    Severity.CRITICAL if found.severity is WireSeverity.CRITICAL else Severity.WARNING,
                )
                for found in self._parts.problems.now()
            ),
        )

    def live_field(self) -> LiveField | None:
        """The newest field, encoded by whoever asks first, on the asking thread."""
        latest = self._parts.live.get().field
        if latest is None:
            return None
        with self._lock:
            if self._encoded is None or self._encoded.capture_id != latest.capture_id:
                self._encoded = LiveField(
                    capture_id=latest.capture_id,
                    jpeg=encode_jpeg(latest.image, JPEG_QUALITY),
                    width_px=int(latest.image.shape[1]),
                    height_px=int(latest.image.shape[0]),
                    boxes=_boxes(latest),
                    um_per_px=latest.um_per_px,
                )
            return self._encoded

    def cells(self, slide: str | None, limit: int) -> list[CellCard]:
        """White cells of a slide, worst first."""
        return [_card(cell) for cell in self._reads.cells(slide, limit)]

    def cell_jpeg(self, cell_id: int) -> bytes | None:
        """A white cell's picture."""
        return self._reads.crop(cell_id)

    def model(self) -> ModelCard | None:
        """What runs here."""
        facts, model = self._switch.facts, self._switch.model
        latest = self._parts.live.get().field
        manifest = facts.manifest
        lines = [("Role", manifest.role.value), ("Created", manifest.created), ("Licence", manifest.licence)]
        lines += [(f"Threshold {cls.value}", f"{value:.2f}") for cls, value in manifest.detector.thresholds.items()]
        lines += [("Naming probability", f"{manifest.head.accept_probability:.2f}")]
        lines += [
            (f"Learned from {source.name}", f"{source.images} images") for source in manifest.provenance.trained_on
        ]
        checks = () if facts.self_test is None else facts.self_test.checks
        return ModelCard(
            name=manifest.name,
            version=manifest.version,
            digest=model.digest,
            loaded_at=facts.loaded_at,
            threads=facts.threads,
            latency_ms=None if latest is None else latest.latency_ms,
            facts=tuple(lines),
            checks=tuple(
                SelfTestCheck(check.name, check.passed, _figure(check.figure, check.detail)) for check in checks
            ),
            update=self._update(),
        )

    def health(self) -> Health:
        """One line a part, with what to do."""
        now = self._parts.live.get()
        camera = self._camera(now)
        problems = self._parts.problems.now()
        critical = [found for found in problems if found.severity is WireSeverity.CRITICAL]
        advice = {found.text: found.what_to_do for found in problems}
        parts = [
            HealthPart("Camera", camera.state, camera.text, _advice(critical, "camera")),
            HealthPart("Model", PartState.OK, f"{self._switch.model.name} {self._switch.model.version}"),
            self._disk(now),
            _clock(now.clock),
            _link("Broker", now.broker, advice),
            _link("Cloud", now.cloud, advice),
            store_part(now.waiting),
        ]
        return Health(alive=not critical, parts=tuple(parts))

    def metrics_text(self) -> bytes:
        """Prometheus exposition text."""
        return self._parts.metrics.text()

    def _model_status(self, model: ModelRef) -> ModelStatus:
        status = ModelStatus(PartState.OK, model.version, name=model.name, version=model.version, digest=model.digest)
        if self._parts.update is None:
            return status
        record = self._parts.update.core.record
        return replace(status, update_state=record.state.value, update_text=update_text(record))

    def _update(self) -> UpdateCard | None:
        if self._parts.update is None:
            return None
        core = self._parts.update.core
        return update_card(core.record, core.progress, core.soak, core.soak_text)

    def _camera(self, now: Now) -> CameraStatus:
        kind = self._settings.source.kind
        source = "simulated microscope" if kind == "simulated" else kind
        if any(found.code == "camera_absent" for found in self._parts.problems.now()):
            return CameraStatus(PartState.FAULT, "not there", source)
        if now.camera is None:
            return CameraStatus(PartState.UNKNOWN, "opening", source)
        state = _CAMERA.get(now.camera.state, PartState.FAULT)
        moving = now.camera.state is SourceState.UP and now.camera.fps > 0
        text = (
            f"{now.camera.fps:.0f} fps" if moving and now.camera.fps >= 1 else now.camera.state.value.replace("_", " ")
        )
        if now.finished:
            state, text = PartState.OFF, "finished"
        return CameraStatus(state, text, source, fps=now.camera.fps or None)

    def _slide(self, totals: SlideTotals) -> SlideStatus:
        result = differential(totals.white_cells)
        counted = totals.fields - totals.withheld
        estimate = estimate_platelets(
            fields=counted,
            total=totals.platelets,
            total_of_squares=totals.platelets_squared,
            factor_e9=self._settings.slide.platelet_factor_e9,
        )
        return SlideStatus(
            name=totals.name,
            white_cells_seen=result.identified,
            white_cells_target=totals.target_white_cells,
            shares=tuple(TypeShare(s.label, s.cells, s.share_ratio, s.low_ratio, s.high_ratio) for s in result.shares),
            unidentified=result.unidentified,
            rbc=totals.rbc,
            platelets=totals.platelets,
            fields=totals.fields,
            withheld=totals.withheld,
            uncertain=totals.uncertain,
            platelet_estimate=None if estimate is None else estimate.per_litre_e9,
            platelet_estimate_margin=None if estimate is None else estimate.margin_e9,
        )

    def _disk(self, now: Now) -> HealthPart:
        if now.free_bytes is None:
            return HealthPart("Disk", PartState.UNKNOWN, "not looked at yet")
        text = f"{now.free_bytes / 1e9:.1f} GB free"
        if any(found.code in ("disk_full", "disk_fault") for found in self._parts.problems.now()):
            return HealthPart("Disk", PartState.FAULT, text, "Free some disk space; the agent goes on by itself.")
        low = now.free_bytes < 4 * self._settings.store.min_free_bytes
        return HealthPart("Disk", PartState.WARNING if low else PartState.OK, text, "Free some space." if low else "")


def store_part(waiting: Waiting) -> HealthPart:
    """What waits, and what cannot be sent: that stays after the start at which it was told."""
    text = f"{waiting.events} results and {waiting.images} pictures wait"
    if not waiting.aside:
        return HealthPart("Store", PartState.OK, text)
    what = "`ahs-edge spool ls --aside` says why; everything else is sent all the same."
    return HealthPart("Store", PartState.WARNING, f"{text}, {waiting.aside} cannot be sent", what)


def _cloud(now: Now) -> CloudStatus:
    links = [link for link in (now.broker, now.cloud) if link is not None]
    rows, images = now.waiting.events, now.waiting.images
    if not links:
        return CloudStatus(PartState.OFF, "off", rows, images)
    last = max((link.last_contact_at for link in links if link.last_contact_at), default=None)
    if any(link.state in (LinkState.REFUSED, AskState.REFUSED) for link in links):
        return CloudStatus(PartState.FAULT, "refused", rows, images, last)
    broker_away = now.broker is not None and now.broker.state not in CONNECTED_STATES
    if broker_away or (now.cloud is not None and now.cloud.state == AskState.WAITING):
        text = f"away since {last:%H:%M}" if last else "not reached yet"
        return CloudStatus(PartState.WARNING, text, rows, images, last)
    if rows + images:
        return CloudStatus(PartState.BUSY, f"{rows + images} waiting", rows, images, last)
    return CloudStatus(PartState.OK, "connected", rows, images, last)


def _field(latest: LatestField) -> FieldStatus:
    cells = latest.judged.analysis
    counted = [cell.cls.value for cell in cells.detections if cell.counted]
    return FieldStatus(
        capture_id=latest.capture_id,
        captured_at=latest.captured_at,
        decision=latest.judged.triage.decision.value,
        reasons=latest.judged.triage.reasons,
        latency_ms=latest.latency_ms,
        rbc=counted.count("RBC"),
        white_cells=counted.count("WBC"),
        platelets=counted.count("Platelets"),
    )


def _boxes(latest: LatestField) -> tuple[OverlayBox, ...]:
    found = []
    for cell in latest.judged.detections:
        kind = cell.cell_type
        found.append(
            OverlayBox(
                cls=cell.cls.value,
                bbox=cell.bbox,
                score=cell.score,
                counted=cell.counted,
                label="" if kind is None else kind.label,
                probability=None if kind is None else max(kind.probabilities.values(), default=0.0),
            )
        )
    return tuple(found)


def _card(cell: StoredCell) -> CellCard:
    return CellCard(
        cell_id=cell.cell_id,
        capture_id=cell.capture_id,
        label=cell.label,
        probability=cell.probability,
        prediction_set=cell.prediction_set,
        in_domain=cell.in_domain,
        second_label=cell.second_label,
        second_source=cell.second_source or "",
    )


def _figure(figure: float | None, detail: str) -> str:
    return detail if figure is None else f"{figure:.3f} {detail}".strip()


def _advice(found: Sequence[AgentProblem], prefix: str) -> str:
    return next((problem.what_to_do for problem in found if problem.code.startswith(prefix)), "")


def _clock(quality: str) -> HealthPart:
    if quality == ClockQuality.OK:
        return HealthPart("Clock", PartState.OK, "plausible")
    what = "Set the workstation's clock; results carry a mark meanwhile."
    return HealthPart(
        "Clock", PartState.WARNING, "never set" if quality == ClockQuality.UNSYNCED else "was moved", what
    )


def _link(name: str, link: LinkView | None, advice: dict[str, str]) -> HealthPart:
    if link is None:
        return HealthPart(name, PartState.OFF, "none configured")
    good = link.state in (*CONNECTED_STATES, AskState.READY)
    refused = link.state in (LinkState.REFUSED, AskState.REFUSED)
    state = PartState.OK if good else PartState.FAULT if refused else PartState.WARNING
    what = "" if good else "Nothing: the agent works on and delivers later."
    if refused:
        what = advice.get(link.text[:1].upper() + link.text[1:], "Renew the device's token.")
    return HealthPart(name, state, link.text, what)
