"""An agent as the console sees it, without a pipeline: generated fields, states that a test sets."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np

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
    SlideStatus,
    TypeShare,
)
from edge_agent.update.record import Model, UpdateRecord
from edge_agent.update_words import update_card
from fleet.contract.messages import Desired, UpdateState
from models.synthetic import FieldTruth, Optics, SlideSpec, VirtualSlide

DIGEST = "sha256:" + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
UM_PER_PX = 0.083
RECORD = UpdateRecord(
    state=UpdateState.CONFIRMED,
    confirmed=Model(digest=DIGEST, counter=3, name="edge-hema", version="1.4.0"),
    previous=Model(digest="sha256:" + "4e" * 32, counter=2, name="edge-hema", version="1.3.0"),
    desired=Desired(device="bench-1", version=4, release=DIGEST, counter=3, rollout="spring-heads"),
    journal="journal-of-a-fake",
)
SHARES = (
    TypeShare("neutrophil", 38, 38 / 62, 0.481, 0.734),
    TypeShare("lymphocyte", 17, 17 / 62, 0.169, 0.402),
    TypeShare("monocyte", 5, 5 / 62, 0.027, 0.178),
    TypeShare("eosinophil", 2, 2 / 62, 0.004, 0.112),
    TypeShare("basophil", 0, 0.0, 0.0, 0.058),
)
FROZEN = Problem("The camera repeats the same picture.", "Unplug the camera and plug it in again.")


MIN_VISIBLE_RATIO = 0.25
MIN_WHITE_CELLS = 2


def fields_of_a_slide(count: int, *, seed: int = 21) -> list[FieldTruth]:
    """Fields of one generated slide that show white cells, through a microscope's light and noise."""
    slide = VirtualSlide(SlideSpec(seed=seed, wbc_per_field_mean=2.6, platelets_per_field_mean=4.0))
    rng = np.random.default_rng(seed)
    fields: list[FieldTruth] = []
    x_um = 0.0
    while len(fields) < count:
        x_um += 60.0
        view = slide.render(x_um=x_um, y_um=0.0, width_px=640, height_px=480, um_per_px=UM_PER_PX)
        cells = [cell for cell in view.cells if cell.visible_ratio >= MIN_VISIBLE_RATIO]
        if sum(cell.cell_type is not None and cell.visible_ratio > 0.9 for cell in cells) < MIN_WHITE_CELLS:
            continue
        image = Optics(noise_sigma=2.0).apply(view.image, rng, um_per_px=UM_PER_PX)
        fields.append(FieldTruth(image, cells, UM_PER_PX))
    return fields


