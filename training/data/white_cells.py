"""White cells of known type: where each lies in its picture, and how wide its crop window is. No torch here."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.bundle.manifest import CellClass, DetectorSpec, EmbedderSpec, WhiteCellType
from models.runtime.detector import Candidates
from models.runtime.imaging import read_image, window_for
from models.runtime.results import ImageRGB
from models.runtime.scale import FieldReader, median_rbc_px
from models.runtime.session import Network
from training.config import CellData, GeneratedFields
from training.data.generated import FieldExample, generated_examples
from training.data.places import set_root
from training.errors import DataError

log = logging.getLogger(__name__)

MIN_RED_CELLS = 3
"""Red cells needed to trust their median diameter."""
TYPE_INDEX: dict[str, int] = {kind.value: index for index, kind in enumerate(WhiteCellType)}
HOME, GENERATED, SITE = 0, 1, 2
"""Origin of a cell: annotated pictures, the generator, or a site's labels."""
CENTRE_BOX_RATIO = 0.42
"""Side of the box put into the middle of a single-cell picture when no detector is given or finds no white cell."""


@dataclass(frozen=True, slots=True, eq=False)
class CellExample:
    """One white cell in its picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, the field.
        box: x1 y1 x2 y2, pixels of the field.
        window_px: side of the crop window.
        label: index into `WhiteCellType`.
        origin: `HOME`, `GENERATED` or `SITE`.
        name: file or seed it comes from.
        seen_by_detector: set of the detector's own data that holds the picture, "" for none.
    """

    image: ImageRGB
    box: tuple[float, float, float, float]
    window_px: float
    label: int
    origin: int
    name: str
    seen_by_detector: str = ""


def window_spec(data: CellData, dimensions: int = 1) -> EmbedderSpec:
    """The manifest's word on crops."""
    return EmbedderSpec(
        input_px=data.input_px,
        dimensions=dimensions,
        window_rbc=data.window_rbc,
        window_box=data.window_box,
        min_red_cells=MIN_RED_CELLS,
    )


class CellFinder:
    """Finds the white cell of a single-cell picture and its red-cell diameter, as the device would.

    Args:
        network: a detector; without one the cell is taken to be in the middle.
        detector: its input and output.
        spec: crop windows.
    """

    def __init__(self, network: Network | None, detector: DetectorSpec, spec: EmbedderSpec) -> None:
        self._spec, self._detector = spec, detector
        self._reader = None if network is None else FieldReader(network, detector, spec.min_red_cells)
        self.not_found = 0

    def locate(self, image: ImageRGB) -> tuple[tuple[float, float, float, float], float]:
        """Box of the white cell nearest to the middle, and the side of its window, pixels of the picture."""
        height, width = image.shape[:2]
        half = CENTRE_BOX_RATIO * min(height, width) / 2
        box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
        rbc_px = None
        if self._reader is not None:
            found = self._reader.read(image).found
            rbc_px = median_rbc_px(
                found, self._detector, width_px=width, height_px=height, min_count=self._spec.min_red_cells
            )
            seen = _nearest_white(found, width / 2, height / 2, threshold=self._detector.thresholds[CellClass.WBC])
            if seen is None:
                self.not_found += 1
            else:
                box = seen
        return box, window_for(box, rbc_px, self._spec)


def _nearest_white(
    found: Candidates, x_px: float, y_px: float, *, threshold: float
) -> tuple[float, float, float, float] | None:
    white = found.classes == list(CellClass).index(CellClass.WBC)
    boxes = found.boxes[white & (found.scores >= threshold)]
    if not len(boxes):
        return None
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    x1, y1, x2, y2 = boxes[int(np.hypot(centres[:, 0] - x_px, centres[:, 1] - y_px).argmin())].tolist()
    return x1, y1, x2, y2


def annotated_cells(data: CellData, split: str, finder: CellFinder, *, at_most: int | None = None) -> list[CellExample]:
    """Cells of a split of the annotated set, or a fixed random choice of `at_most` of them.

    Raises:
        DataError: the set or a picture is not there, or a class is none of the five.
    """
    if data.dataset is None:
        return []
    root = set_root(data.dataset)
    table = root / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table}: there is no such file; is the data set complete?")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    if at_most is not None and at_most < len(rows):
        rows = [rows[i] for i in np.random.default_rng(0).choice(len(rows), at_most, replace=False)]
    cells = []
    for row in rows:
        if row["class"] not in TYPE_INDEX:
            raise DataError(f"{table}: class {row['class']!r} is none of {', '.join(TYPE_INDEX)}")
        image = read_image(root / row["file"])
        box, window_px = finder.locate(image)
        cells.append(
            CellExample(image, box, window_px, TYPE_INDEX[row["class"]], HOME, row["file"], row["txl_det_split"])
        )
    if finder.not_found:
        log.warning("%d pictures so far without a white cell found: their middle was taken", finder.not_found)
    return cells


def picture_paths(data: CellData) -> list[Path]:
    """The pictures of the annotated set's training and validation cells."""
    if data.dataset is None:
        return []
    root = set_root(data.dataset)
    with (root / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return [root / row["file"] for row in csv.DictReader(stream) if row["split"] in ("train", "val")]


def generated_cells(config: GeneratedFields, spec: EmbedderSpec, cache: Path) -> list[CellExample]:
    """White cells of generated fields, by the generator's own boxes and red-cell diameters."""
    cells = []
    for field in generated_examples(config, cache):
        rbc_px = true_rbc_px(field)
        for box, kind in zip(field.boxes.tolist(), field.cell_types, strict=True):
            if kind in TYPE_INDEX:
                window_px = window_for(box, rbc_px, spec)
                cells.append(CellExample(field.image, tuple(box), window_px, TYPE_INDEX[kind], GENERATED, field.group))
    return cells


def true_rbc_px(field: FieldExample) -> float | None:
    """Median longer side of the red cells wholly inside the field."""
    height, width = field.image.shape[:2]
    b = field.boxes[field.labels == list(CellClass).index(CellClass.RBC)]
    whole = b[(b[:, 0] > 1) & (b[:, 1] > 1) & (b[:, 2] < width - 1) & (b[:, 3] < height - 1)]
    if len(whole) < MIN_RED_CELLS:
        return None
    return float(np.median((whole[:, 2:] - whole[:, :2]).max(axis=1)))
