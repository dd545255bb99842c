"""One field from picture to record: measure, analyse, judge, choose. Everything but the storing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent import wire
from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import AnalysisSummary, QualityGate
from edge_agent.capture.measure import measure, thumbnail
from edge_agent.capture.registration import Place
from edge_agent.inference.engine import Engine
from edge_agent.moment import Moment
from edge_agent.store.records import NewField, NewImage, SlideTotals
from edge_agent.triage.rules import Triage, TriagePolicy, decide
from edge_agent.triage.sampling import Offered, Sampler
from edge_agent.triage.worth import doubt_of
from fleet.contract.base import CaptureId
from fleet.contract.cells import CellClassName, Decision, DetectionWire, ModelRef
from fleet.contract.http import OpinionContext
from fleet.contract.messages import FieldResult
from models.bundle.manifest import CellClass
from models.runtime import encode_jpeg
from models.runtime.imaging import crop_cell
from models.runtime.results import FieldAnalysis, ImageRGB

JPEG_QUALITY = 92
"""For the second opinion. OpenCV writes no EXIF, so nothing but the picture leaves the workstation."""
CROP_QUALITY = 85
CROP_PX = 112
CROP_WINDOW_RATIO = 1.6
MAX_CONTEXT_CELLS = 1500
"""Above it only white cells go into the context: it has a limit of bytes."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the pipeline, the gate and triage make of one picture; `model` is the one that read it."""

    model: ModelRef
    analysis: FieldAnalysis
    triage: Triage
    focus: float
    detections: tuple[DetectionWire, ...]
    listed: tuple[int, ...]


class FieldReader:
    """Reads fields for one slide after the other.

    Args:
        engine: the model.
        gate: quality limits.
        policy: limits of doubt.
    """

    def __init__(self, engine: Engine, gate: QualityGate, policy: TriagePolicy) -> None:
        self.engine = engine
        self._gate = gate
        self._policy = policy

    def judge(self, image: ImageRGB, *, um_per_px: float | None = None, min_score: float | None = None) -> Judged:
        """Measures, analyses and judges a picture; the same for the daemon and for files.

        Args:
            image: (H, W, 3) uint8 RGB.
            um_per_px: scale, where known.
            min_score: list weaker detections of every class; without it only weak white cells, which triage needs.
        """
        measured = measure(image)
        weak = self._policy.weak_white_cell_score
        engine = self.engine.for_field()
        analysis = engine.analyse(image, min_score=weak if min_score is None else min(weak, min_score))
        reasons = self._gate.judge(measured, AnalysisSummary.of(analysis), um_per_px=um_per_px)
        triage = decide(analysis, [reason.value for reason in reasons], self._policy)
        listed = tuple(
            index
            for index, cell in enumerate(analysis.detections)
            if cell.counted or (cell.cls is CellClass.WBC if min_score is None else cell.score >= min_score)
        )
        detections = tuple(wire.detection(analysis.detections[index]) for index in listed)
        return Judged(engine.model, analysis, triage, measured.focus, detections, listed)

    def read(
        self,
        frame: Frame,
        *,
        capture: CaptureId,
        slide: SlideTotals,
        source: str,
        replayable: bool,
        site: str,
        sampler: Sampler,
        now: Moment,
        monotonic: Callable[[], float],
    ) -> tuple[NewField, Judged]:
        """One frame as the record that is stored in one transaction."""
        start_s = monotonic()
        judged = self.judge(frame.image, um_per_px=frame.um_per_px)
        offered = None
        if judged.triage.decision is Decision.UNCERTAIN:
            offered = Offered(doubt_of(judged.analysis, self._policy), Place(thumbnail(frame.image)))
        sampled = sampler.choose(judged.triage.decision, str(capture), now.monotonic_s, offered)
        image: NewImage | None = None
        if sampled.send:
            image = self._image(frame, judged, capture=capture, slide=slide, site=site, audit=sampled.audit)
        result = FieldResult(
            boot=0,
            seq=0,
            capture_id=str(capture),
            captured_at=frame.captured_at,
            clock=now.quality,
            slide=slide.pseudonym,
            decision=judged.triage.decision,
            reasons=judged.triage.reasons,
            counts=wire.counts(judged.analysis),
            model=judged.model.digest,
            latency_ms=round((monotonic() - start_s) * 1000.0, 2),
            focus=judged.focus,
            rbc_diameter_px=judged.analysis.rbc_diameter_px,
            image_sha256=None if image is None else image.context.image_sha256,
        )
        record = NewField(
            result=result,
            source=source,
            source_ref=frame.source_ref,
            replayable=replayable,
            slide_id=slide.slide_id,
            sampled=sampled.choice,
            um_per_px=frame.um_per_px,
            width_px=frame.width_px,
            height_px=frame.height_px,
            detections=judged.detections,
            crops=crops(frame.image, judged),
            image=image,
            file_stamp=frame.file_stamp,
        )
        return record, judged

    def _image(
        self, frame: Frame, judged: Judged, *, capture: CaptureId, slide: SlideTotals, site: str, audit: bool
    ) -> NewImage:
        jpeg = encode_jpeg(frame.image, JPEG_QUALITY)
        cells = judged.detections
        if len(cells) > MAX_CONTEXT_CELLS:
            cells = tuple(cell for cell in cells if cell.cls is CellClassName.WBC)[:MAX_CONTEXT_CELLS]
        context = OpinionContext(
            site=site,
            device=capture.device,
            capture_id=str(capture),
            image_sha256=hashlib.sha256(jpeg).hexdigest(),
            captured_at=frame.captured_at,
            slide=slide.pseudonym,
            decision=judged.triage.decision,
            reasons=judged.triage.reasons,
            audit=audit,
            model=judged.model,
            detections=cells,
            um_per_px=frame.um_per_px,
        )
        return NewImage(jpeg, context)


def crops(image: ImageRGB, judged: Judged) -> dict[int, bytes]:
    """Pictures of the counted white cells for the gallery: index among the listed detections -> JPEG."""
    found: dict[int, bytes] = {}
    for place, index in enumerate(judged.listed):
        cell = judged.analysis.detections[index]
        if cell.counted and cell.cls is CellClass.WBC:
            x1, y1, x2, y2 = cell.box
            window_px = max(1.0, CROP_WINDOW_RATIO * max(x2 - x1, y2 - y1))
            found[place] = encode_jpeg(crop_cell(image, cell.box, window_px, CROP_PX), CROP_QUALITY)
    return found
