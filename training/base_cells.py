"""Makes the base set of a bundle: finds, cuts and embeds its cells with the bundle's own networks. No torch here.

The head was fitted on these very cells (`assembly.calibrate_parts`); the frozen ones were never learned from:

- `home`: pictures of the test split that do not stand in the detector's train or val data;
- `generated`: generated fields of seeds that nothing else uses;
- `outsiders`: cells that are none of the types; naming them is the fault that adaptation to a site brings.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME, DataSource, EmbedderSpec
from models.runtime.imaging import crop_cell, read_image, to_batch
from models.runtime.results import FloatArray
from models.runtime.session import Network, Session
from training.base_set import OUTSIDER, BaseManifest, FrozenSet, sha256_of, write_base_set
from training.card import GENERATED as GENERATED_SOURCE
from training.card import PBC
from training.config import CellData, GeneratedFields
from training.data.generated import generated_examples, generator_fingerprint
from training.data.places import data_root
from training.data.white_cells import (
    TYPE_INDEX,
    CellExample,
    CellFinder,
    annotated_cells,
    generated_cells,
)
from training.errors import DataError
from training.head import LabelledEmbeddings
from training.recipe import BundleRecipe

BATCH = 64
CELLS_DATASET, OUTSIDER_DATASET = "wbc_pbc", "wbc_ood_dev"
HOME_SLICE, GENERATED_SLICE, OUTSIDER_SLICE = "home", "generated", "outsiders"


@dataclass(frozen=True, slots=True, eq=False)
class FrozenCell:
    """A frozen cell before it is embedded."""

    cell: CellExample
    slice: str
    picture: str


def cut(cells: Sequence[CellExample], spec: EmbedderSpec) -> FloatArray:
    """Crops as the device cuts them: (N, 3, C, C) float32."""
    return to_batch([crop_cell(c.image, c.box, c.window_px, spec.input_px) for c in cells])


def embed_cells(network: Network, cells: Sequence[CellExample], spec: EmbedderSpec) -> LabelledEmbeddings:
    """Run the embedder over cells."""
    rows = [network.run(cut(cells[i : i + BATCH], spec))[0] for i in range(0, len(cells), BATCH)]
    labels = np.array([c.label for c in cells], np.int64)
    return LabelledEmbeddings(np.concatenate(rows), labels, np.array([c.origin for c in cells], np.int64))


def make_base_set(recipe: BundleRecipe, bundle: Bundle, folder: Path, cache: Path) -> BaseManifest:
    """Embed the cells of a recipe with a bundle's networks and write the base set.

    Raises:
        DataError: a data set is not there.
        BaseSetError: the folder holds something.
    """
    spec, detector = bundle.manifest.embedder, bundle.manifest.detector
    finder = CellFinder(Session(bundle.files[DETECTOR_NAME], name=DETECTOR_NAME, threads=2), detector, spec)
    embedder = Session(bundle.files[EMBEDDER_NAME], name=EMBEDDER_NAME, threads=2)
    c, data = recipe.calibration, CellData(dataset=CELLS_DATASET)
    learned = GeneratedFields(count=c.generated_fields, first_seed=c.generated_first_seed)
    kept_back = GeneratedFields(count=c.held_out_fields, first_seed=c.held_out_first_seed)
    parts = [
        embed_cells(embedder, annotated_cells(data, split, finder) + generated_cells(fields, spec, cache), spec)
        for split, fields in (("train", learned), ("val", kept_back))
    ]
    return write_base_set(
        folder,
        train=parts[0],
        held_out=parts[1],
        frozen=frozen_set(embedder, frozen_cells(recipe, finder, spec, cache), spec),
        said={
            "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
            "bundle_digest": bundle.digest,
            "embedder_sha256": sha256_of(bundle.files[EMBEDDER_NAME]),
            "embedder": spec,
            "created": recipe.created,
            "generator": generator_fingerprint(),
            "sources": _sources(recipe),
        },
    )


def frozen_set(embedder: Network, cells: Sequence[FrozenCell], spec: EmbedderSpec) -> FrozenSet:
    """Embed frozen cells."""
    seen = embed_cells(embedder, [f.cell for f in cells], spec)
    return FrozenSet(
        embeddings=seen.embeddings,
        labels=seen.labels,
        slices=np.array([f.slice for f in cells]),
        names=np.array([f.cell.name for f in cells]),
        pictures=np.array([f.picture for f in cells]),
        sha256="",
    )


def frozen_cells(recipe: BundleRecipe, finder: CellFinder, spec: EmbedderSpec, cache: Path) -> list[FrozenCell]:
    """The cells of the frozen set, in a fixed order, each with the hash of its picture."""
    root, fields = data_root(), GeneratedFields(count=recipe.frozen_fields, first_seed=recipe.frozen_seed)
    found = [
        FrozenCell(cell, HOME_SLICE, _file_hash(root / CELLS_DATASET / cell.name))
        for cell in annotated_cells(CellData(dataset=CELLS_DATASET), "test", finder)
        if cell.seen_by_detector not in ("train", "val")
    ]
    pixels = {f.group: hashlib.sha256(f.image.tobytes()).hexdigest() for f in generated_examples(fields, cache)}
    found += [FrozenCell(c, GENERATED_SLICE, pixels[c.name]) for c in generated_cells(fields, spec, cache)]
    pictures = sorted((root / OUTSIDER_DATASET).rglob("*.jpg"))
    if not pictures:
        raise DataError(f"{root / OUTSIDER_DATASET}: there are no pictures of cells that are none of the types")
    for path in pictures:
        image, name = read_image(path), path.relative_to(root / OUTSIDER_DATASET).as_posix()
        box, window_px = finder.locate(image)
        found.append(
            FrozenCell(CellExample(image, box, window_px, OUTSIDER, 0, name), OUTSIDER_SLICE, _file_hash(path))
        )
    return found


def _file_hash(path: Path) -> str:
    return sha256_of(path.read_bytes())


def _sources(recipe: BundleRecipe) -> tuple[DataSource, ...]:
    with (data_root() / CELLS_DATASET / "labels.csv").open(encoding="utf-8", newline="") as stream:
        count = sum(row["class"] in TYPE_INDEX for row in csv.DictReader(stream))
    c = recipe.calibration
    fields = c.generated_fields + c.held_out_fields + recipe.frozen_fields
    return PBC.model_copy(update={"images": count}), GENERATED_SOURCE.model_copy(update={"images": fields})
