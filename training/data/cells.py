"""Crops of white cells as training batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundle.manifest import EmbedderSpec
from models.runtime.imaging import crop_cell, to_batch
from models.runtime.results import ImageRGB
from training.augment_cells import CellAugmenter
from training.config import CellData, DetectorNet
from training.data.fields import Prefetch, sample_seed
from training.data.white_cells import GENERATED, HOME, SITE, CellExample, CellFinder
from training.detector_task import TorchNetwork, detector_spec, load_detector


@dataclass(frozen=True, slots=True)
class CellBatch:
    """Crops (N, 3, C, C) float32 RGB in 0..1, and types (N,) int64."""

    crops: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> CellBatch:
        """The same batch on a device."""
        return CellBatch(self.crops.to(device, memory_format=torch.channels_last), self.labels.to(device))


def finder_of_checkpoint(path: Path | None, spec: EmbedderSpec) -> CellFinder:
    """With the averaged weights of a detector's checkpoint, or without a detector."""
    if path is None:
        return CellFinder(None, detector_spec(320, DetectorNet()), spec)
    model, detector = load_detector(path)
    return CellFinder(TorchNetwork(model), detector, spec)


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
        site_ratio: float = 0.0,
    ) -> None:
        self._cells, self._augmenter, self._batch, self._seed = cells, augmenter, batch, seed
        self._rank, self._world = rank, world
        self._size = max(1, data.epoch_size // (batch * world)) * batch * world
        self._chances = balanced_chances(cells, data.generated_ratio, site_ratio)

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


def balanced_chances(cells: list[CellExample], generated_ratio: float, site_ratio: float = 0.0) -> NDArray[np.float64]:
    """(N,) chance of each cell: origins by the ratios, types alike within an origin.

    The site takes its share first, the generator its ratio of what is left; an origin without cells leaves its share to
    the others.
    """
    counts = Counter((c.origin, c.label) for c in cells)
    rest = 1 - site_ratio
    share = {HOME: rest * (1 - generated_ratio), GENERATED: rest * generated_ratio, SITE: site_ratio}
    if len({c.origin for c in cells}) == 1:
        share = dict.fromkeys(share, 1.0)
    chances = np.array([share[c.origin] / counts[(c.origin, c.label)] for c in cells])
    return np.asarray(chances / chances.sum(), np.float64)
