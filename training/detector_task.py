"""The detector as a task of the training loop; validated through the runtime's own reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle.manifest import CellClass, DetectorSpec
from models.nets.hema_net import HemaNet, HemaNetShape
from models.runtime.detector import Candidates
from models.runtime.results import FloatArray, ImageRGB
from models.runtime.scale import FieldReader
from training.augment_fields import PAD_GREY, FieldAugmenter
from training.checkpoint import load_checkpoint
from training.config import DetectorConfig, DetectorNet
from training.data.coco import read_split
from training.data.fields import FieldBatch, FieldLoader, Shuffled, load_example, training_fields, training_records
from training.data.generated import FieldExample, generated_examples, generator_fingerprint
from training.data.hashes import set_hash
from training.data.places import set_root
from training.data.white_cells import MIN_RED_CELLS
from training.detection_loss import detection_loss
from training.distributed import Place
from training.errors import CheckpointError
from training.metrics import TrueCells, coco_map, rank
from training.samples import field_picture

PROVISIONAL_THRESHOLD = 0.3
"""Threshold of every class until `calibrate` has measured them."""

SAMPLE_FIELDS = 6
"""Validation fields that are drawn at the end of a run; of generated ones half as many."""


def build_detector(net: DetectorNet) -> HemaNet:
    """The torch model of a configuration."""
    return HemaNet(HemaNetShape(**net.model_dump()))


def detector_spec(input_px: int, net: DetectorNet, thresholds: dict[CellClass, float] | None = None) -> DetectorSpec:
    """The manifest's word on a detector."""
    chosen = thresholds or dict.fromkeys(CellClass, PROVISIONAL_THRESHOLD)
    return DetectorSpec(
        input_px=input_px,
        strides=HemaNet.strides,
        reg_bins=net.reg_bins,
        pad_value=PAD_GREY,
        max_candidates=1500,
        thresholds=chosen,
    )


def load_detector(checkpoint: Path) -> tuple[HemaNet, DetectorSpec]:
    """The averaged weights of a detector's run, and its input and output with provisional thresholds.

    Raises:
        CheckpointError: absent, damaged, or of another kind of run.
    """
    content = load_checkpoint(checkpoint)
    if content["config"]["kind"] != "detector":
        raise CheckpointError(f"{checkpoint}: belongs to a run of kind {content['config']['kind']}, not detector")
    net = DetectorNet.model_validate(content["config"]["net"])
    model = build_detector(net)
    model.load_state_dict(content["averaged"])
    return model.eval(), detector_spec(content["config"]["stages"][-1]["input_px"], net)


class TorchNetwork:
    """A torch model behind the runtime's `Network`, so that the runtime's code measures it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        """Run once: a float32 array to a list of float32 arrays."""
        said = self._model(torch.from_numpy(tensor).to(self._device))
        outputs = said if isinstance(said, tuple) else (said,)
        return [np.asarray(o.float().cpu().numpy(), np.float32) for o in outputs]


def read_fields(reader: FieldReader, examples: Iterable[FieldExample]) -> tuple[list[TrueCells], list[Candidates]]:
    """Truth and findings of each field."""
    truth, found = [], []
    for example in examples:
        truth.append(TrueCells(example.boxes, example.labels))
        found.append(reader.read(example.image).found)
    return truth, found


class DetectorTask:
    """Builds, feeds and measures the detector."""

    def __init__(self, config: DetectorConfig, place: Place, cache: Path) -> None:
        self._config, self._place = config, place
        fields = training_fields(config.data, cache)
        self._loader = FieldLoader(fields, FieldAugmenter(config.augment), self._shuffle, seed=config.seed)
        self._val: list[FieldExample] = []
        self._generated_val: list[FieldExample] = []
        if place.leads:
            self._generated_val = generated_examples(config.data.generated_val, cache)
            if config.data.dataset is not None:
                root = set_root(config.data.dataset)
                self._val = [load_example(r) for r in read_split(root, config.data.val_split)]

    def _shuffle(self, size: int) -> Shuffled:
        place, batch = self._place, self._config.optimiser.batch
        return Shuffled(size, batch=batch, seed=self._config.seed, rank=place.rank, world=place.world)

    def build(self) -> HemaNet:
        """A new detector."""
        return build_detector(self._config.net)

    def steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch in this process."""
        return self._loader.steps(generated=self._config.stage_at(epoch).generated)

    def batches(self, epoch: int) -> Iterable[FieldBatch]:
        """Batches of an epoch."""
        stage = self._config.stage_at(epoch)
        return self._loader.epoch(epoch, stage.input_px, generated=stage.generated)

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Detection loss of a batch."""
        net = self._config.net
        return detection_loss(
            model(batch.images),
            batch.boxes,
            batch.labels,
            strides=HemaNet.strides,
            bins=net.reg_bins,
            config=self._config.loss,
        )

    def data_hashes(self) -> dict[str, str]:
        """Of the training fields that are used, of the validation fields, and of the generator."""
        data = self._config.data
        said = {"generator": generator_fingerprint()}
        if data.dataset is not None:
            root = set_root(data.dataset)
            said[data.train_split] = set_hash(
                root / f"{data.train_split}.json", (r.path for r in training_records(data))
            )
            val = read_split(root, data.val_split)
            said[data.val_split] = set_hash(root / f"{data.val_split}.json", (r.path for r in val))
        return said

    def samples(self, model: nn.Module) -> dict[str, ImageRGB]:
        """Validation fields with truth and findings drawn in."""
        spec = detector_spec(self._config.stages[-1].input_px, self._config.net)
        reader = FieldReader(TorchNetwork(model), spec, MIN_RED_CELLS)
        shown = [*self._val[:SAMPLE_FIELDS], *self._generated_val[: SAMPLE_FIELDS // 2]]
        return {
            f"field-{number}": field_picture(
                example.image,
                TrueCells(example.boxes, example.labels),
                reader.read(example.image).found,
                threshold=PROVISIONAL_THRESHOLD,
            )
            for number, example in enumerate(shown)
        }

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """mAP on the validation fields, F1 on generated ones; `score` is mAP50 + mAP50-95, halved."""
        spec = detector_spec(self._config.stage_at(epoch).input_px, self._config.net)
        reader = FieldReader(TorchNetwork(model), spec, MIN_RED_CELLS)
        figures: dict[str, float] = {}
        if self._val:
            figures |= coco_map(*read_fields(reader, self._val))
        if self._generated_val:
            truth, found = read_fields(reader, self._generated_val)
            for index, cls in enumerate(CellClass):
                figures[f"generated_f1_{cls}"] = rank(truth, found, cls=index).f1_at(PROVISIONAL_THRESHOLD)
            if not self._val:
                figures |= coco_map(truth, found)
        if "map50" in figures:
            figures["score"] = (figures["map50"] + figures["map"]) / 2
        return figures
