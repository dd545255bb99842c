"""Packs a bundle: measures it through the one pipeline, adds golden inputs and a card, and lets it prove itself.

1. a draft bundle from the work folder's parts;
2. golden inputs: generated fields, answers from torch in fp32, truth from the generator;
3. figures on validation, test, generated fields and single cells, with the draft's own files;
4. the card and the manifest's metrics from those figures;
5. the bundle, read back, passes its own self-test or is not kept.
"""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

import models.synthetic as synthetic
from models.bundle import Bundle, read_bundle, write_bundle
from models.bundle.manifest import CARD_NAME, DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME, CellClass, DataSource, HeadSpec
from models.runtime import GoldenLimits, Networks, Pipeline, build_golden, read_image, run_self_test
from models.runtime.session import Session
from training.assembly import CALIBRATION_NAME, PARITY_NAME, TorchParts, torch_parts
from training.card import GENERATED, PBC, TXL, write_card
from training.checkpoint import load_checkpoint
from training.config import FieldData, GeneratedFields
from training.data.coco import read_split
from training.data.fields import load_example, training_records
from training.data.generated import generated_examples
from training.data.places import set_root
from training.data.typed_fields import typed_fields
from training.data.white_cells import TYPE_INDEX
from training.detector_task import TorchNetwork
from training.errors import ParityError, TrainingError
from training.evaluate import (
    SingleCell,
    as_json,
    evaluate_cells,
    evaluate_fields,
    evaluate_generated,
    evaluate_typed_fields,
)
from training.evaluation.card import check_same_parts, intervals_for_manifest, with_evaluation
from training.recipe import BundleRecipe

log = logging.getLogger(__name__)

FIELD_SETS = ("val", "val_clean", "test", "test_clean")
REPORT_NAME = "report.json"


def pack_bundle(
    recipe: BundleRecipe, folder: Path, target: Path, cache: Path, evaluation: Mapping[str, Any] | None = None
) -> Bundle:
    """Pack the parts of a work folder into a bundle at `target`.

    Args:
        recipe: what it is made of.
        folder: work folder.
        target: where it goes.
        cache: of generated fields.
        evaluation: of a bundle of the same parts, for the card.

    Raises:
        TrainingError: a part is missing; run `export` and `calibrate` first.
        DataError: the evaluation is of other parts.
        ParityError: the finished bundle fails its own self-test.
        GoldenError: the reference misses the generator's truth.
    """
    files, calibration = _parts(folder)
    if evaluation is not None:
        check_same_parts(evaluation, files)
    parts = torch_parts(recipe)
    fields = _manifest_fields(recipe, parts, calibration)
    with tempfile.TemporaryDirectory() as scratch:
        draft = write_bundle(Path(scratch) / "draft", fields, {**files, CARD_NAME: b"draft\n"})
        golden = _golden(recipe, draft, parts)
        report = measure(recipe, draft, cache) | {
            "parity": json.loads((folder / PARITY_NAME).read_text(encoding="utf-8")),
            "thresholds": calibration["thresholds"],
            "detector": _sizes(parts.detector, files[DETECTOR_NAME]) | {"input_px": parts.detector_spec.input_px},
            "embedder": _sizes(parts.embedder, files[EMBEDDER_NAME])
            | {
                "input_px": parts.embedder_spec.input_px,
                "dimensions": parts.embedder_spec.dimensions,
                "members": len(recipe.embedder.checkpoints),
            },
        }
        if recipe.detector.int8 and recipe.calibration.dataset is not None:
            report["fp32_val_clean"] = _fp32_figures(recipe, draft, folder)
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        metrics, card = _metrics(report), write_card(recipe, report, sources_of(fields))
        if evaluation is not None:
            metrics |= intervals_for_manifest(evaluation)
            card = with_evaluation(card, evaluation)
        fields["provenance"] |= {"metrics": metrics}
        done = {**files, **golden, CARD_NAME: card.encode()}
        proof = run_self_test(Pipeline(write_bundle(Path(scratch) / "final", fields, done)))
        for check in proof.checks:
            log.info("self-test %s: %s %s", check.name, "passed" if check.passed else "FAILED", check.figure)
        if not proof.passed:
            raise ParityError(f"the bundle fails its own self-test: {[asdict(c) for c in proof.failures]}")
    write_bundle(target, fields, done)
    return read_bundle(target)


def sources_of(fields: dict[str, Any]) -> list[DataSource]:
    """What a manifest says that the weights learned from."""
    return [DataSource(**source) for source in fields["provenance"]["trained_on"]]


