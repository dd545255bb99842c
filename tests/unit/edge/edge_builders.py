"""Plain values for the agent's tests: analyses, fields, times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from edge_agent import wire
from edge_agent.moment import Moment
from edge_agent.store.records import NewField, NewImage
from edge_agent.triage.sampling import Choice, Offered, Sampled, Sampler
from fleet.contract.base import CaptureId
from fleet.contract.cells import Decision, ModelRef
from fleet.contract.http import OpinionContext
from fleet.contract.messages import FieldResult
from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime.results import CellType, Detection, FieldAnalysis

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
MODEL = ModelRef(name="blobs", version="1.0.0", digest=DIGEST)
DEVICE = "bench-1"


def moment(seconds: float = 0.0) -> Moment:
    return Moment(1000.0 + seconds, START + timedelta(seconds=seconds))


def named(label: str = "neutrophil", *, probability: float = 0.9, in_domain: bool = True) -> CellType:
    rest = (1 - probability) / 4
    top = label if label != "unidentified" else "neutrophil"
    probabilities = {kind.value: probability if kind.value == top else rest for kind in WhiteCellType}
    return CellType(label, probabilities, (top,), in_domain, 0.4 if in_domain else 3.0)


def cell(
    cls: CellClass = CellClass.RBC,
    *,
    at: float = 10.0,
    score: float = 0.9,
    counted: bool = True,
    cell_type: CellType | None = None,
) -> Detection:
    return Detection((at, at, at + 20.0, at + 20.0), cls, score, counted, cell_type)


def analysis(*cells: Detection, rbc_diameter_px: float | None = 60.0) -> FieldAnalysis:
    return FieldAnalysis(640, 480, cells, rbc_diameter_px, {"detect": 5.0})


ORDINARY = (
    cell(at=10),
    cell(at=50),
    cell(CellClass.PLATELETS, at=90),
    cell(CellClass.WBC, at=120, cell_type=named("neutrophil")),
)


def new_field(
    number: int,
    *,
    slide_id: int,
    boot: int = 1,
    decision: Decision = Decision.ACCEPT,
    image_bytes: int | None = None,
    cells: tuple[Detection, ...] = ORDINARY,
    replayable: bool = True,
) -> NewField:
    """Field `number` of the source, with `image_bytes` of picture for the cloud."""
    found = analysis(*cells)
    capture = str(CaptureId(device=DEVICE, boot=boot, frame=number))
    detections = tuple(wire.detection(c) for c in cells)
    result = FieldResult(
        boot=0,
        seq=0,
        capture_id=capture,
        captured_at=START + timedelta(seconds=number),
        slide="s-1",
        decision=decision,
        counts=wire.counts(found),
        model=DIGEST,
        latency_ms=10.0,
        image_sha256="b" * 64 if image_bytes else None,
    )
    image = None
    if image_bytes is not None:
        context = OpinionContext(
            site="lab-1",
            device=DEVICE,
            capture_id=capture,
            image_sha256="b" * 64,
            captured_at=START,
            decision=decision,
            model=MODEL,
            detections=detections,
        )
        image = NewImage(b"\xff" * image_bytes, context)
    return NewField(
        result=result,
        source="folder",
        source_ref=f"set/{number:03d}.png",
        replayable=replayable,
        slide_id=slide_id,
        sampled=Choice.SEND if image else Choice.KEEP,
        um_per_px=None,
        width_px=640,
        height_px=480,
        detections=detections,
        crops={index: b"jpeg" for index, c in enumerate(cells) if c.cls is CellClass.WBC},
        image=image,
    )


def choose_and_store(
    sampler: Sampler, decision: Decision, capture_id: str, now_s: float, offered: Offered | None = None
) -> Sampled:
    """As the recorder does with a field that could be stored."""
    found = sampler.choose(decision, capture_id, now_s, offered)
    sampler.stored()
    return found
