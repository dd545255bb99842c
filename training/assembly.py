"""The parts of a bundle in a work folder: exported networks, then thresholds and head."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME, CellClass, DetectorSpec, EmbedderSpec
from models.runtime.imaging import letterbox, to_tensor
from models.runtime.results import FloatArray
from models.runtime.scale import FieldReader
from models.runtime.session import Network, Session
from training.augment_fields import PAD_GREY
from training.base_cells import cut, embed_cells
from training.config import EmbedderConfig, FieldData, GeneratedFields
from training.data.cells import finder_of_checkpoint
from training.data.coco import read_split
from training.data.fields import load_example, training_records
from training.data.generated import FieldExample, generated_examples
from training.data.places import set_root
from training.data.white_cells import CellExample, CellFinder, annotated_cells, generated_cells, window_spec
from training.detector_task import load_detector, read_fields
from training.embedder_task import load_embedder
from training.errors import ConfigError
from training.export import Parity, export_onnx, fused_detector, fused_embedder, parity, quantise
from training.head import HeadOptions, fit_head
from training.metrics import rank
from training.recipe import BundleRecipe

CALIBRATION_NAME = "calibration.json"
PARITY_NAME = "parity.json"


@dataclass(frozen=True, slots=True, eq=False)
class TorchParts:
    """The fp32 networks of a recipe, ready for inference, with what the manifest says of them."""

    detector: nn.Module
    embedder: nn.Module
    detector_spec: DetectorSpec
    embedder_spec: EmbedderSpec
    cells: EmbedderConfig


def torch_parts(recipe: BundleRecipe) -> TorchParts:
    """Load the checkpoints of a recipe.

    Raises:
        CheckpointError: a checkpoint that is not there or of another kind.
        ConfigError: embedders that were trained on different crops.
    """
    detector, spec = load_detector(recipe.detector.checkpoint)
    loaded = [load_embedder(path) for path in recipe.embedder.checkpoints]
    windows = {(c.data.input_px, c.data.window_rbc, c.data.window_box) for _, c in loaded}
    if len(windows) != 1:
        raise ConfigError(f"the embedders of {recipe.name} were trained on different crop windows: {sorted(windows)}")
    dimensions = sum(c.net.dimensions for _, c in loaded)
    return TorchParts(
        detector=fused_detector(detector, recipe.detector.flips),
        embedder=fused_embedder([member for member, _ in loaded]),
        detector_spec=spec.model_copy(update={"rbc_px": recipe.detector.rbc_px}),
        embedder_spec=window_spec(loaded[0][1].data, dimensions),
        cells=loaded[0][1],
    )


def export_parts(recipe: BundleRecipe, folder: Path, cache: Path) -> dict[str, Parity]:
    """Write both networks as ONNX, int8 where the recipe says so, and how far each is from torch.

    The fp32 export must equal torch (`ParityError`); int8 is measured here and judged by its mAP in `evaluate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = torch_parts(recipe)
    fields = [_tensor(e, parts.detector_spec.input_px) for e in _range_fields(recipe, cache)]
    crops = _range_crops(recipe, parts, cache)
    size, crop_size = parts.detector_spec.input_px, parts.embedder_spec.input_px
    names = [f"map{stride}" for stride in parts.detector_spec.strides]
    detector = export_onnx(parts.detector, (1, 3, size, size), outputs=names, dynamic=False)
    embedder = export_onnx(parts.embedder, (2, 3, crop_size, crop_size), outputs=["embedding"], dynamic=True)
    (folder / "detector.fp32.onnx").write_bytes(detector)
    (folder / "embedder.fp32.onnx").write_bytes(embedder)
    if recipe.detector.int8:
        detector = quantise(detector, fields, keep_float=recipe.detector.keep_float)
    if recipe.embedder.int8:
        embedder = quantise(embedder, crops, keep_float=recipe.embedder.keep_float)
    (folder / DETECTOR_NAME).write_bytes(detector)
    (folder / EMBEDDER_NAME).write_bytes(embedder)
    said = {
        "detector": parity(parts.detector, detector, fields[:10]),
        "embedder": parity(parts.embedder, embedder, crops[:4]),
    }
    (folder / PARITY_NAME).write_text(json.dumps({k: asdict(v) for k, v in said.items()}, indent=1) + "\n")
    return said


def _tensor(example: FieldExample, input_px: int) -> FloatArray:
    return to_tensor(letterbox(example.image, input_px, PAD_GREY).canvas)


def _range_fields(recipe: BundleRecipe, cache: Path) -> list[FieldExample]:
    """Training fields for the int8 ranges: annotated ones, and a quarter as many generated ones."""
    c = recipe.calibration
    picked: list[FieldExample] = []
    if c.dataset is not None:
        records = training_records(FieldData(dataset=c.dataset))
        chosen = np.random.default_rng(0).choice(len(records), min(c.fields, len(records)), replace=False)
        picked = [load_example(records[i]) for i in chosen]
    count = min(c.generated_fields, c.fields // 4 if picked else c.fields)
    return picked + generated_examples(GeneratedFields(count=count, first_seed=c.generated_first_seed), cache)


def _range_crops(recipe: BundleRecipe, parts: TorchParts, cache: Path) -> list[FloatArray]:
    finder = finder_of_checkpoint(recipe.detector.checkpoint, parts.embedder_spec)
    wanted = recipe.calibration.cells
    cells = annotated_cells(parts.cells.data, "train", finder, at_most=wanted)
    cells += generated_cells(_head_fields(recipe), parts.embedder_spec, cache)[: wanted // 2 if cells else wanted]
    return [cut(cells[i : i + 8], parts.embedder_spec) for i in range(0, len(cells), 8)]


def training_cells(recipe: BundleRecipe, parts: TorchParts, finder: CellFinder, cache: Path) -> list[CellExample]:
    """White cells that the head learns from."""
    spec = parts.embedder_spec
    return annotated_cells(parts.cells.data, "train", finder) + generated_cells(_head_fields(recipe), spec, cache)


def held_out_cells(recipe: BundleRecipe, parts: TorchParts, finder: CellFinder, cache: Path) -> list[CellExample]:
    """White cells for temperature, quantiles and thresholds."""
    spec = parts.embedder_spec
    return annotated_cells(parts.cells.data, "val", finder) + generated_cells(_held_out(recipe), spec, cache)


def _head_fields(recipe: BundleRecipe) -> GeneratedFields:
    c = recipe.calibration
    return GeneratedFields(count=c.generated_fields, first_seed=c.generated_first_seed)


def _held_out(recipe: BundleRecipe) -> GeneratedFields:
    c = recipe.calibration
    return GeneratedFields(count=c.held_out_fields, first_seed=c.held_out_first_seed)


def calibrate_parts(recipe: BundleRecipe, folder: Path, cache: Path) -> dict[str, Any]:
    """Choose thresholds by best F1 on validation fields and fit the head; both with the exported networks.

    Returns:
        What `calibration.json` holds: thresholds, accept probability, coverage.
    """
    parts = torch_parts(recipe)
    detector = Session((folder / DETECTOR_NAME).read_bytes(), name=DETECTOR_NAME, threads=2)
    thresholds = choose_thresholds(detector, parts.detector_spec, _threshold_fields(recipe, cache))
    spec = parts.detector_spec.model_copy(update={"thresholds": thresholds})
    embedder = Session((folder / EMBEDDER_NAME).read_bytes(), name=EMBEDDER_NAME, threads=2)
    finder = CellFinder(detector, spec, parts.embedder_spec)
    train = embed_cells(embedder, training_cells(recipe, parts, finder, cache), parts.embedder_spec)
    held_out = embed_cells(embedder, held_out_cells(recipe, parts, finder, cache), parts.embedder_spec)
    c = recipe.calibration
    options = HeadOptions(
        ridge=c.ridge, coverage=c.coverage, domain_quantile=c.domain_quantile, allowed_error=c.allowed_error
    )
    fitted = fit_head(train, held_out, options)
    (folder / HEAD_NAME).write_bytes(fitted.head.to_bytes())
    said = {
        "thresholds": {str(k): v for k, v in thresholds.items()},
        "accept_probability": fitted.accept_probability,
        "coverage": fitted.coverage,
        "temperature": float(fitted.head.temperature),
        "conformal_quantiles": [float(q) for q in fitted.head.conformal_quantiles],
        "domain_threshold": float(fitted.head.domain_threshold),
        "cells": {"train": len(train.labels), "held_out": len(held_out.labels)},
    }
    (folder / CALIBRATION_NAME).write_text(json.dumps(said, indent=1) + "\n")
    return said


def _threshold_fields(recipe: BundleRecipe, cache: Path) -> list[FieldExample]:
    annotated: list[FieldExample] = []
    if recipe.calibration.dataset is not None:
        root = set_root(recipe.calibration.dataset)
        annotated = [load_example(r) for r in read_split(root, "val_clean")]
    return annotated + generated_examples(_held_out(recipe), cache)


def choose_thresholds(network: Network, spec: DetectorSpec, fields: list[FieldExample]) -> dict[CellClass, float]:
    """For each class the score with the best F1 at IoU .5."""
    truth, found = read_fields(FieldReader(network, spec, 3), fields)
    return {cls: rank(truth, found, cls=index).best_threshold() for index, cls in enumerate(CellClass)}
