"""What the console needs to know of the agent: one Protocol, plain data.

The console asks; it never holds the pipeline. Every method is called from the console's own threads, so an
implementation must be safe to call beside the running pipeline, return within a few milliseconds (`cells`, `cell_jpeg`
and `metrics_text` may read the store and take longer) and hand out immutable data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class PartState(StrEnum):
    """How a part is. Shown as colour + shape + word."""

    OK = "ok"
    BUSY = "busy"
    """Working on something, or waiting in a way that needs nobody (spool draining, warming up)."""
    WARNING = "warning"
    """Works, but somebody should look."""
    FAULT = "fault"
    """Does not work."""
    OFF = "off"
    """Switched off or not configured on purpose."""
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How loud a problem is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong now; the bar on top of the page shows it and it goes when it is over.

    Attributes:
        text: what happened, one sentence a technician understands: "The camera delivers the same picture".
        what_to_do: what to do about it: "Unplug the camera and plug it in again."
        severity: CRITICAL when no result can be made.
    """

    text: str
    what_to_do: str
    severity: Severity = Severity.WARNING


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """The source of fields.

    Attributes:
        state: how it is.
        text: its state in a few plain words, for the chip: "18 fps", "frozen", "reconnecting", "folder is empty".
        source: kind of source, never an address with a password: "camera", "simulated microscope".
        fps: frames a second that arrive; None when the source has no rate (folder).
    """

    state: PartState
    text: str
    source: str
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The model in use.

    Attributes:
        state: how it is.
        text: for the chip: "1.4.0", "self-test failed".
        name, version, digest: which; digest is `sha256:...`. Empty strings when none could be loaded.
        update_state: `fleet.contract.messages.UpdateState` value.
        update_text: what the update does, in plain words; empty when there is nothing to say.
    """

    state: PartState
    text: str
    name: str = ""
    version: str = ""
    digest: str = ""
    update_state: str = "idle"
    update_text: str = ""


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """The way to the cloud.

    Attributes:
        state: OK connected, BUSY connected and draining, WARNING not reachable (work goes on), OFF none configured.
        text: for the chip: "connected", "3 waiting", "away since 10:42", "off".
        spool_rows: results and events not yet acknowledged.
        spool_images: uncertain images not yet answered.
        last_contact_at: UTC.
    """

    state: PartState
    text: str
    spool_rows: int = 0
    spool_images: int = 0
    last_contact_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TypeShare:
    """One line of the differential.

    Attributes:
        label: one of the five types, e.g. `neutrophil`.
        count: white cells of the type.
        share_ratio: count over identified white cells, 0..1; 0 without any.
        low_ratio, high_ratio: exact 95 % limits of the share, 0..1; 0 and 1 without any.
    """

    label: str
    count: int
    share_ratio: float
    low_ratio: float
    high_ratio: float


@dataclass(frozen=True, slots=True)
class SlideStatus:
    """The slide being read.

    Attributes:
        name: as shown to the technician.
        white_cells_seen, white_cells_target: progress of the count; identified white cells.
        shares: the five types in their fixed order.
        unidentified: white cells the model would not commit itself on; not in the shares.
        rbc, platelets: counted in accepted and uncertain fields.
        platelet_estimate, platelet_estimate_margin: in 10^9 per litre, None without a calibrated factor.
        fields, withheld, uncertain: fields read in all; of those withheld; of those uncertain.
    """

    name: str
    white_cells_seen: int
    white_cells_target: int
    shares: tuple[TypeShare, ...]
    unidentified: int
    rbc: int
    platelets: int
    fields: int
    withheld: int
    uncertain: int = 0
    platelet_estimate: float | None = None
    platelet_estimate_margin: float | None = None


@dataclass(frozen=True, slots=True)
class FieldStatus:
    """The newest field.

    Attributes:
        capture_id: `device/boot/frame`.
        captured_at: UTC.
        decision: `accept`, `uncertain` or `withheld`.
        reasons: machine codes (`out_of_focus`, ...); the console has the words.
        latency_ms: from frame to stored result.
        rbc, white_cells, platelets: counted cells.
    """

    capture_id: str
    captured_at: datetime
    decision: str
    reasons: tuple[str, ...]
    latency_ms: float
    rbc: int
    white_cells: int
    platelets: int


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """Everything that moves on the live page, taken at one moment.

    Attributes:
        taken_at: UTC; the page greys itself when this grows old.
        slide, field: None before the first.
        problems: worst first; empty when all is well.
    """

    taken_at: datetime
    device: str
    site: str
    agent_version: str
    camera: CameraStatus
    model: ModelStatus
    cloud: CloudStatus
    slide: SlideStatus | None = None
    field: FieldStatus | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class OverlayBox:
    """One cell drawn over the live field.

    Attributes:
        cls: `RBC`, `WBC` or `Platelets`.
        bbox: x, y, width, height in pixels of the original frame.
        score: 0..1.
        counted: whether it is in the counts.
        label: type of a white cell or `unidentified`; empty for others.
        probability: of the label, 0..1; None where there is no label.
    """

    cls: str
    bbox: tuple[float, float, float, float]
    score: float
    counted: bool
    label: str = ""
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class LiveField:
    """The newest analysed field: picture and cells that belong together.

    Attributes:
        capture_id: `device/boot/frame`.
        jpeg: the field without annotations, JPEG. Encoded off the pipeline's thread, the newest only; may be smaller
            than the frame.
        width_px, height_px: size of the original frame, to which the boxes refer.
        boxes: cells.
        um_per_px: scale of the original frame for the scale bar; None when unknown.
    """

    capture_id: str
    jpeg: bytes
    width_px: int
    height_px: int
    boxes: tuple[OverlayBox, ...]
    um_per_px: float | None = None


@dataclass(frozen=True, slots=True)
class CellCard:
    """One white cell of the gallery.

    Attributes:
        cell_id: names the crop for `cell_jpeg`.
        capture_id: field it was found in.
        label: the local model's type, or `unidentified`.
        probability: highest of the calibrated probabilities, 0..1.
        prediction_set: types that remain possible.
        in_domain: whether it looks like what the model learned from.
        second_label: type by the second opinion, None until it came.
        second_source: who gave it: `larger model` or `reader`.
    """

    cell_id: int
    capture_id: str
    label: str
    probability: float
    prediction_set: tuple[str, ...] = ()
    in_domain: bool = True
    second_label: str | None = None
    second_source: str = ""


@dataclass(frozen=True, slots=True)
class HealthPart:
    """One line of the health page.

    Attributes:
        name: "Camera", "Model", "Disk", "Clock", "Broker", "Cloud", "Store".
        state: how it is.
        text: what is so, with its figure: "41 GB free".
        what_to_do: empty when nothing is to be done.
    """

    name: str
    state: PartState
    text: str
    what_to_do: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """All parts. `alive` is False when the agent makes no results and a restart or a person is needed."""

    alive: bool
    parts: tuple[HealthPart, ...]


@dataclass(frozen=True, slots=True)
class SelfTestCheck:
    """One check of the model's self-test."""

    name: str
    passed: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class UpdateCard:
    """Where the model update stands, in plain words.

    Attributes:
        state, word: for the chip.
        sentence: what is going on.
        why: why something was refused or given up; empty otherwise.
        code: the same as a code, for whoever is asked for help.
        detail: the same with its figures.
        progress_ratio: of a delivery, 0..1; None when nothing is delivered.
        lines: further lines as (name, value): what runs, what comes, what has been seen so far.
    """

    state: PartState
    word: str
    sentence: str
    why: str = ""
    code: str = ""
    detail: str = ""
    progress_ratio: float | None = None
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What runs here.

    Attributes:
        name, version, digest: which bundle.
        loaded_at: UTC.
        threads: inference threads chosen.
        latency_ms: typical time of one field; None before the first.
        facts: further lines as (name, value) in plain words: thresholds, training data, size.
        checks: the last self-test.
        update: of the model; None where updates are off.
    """

    name: str
    version: str
    digest: str
    loaded_at: datetime
    threads: int
    latency_ms: float | None
    facts: tuple[tuple[str, str], ...]
    checks: tuple[SelfTestCheck, ...]
    update: UpdateCard | None = None


class ConsoleView(Protocol):
    """The agent as the console sees it."""

    def snapshot(self) -> LiveSnapshot:
        """State of everything now. Called a few times a second whatever the number of browsers: no store access."""
        ...

    def live_field(self) -> LiveField | None:
        """The newest analysed field, None before the first. The same object until there is a newer one."""
        ...

    def cells(self, slide: str | None, limit: int) -> list[CellCard]:
        """White cells of a slide (None: the one being read), worst first, at most `limit`."""
        ...

    def cell_jpeg(self, cell_id: int) -> bytes | None:
        """The cell's crop with its margin as JPEG; None when there is no such cell or its picture is gone."""
        ...

    def health(self) -> Health:
        """Every part with what to do."""
        ...

    def model(self) -> ModelCard | None:
        """What runs here; None when no model could be loaded."""
        ...

    def metrics_text(self) -> bytes:
        """Prometheus exposition text."""
        ...
