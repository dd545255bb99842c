"""White cells of known type: where each lies in its picture, and how wide its crop window is."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundle.manifest import CellClass, DetectorSpec, EmbedderSpec, WhiteCellType
from models.runtime.detector import Candidates
from models.runtime.imaging import crop_cell, read_image, to_batch, window_for
from models.runtime.results import ImageRGB
from models.runtime.scale import FieldReader, median_rbc_px
from models.runtime.session import Network
from training.augment_cells import CellAugmenter
from training.config import CellData, DetectorNet, GeneratedFields
from training.data.fields import Prefetch, sample_seed
from training.data.generated import FieldExample, generated_examples
from training.data.places import data_root
from training.detector_task import MIN_RED_CELLS, TorchNetwork, detector_spec, load_detector
from training.errors import DataError

log = logging.getLogger(__name__)

TYPE_INDEX: dict[str, int] = {kind.value: index for index, kind in enumerate(WhiteCellType)}
HOME, GENERATED = 0, 1
"""Origin of a cell: annotated pictures, or the generator."""
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
        origin: `HOME` or `GENERATED`.
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


@dataclass(frozen=True, slots=True)
class CellBatch:
    """Crops (N, 3, C, C) float32 RGB in 0..1, and types (N,) int64."""

    crops: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> CellBatch:
        """The same batch on a device."""
        return CellBatch(self.crops.to(device, memory_format=torch.channels_last), self.labels.to(device))


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

    @classmethod
    def of_checkpoint(cls, path: Path | None, spec: EmbedderSpec) -> CellFinder:
        """With the averaged weights of a detector's checkpoint, or without a detector."""
        if path is None:
            return cls(None, detector_spec(320, DetectorNet()), spec)
        model, detector = load_detector(path)
        return cls(TorchNetwork(model), detector, spec)

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
    root = data_root() / data.dataset
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


def plain_crops(cells: list[CellExample], input_px: int) -> Tensor:
    """Crops as the device cuts them: (N, 3, C, C) float32."""
    return torch.from_numpy(to_batch([crop_cell(c.image, c.box, c.window_px, input_px) for c in cells]))


class CellLoader:
    """Serves augmented crops, balanced over types within each origin."""

    def __init__(
        self,
        cells: list[CellExample],
        data: CellData,
        augmenter: CellAugmenter,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._cells, self._augmenter, self._batch, self._seed = cells, augmenter, batch, seed
        self._rank, self._world = rank, world
        self._size = max(1, data.epoch_size // (batch * world)) * batch * world
        self._chances = _balanced(cells, data.generated_ratio)

    def __len__(self) -> int:
        return self._size // (self._batch * self._world)

    def epoch(self, epoch: int) -> Prefetch[CellBatch]:
        """Batches of an epoch; every process draws the same cells and keeps its own share."""
        rng = np.random.default_rng([self._seed, epoch])
        drawn = rng.choice(len(self._cells), self._size, p=self._chances)
        numbered = list(enumerate(drawn.tolist()))[self._rank :: self._world]
        orders = [list(range(i, i + self._batch)) for i in range(0, len(numbered), self._batch)]

        def make(order: list[int]) -> CellBatch:
            picked = [numbered[i] for i in order]
            crops = [self._crop(cell, number, epoch) for number, cell in picked]
            labels = torch.tensor([self._cells[cell].label for _, cell in picked])
            return CellBatch(torch.from_numpy(to_batch(crops)), labels)

        return Prefetch(orders, make)

    def _crop(self, index: int, number: int, epoch: int) -> ImageRGB:
        cell = self._cells[index]
        return self._augmenter(cell.image, cell.box, cell.window_px, seed=sample_seed(self._seed, epoch, number))


def _balanced(cells: list[CellExample], generated_ratio: float) -> NDArray[np.float64]:
    """Chance of each cell: origins by the ratio, types alike within an origin."""
    counts = Counter((c.origin, c.label) for c in cells)
    origins = {c.origin for c in cells}
    share = {HOME: 1 - generated_ratio, GENERATED: generated_ratio} if len(origins) > 1 else dict.fromkeys(origins, 1.0)
    chances = np.array([share[c.origin] / counts[(c.origin, c.label)] for c in cells])
    return np.asarray(chances / chances.sum(), np.float64)