def _parts(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    try:
        files = {name: (folder / name).read_bytes() for name in (DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME)}
        return files, json.loads((folder / CALIBRATION_NAME).read_text(encoding="utf-8"))
    except OSError as exc:
        raise TrainingError(f"{exc.filename} is not there; run `ahs-train export`, then `calibrate`, first") from exc


def _manifest_fields(recipe: BundleRecipe, parts: TorchParts, calibration: dict[str, Any]) -> dict[str, Any]:
    thresholds = {CellClass(k): v for k, v in calibration["thresholds"].items()}
    detector = parts.detector_spec.model_copy(update={"thresholds": thresholds})
    head = HeadSpec(accept_probability=calibration["accept_probability"], coverage=calibration["coverage"])
    trained = load_checkpoint(recipe.detector.checkpoint)["config"]
    return {
        "name": recipe.name,
        "version": recipe.version,
        "role": recipe.role,
        "created": recipe.created,
        "licence": "MIT; made from data under MIT and CC BY 4.0, cited on the card",
        "detector": detector.model_dump(mode="json"),
        "embedder": parts.embedder_spec.model_dump(mode="json"),
        "head": head.model_dump(mode="json"),
        "provenance": {
            "trained_on": [s.model_dump() for s in _sources(recipe, parts, trained["data"])],
            "recipe": f"{trained['name']} + {parts.cells.name}",
            "seed": trained["seed"],
        },
    }


def _sources(recipe: BundleRecipe, parts: TorchParts, detector_data: dict[str, Any]) -> list[DataSource]:
    """What the networks and the head learned from, with the number of pictures."""
    fields, cells = FieldData.model_validate(detector_data), parts.cells.data
    found = []
    if fields.dataset is not None:
        found.append(TXL.model_copy(update={"images": len(training_records(fields))}))
    if cells.dataset is not None:
        found.append(PBC.model_copy(update={"images": len(_cell_rows(cells.dataset, "train"))}))
    generated = max(fields.generated.count, cells.generated.count, recipe.calibration.generated_fields)
    return [*found, GENERATED.model_copy(update={"images": generated})]


def _golden(recipe: BundleRecipe, draft: Bundle, parts: TorchParts) -> dict[str, bytes]:
    slides = [synthetic.generate_field(seed) for seed in recipe.golden_seeds]
    networks = Networks(detector=TorchNetwork(parts.detector), embedder=TorchNetwork(parts.embedder))
    reference = Pipeline(draft, keep_embeddings=True, networks=networks)
    return build_golden(slides, [reference.analyse(s.image) for s in slides], limits=GoldenLimits())


def _sizes(model: nn.Module, data: bytes) -> dict[str, Any]:
    return {"parameters": sum(p.numel() for p in model.parameters()), "size_bytes": len(data)}


def measure(recipe: BundleRecipe, bundle: Bundle, cache: Path) -> dict[str, Any]:
    """Every figure of the card, through the one pipeline."""
    pipeline = Pipeline(bundle, threads=2)
    pipeline.warm_up()
    report: dict[str, Any] = {"sets": {}, "cells": {}}
    if recipe.calibration.dataset is not None:
        for split in FIELD_SETS:
            report["sets"][split] = as_json(evaluate_split(pipeline, recipe.calibration.dataset, split))
    fresh = GeneratedFields(count=recipe.evaluation_fields, first_seed=recipe.evaluation_seed)
    figures, types = evaluate_generated(pipeline, generated_examples(fresh, cache))
    report["sets"]["generated"], report["generated_types"] = as_json(figures), types
    dataset = torch_cells_dataset(recipe)
    if dataset is not None:
        report["cells"]["test"] = evaluate_cells(pipeline, single_cells(dataset, "test"))
        report["cells"]["test, not in the detector's data"] = evaluate_cells(
            pipeline, single_cells(dataset, "test", unseen=True)
        )
    if recipe.other_laboratory is not None:
        fields = typed_fields(set_root(recipe.other_laboratory) / "annotations.json")
        report["cells"]["another laboratory"] = evaluate_typed_fields(pipeline, fields)
    return report


def torch_cells_dataset(recipe: BundleRecipe) -> str | None:
    """Set of single white cells that the recipe's embedder learned from."""
    data = load_checkpoint(recipe.embedder.checkpoints[0])["config"]["data"]
    dataset: str | None = data["dataset"]
    return dataset


def evaluate_split(pipeline: Pipeline, dataset: str, split: str) -> Any:
    """Figures of a split of a detection set; `val_clean` and `test_clean` hold no near-copies of training fields."""
    return evaluate_fields(pipeline, (load_example(r) for r in read_split(set_root(dataset), split)))


def _cell_rows(dataset: str, split: str) -> list[dict[str, str]]:
    with (set_root(dataset) / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == split]


def single_cells(dataset: str, split: str, *, unseen: bool = False) -> list[SingleCell]:
    """Single-cell pictures of a split; `unseen` leaves out those that stand in the detector's train or val data."""
    rows = [r for r in _cell_rows(dataset, split) if not (unseen and r["txl_det_split"] in ("train", "val"))]
    root = set_root(dataset)
    return [SingleCell(read_image(root / r["file"]), TYPE_INDEX[r["class"]]) for r in rows]


def _fp32_figures(recipe: BundleRecipe, draft: Bundle, folder: Path) -> dict[str, float]:
    detector = Session((folder / "detector.fp32.onnx").read_bytes(), name="detector.fp32.onnx", threads=2)
    embedder = Session(draft.files[EMBEDDER_NAME], name=EMBEDDER_NAME, threads=2)
    pipeline = Pipeline(draft, networks=Networks(detector=detector, embedder=embedder))
    assert recipe.calibration.dataset is not None
    figures: dict[str, float] = evaluate_split(pipeline, recipe.calibration.dataset, "val_clean").average_precision
    return figures


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """The manifest's figures."""
    found = {}
    for name, figures in report["sets"].items():
        if "map50" in figures:
            found[f"{name}_map50"], found[f"{name}_map"] = figures["map50"], figures["map"]
        for cls, value in figures["f1"].items():
            found[f"{name}_f1_{cls}"] = value
    types = {
        "cells_test": report["cells"].get("test", {}),
        "cells_other_laboratory": report["cells"].get("another laboratory", {}),
        "cells_generated": report["generated_types"],
    }
    for key in ("balanced_accuracy", "accepted", "accepted_accuracy"):
        for name, figures in types.items():
            if key in figures:
                found[f"{name}_{key}"] = figures[key]
    return {name: round(float(value), 5) for name, value in found.items()}
