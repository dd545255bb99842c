"""The white-cell embedder as a task of the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from models.bundle.manifest import WhiteCellType
from models.nets.embedder import CellClassifier, CellEmbedder, EmbedderShape
from models.runtime.imaging import crop_cell
from models.runtime.results import ImageRGB
from training.augment_cells import CellAugmenter
from training.checkpoint import load_checkpoint
from training.config import EmbedderConfig, EmbedderNet
from training.data.cells import CellBatch, CellLoader, finder_of_checkpoint, plain_crops
from training.data.generated import generator_fingerprint
from training.data.hashes import set_hash
from training.data.places import set_root
from training.data.white_cells import (
    HOME,
    CellExample,
    CellFinder,
    annotated_cells,
    generated_cells,
    picture_paths,
    window_spec,
)
from training.distributed import Place
from training.errors import CheckpointError
from training.metrics import balanced_accuracy
from training.samples import crop_sheet

SAMPLE_CELLS = 48
"""Misnamed cells that are shown at the end of a run."""


def build_embedder(net: EmbedderNet) -> CellClassifier:
    """The torch model of a configuration: the embedder with the layer that it is trained under."""
    return CellClassifier(CellEmbedder(EmbedderShape(**net.model_dump())), len(WhiteCellType))


def load_embedder(checkpoint: Path) -> tuple[CellEmbedder, EmbedderConfig]:
    """The averaged weights of an embedder's run, and its configuration.

    Raises:
        CheckpointError: absent, damaged, or of another kind of run.
    """
    content = load_checkpoint(checkpoint)
    if content["config"]["kind"] != "embedder":
        raise CheckpointError(f"{checkpoint}: belongs to a run of kind {content['config']['kind']}, not embedder")
    config = EmbedderConfig.model_validate(content["config"])
    model = build_embedder(config.net)
    model.load_state_dict(content["averaged"])
    return model.embedder.eval(), config


class EmbedderTask:
    """Builds, feeds and measures the embedder.

    Args:
        config: of the run.
        place: this process among its fellows.
        cache: folder for rendered generated fields.
        finder: finds the cells of single-cell pictures; by default with the configuration's detector.
        site: labelled cells of a site, mixed in.
        site_ratio: share of the site's cells in an epoch.
    """

    def __init__(
        self,
        config: EmbedderConfig,
        place: Place,
        cache: Path,
        *,
        finder: CellFinder | None = None,
        site: Sequence[CellExample] = (),
        site_ratio: float = 0.0,
    ) -> None:
        self._config = config
        data, spec = config.data, window_spec(config.data)
        finder = finder or finder_of_checkpoint(data.detector, spec)
        cells = [*annotated_cells(data, "train", finder), *generated_cells(data.generated, spec, cache), *site]
        augmenter = CellAugmenter(config.augment, data.input_px)
        self._loader = CellLoader(
            cells,
            data,
            augmenter,
            batch=config.optimiser.batch,
            seed=config.seed,
            rank=place.rank,
            world=place.world,
            site_ratio=site_ratio,
        )
        self._val: list[CellExample] = []
        if place.leads:
            self._val = annotated_cells(data, "val", finder) + generated_cells(data.generated_val, spec, cache)

    def build(self) -> CellClassifier:
        """A new embedder with its layer."""
        return build_embedder(self._config.net)

    def steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch in this process."""
        return len(self._loader)

    def batches(self, epoch: int) -> Iterable[CellBatch]:
        """Batches of an epoch."""
        return self._loader.epoch(epoch)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy with smoothed labels."""
        loss = fn.cross_entropy(model(batch.crops), batch.labels, label_smoothing=self._config.label_smoothing)
        return loss, {}

    def data_hashes(self) -> dict[str, str]:
        """Of the annotated cells, and of the generator."""
        said, data = {"generator": generator_fingerprint()}, self._config.data
        if data.dataset is not None:
            table = set_root(data.dataset) / "labels.csv"
            said[data.dataset] = set_hash(table, picture_paths(data))
        return said

    @torch.inference_mode()
    def samples(self, model: nn.Module) -> dict[str, ImageRGB]:
        """Held-out cells that get another name than they have, the surest first."""
        model.eval()
        device, side = next(model.parameters()).device, self._config.data.input_px
        if not self._val:
            return {}
        parts = torch.split(plain_crops(self._val, side), 256)
        chances = torch.cat([model(part.to(device)).softmax(1).cpu() for part in parts])
        true = torch.tensor([c.label for c in self._val])
        surest = sorted((chances.argmax(1) != true).nonzero()[:, 0].tolist(), key=lambda i: -float(chances[i].max()))
        worst = [self._val[i] for i in surest[:SAMPLE_CELLS]]
        kinds = [kind.value for kind in WhiteCellType]
        captions = [f"{kinds[self._val[i].label]} > {kinds[int(chances[i].argmax())]}" for i in surest[:SAMPLE_CELLS]]
        return {"misnamed": crop_sheet([crop_cell(c.image, c.box, c.window_px, side) for c in worst], captions)}

    @torch.inference_mode()
    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Balanced accuracy by origin; `score` is their mean."""
        if not self._val:
            return {}
        model.eval()
        device = next(model.parameters()).device
        crops = plain_crops(self._val, self._config.data.input_px)
        said = torch.cat([model(part.to(device)).argmax(1).cpu() for part in torch.split(crops, 256)]).numpy()
        true = np.array([c.label for c in self._val], np.int64)
        home = np.array([c.origin == HOME for c in self._val])
        figures = {}
        for name, chosen in (("home", home), ("generated", ~home)):
            if chosen.any():
                figures[f"balanced_{name}"] = balanced_accuracy(true[chosen], said[chosen])
        figures["score"] = float(np.mean(list(figures.values())))
        return figures