def encode_jpeg(image_rgb: np.ndarray) -> bytes:
    """An RGB picture as JPEG."""
    return cv2.imencode(".jpg", image_rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def boxes_of(field: FieldTruth) -> tuple[OverlayBox, ...]:
    """The generator's truth as if a pipeline had found it."""
    boxes: list[OverlayBox] = []
    for cell in field.cells:
        x1, y1, x2, y2 = cell.box
        label = cell.cell_type or ""
        bbox = (float(x1), float(y1), float(x2 - x1), float(y2 - y1))
        score = 0.97 - 0.04 * (len(boxes) % 5)
        boxes.append(OverlayBox(str(cell.cls), bbox, score, True, label, score if label else None))
    return tuple(boxes)


class FakeAgent:
    """Implements `ConsoleView`; `next_field()` reads one more field."""

    def __init__(self, *, field_count: int = 3) -> None:
        self.fields = fields_of_a_slide(field_count)
        self._jpegs = [encode_jpeg(field.image) for field in self.fields]
        self._lock = threading.Lock()
        self._frame = 0
        self._live: LiveField | None = None
        self.crops = self._crops()
        self.snapshots = 0
        self.live = self.start_snapshot()
        self.model_card: ModelCard | None = ModelCard(
            name="edge-hema",
            version="1.4.0",
            digest=DIGEST,
            loaded_at=datetime.now(UTC) - timedelta(hours=3),
            threads=2,
            latency_ms=84.0,
            facts=(
                ("Thresholds", "red 0.41, white 0.38, platelets 0.33"),
                ("Weights", "int8, 6.1 MB"),
                ("Knows", "neutrophil, lymphocyte, monocyte, eosinophil, basophil"),
            ),
            checks=(
                SelfTestCheck("golden_fields", True, "12 generated fields read as expected"),
                SelfTestCheck("swapped_colours", True, "a picture with swapped colours is noticed"),
                SelfTestCheck("scale", True, "a picture of the wrong scale is noticed"),
                SelfTestCheck("latency", True, "84 ms a field, limit 500 ms"),
            ),
            update=update_card(RECORD, None, None, ""),
        )
        self.cards = self._cards()
        self.parts: tuple[HealthPart, ...] = (
            HealthPart("Camera", PartState.OK, "simulated microscope, 18 fields a second"),
            HealthPart(
                "Focus", PartState.WARNING, "3 of the last 40 fields out of focus", "Turn the fine focus a little."
            ),
            HealthPart("Model", PartState.OK, "edge-hema 1.4.0, self-test passed 3 h ago"),
            HealthPart("Store", PartState.OK, "12,041 fields, 48 MB"),
            HealthPart("Disk", PartState.OK, "41 GB free"),
            HealthPart("Clock", PartState.OK, "agrees with the cloud to 0.2 s"),
            HealthPart("Broker", PartState.BUSY, "connected, 3 results on their way"),
            HealthPart("Cloud", PartState.OK, "answered 12 s ago"),
        )
        self.alive = True

    def start_snapshot(self) -> LiveSnapshot:
        """Nothing wrong, a slide half read."""
        return LiveSnapshot(
            taken_at=datetime.now(UTC),
            device="bench-1",
            site="north-lab",
            agent_version="0.1.0",
            camera=CameraStatus(PartState.OK, "18 fps", "simulated microscope", 18.0),
            model=ModelStatus(PartState.OK, "1.4.0", "edge-hema", "1.4.0", DIGEST),
            cloud=CloudStatus(PartState.BUSY, "3 waiting", 3, 1, datetime.now(UTC)),
            slide=SlideStatus("24-01873", 62, 100, SHARES, 2, 1204, 96, 41, 3, 4, 231.0, 18.0),
        )

    def set(self, **changes: object) -> None:
        """Changes the snapshot: `set(problems=(...,))`."""
        with self._lock:
            self.live = replace(self.live, **changes)  # type: ignore[arg-type]

    def next_field(self, *, decision: str = "accept", reasons: tuple[str, ...] = ()) -> str:
        """Reads one more field and returns its capture id."""
        with self._lock:
            self._frame += 1
            index = self._frame % len(self.fields)
            field = self.fields[index]
            boxes = boxes_of(field)
            height_px, width_px = field.image.shape[:2]
            capture_id = f"bench-1/3/{1040 + self._frame}"
            self._live = LiveField(capture_id, self._jpegs[index], width_px, height_px, boxes, UM_PER_PX)
            counts = [sum(box.cls == cls for box in boxes) for cls in ("RBC", "WBC", "Platelets")]
            status = FieldStatus(capture_id, datetime.now(UTC), decision, reasons, 84.2, *counts)
            self.live = replace(self.live, field=status)
            return capture_id

    def snapshot(self) -> LiveSnapshot:
        """See `ConsoleView`."""
        with self._lock:
            self.snapshots += 1
            return replace(self.live, taken_at=datetime.now(UTC))

    def live_field(self) -> LiveField | None:
        """See `ConsoleView`."""
        return self._live

    def cells(self, slide: str | None, limit: int) -> list[CellCard]:
        """See `ConsoleView`."""
        return self.cards[:limit]

    def cell_jpeg(self, cell_id: int) -> bytes | None:
        """See `ConsoleView`."""
        return self.crops[cell_id % len(self.crops)][1] if 0 < cell_id <= len(self.cards) else None

    def health(self) -> Health:
        """See `ConsoleView`."""
        return Health(self.alive, self.parts)

    def model(self) -> ModelCard | None:
        """See `ConsoleView`."""
        return self.model_card

    def metrics_text(self) -> bytes:
        """See `ConsoleView`."""
        return b"# TYPE ahs_fields_total counter\nahs_fields_total 41\n"

    def _crops(self) -> list[tuple[str, bytes]]:
        crops = []
        for field in self.fields:
            height_px, width_px = field.image.shape[:2]
            for cell in field.cells:
                if cell.cell_type is None or cell.visible_ratio < 0.9:
                    continue
                x1, y1, x2, y2 = cell.box
                half = max(x2 - x1, y2 - y1) * 0.7
                left = int(min(max(0, (x1 + x2) / 2 - half), width_px - 2 * half))
                top = int(min(max(0, (y1 + y2) / 2 - half), height_px - 2 * half))
                side = int(2 * half)
                crops.append(
                    (cell.cell_type, encode_jpeg(field.image[max(0, top) : top + side, max(0, left) : left + side]))
                )
        return crops

    def _cards(self) -> list[CellCard]:
        cards = []
        for cell_id in range(1, 65):
            label = self.crops[cell_id % len(self.crops)][0]
            capture_id = f"bench-1/3/{1000 + cell_id // 2}"
            probability = 0.99 - (cell_id * 37 % 29) / 100
            card = CellCard(cell_id, capture_id, label, probability, (label,))
            if cell_id % 13 == 0:
                card = replace(card, label="unidentified", probability=0.46, prediction_set=(label, "monocyte"))
                card = replace(card, second_label=label, second_source="larger model")
            elif cell_id % 17 == 0:
                card = replace(card, probability=0.58, prediction_set=(label, "lymphocyte"), in_domain=False)
                card = replace(card, second_label="lymphocyte", second_source="larger model")
            elif cell_id % 7 == 0:
                card = replace(card, second_label=label, second_source="larger model")
            cards.append(card)
        return cards
