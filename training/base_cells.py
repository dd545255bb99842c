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
from training.data.places import set_root
from training.data.white_cells import (
    TYPE_INDEX,
    CellExample,
    CellFinder,
    annotated_cells,
    generated_cells,
)
from training.errors import BaseSetError, DataError
from training.head import LabelledEmbeddings
from training.recipe import BundleRecipe

BATCH = 64
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
    train, held_out = learned_cells(recipe, finder, spec, cache)
    return write_base_set(
        folder,
        train=embed_cells(embedder, train, spec),
        held_out=embed_cells(embedder, held_out, spec),
        frozen=frozen_set(embedder, frozen_cells(recipe, finder, spec, cache), spec),
        said={
            "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
            "bundle_digest": bundle.digest,
            "embedder_sha256": sha256_of(bundle.files[EMBEDDER_NAME]),
            "embedder": spec,
            "created": recipe.created,
            "generator": generator_fingerprint(),
            "sources": sources_of(recipe),
        },
    )


def learned_cells(
    recipe: BundleRecipe, finder: CellFinder, spec: EmbedderSpec, cache: Path
) -> tuple[list[CellExample], list[CellExample]]:
    """Cells that the head learns from, and those for its levels."""
    c, data = recipe.calibration, CellData(dataset=recipe.cells)
    learned = GeneratedFields(count=c.generated_fields, first_seed=c.generated_first_seed)
    kept_back = GeneratedFields(count=c.held_out_fields, first_seed=c.held_out_first_seed)
    return (
        annotated_cells(data, "train", finder) + generated_cells(learned, spec, cache),
        annotated_cells(data, "val", finder) + generated_cells(kept_back, spec, cache),
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
    fields = GeneratedFields(count=recipe.frozen_fields, first_seed=recipe.frozen_seed)
    found = [
        FrozenCell(cell, HOME_SLICE, _file_hash(set_root(str(recipe.cells)) / cell.name))
        for cell in annotated_cells(CellData(dataset=recipe.cells), "test", finder)
        if cell.seen_by_detector not in ("train", "val")
    ]
    pixels = {f.group: hashlib.sha256(f.image.tobytes()).hexdigest() for f in generated_examples(fields, cache)}
    found += [FrozenCell(c, GENERATED_SLICE, pixels[c.name]) for c in generated_cells(fields, spec, cache)]
    if recipe.outsiders is None:
        return found
    root = set_root(recipe.outsiders)
    pictures = sorted(root.rglob("*.jpg"))
    if not pictures:
        raise DataError(f"{root}: there are no pictures of cells that are none of the types")
    for path in pictures:
        image, name = read_image(path), path.relative_to(root).as_posix()
        box, window_px = finder.locate(image)
        found.append(
            FrozenCell(CellExample(image, box, window_px, OUTSIDER, 0, name), OUTSIDER_SLICE, _file_hash(path))
        )
    return found


def _file_hash(path: Path) -> str:
    return sha256_of(path.read_bytes())


def sources_of(recipe: BundleRecipe) -> tuple[DataSource, ...]:
    """Where the cells come from."""
    c = recipe.calibration
    fields = c.generated_fields + c.held_out_fields + recipe.frozen_fields
    generated = GENERATED_SOURCE.model_copy(update={"images": fields})
    if recipe.cells is None:
        return (generated,)
    with (set_root(recipe.cells) / "labels.csv").open(encoding="utf-8", newline="") as stream:
        count = sum(row["class"] in TYPE_INDEX for row in csv.DictReader(stream))
    return PBC.model_copy(update={"images": count}), generated


def same_frozen_cells(frozen: FrozenSet, cells: Sequence[FrozenCell]) -> None:
    """Refuse cells that are not, one by one, those of a frozen set: names, pictures' hashes, slices and labels.

    Raises:
        BaseSetError: which cell differs.
    """
    if len(cells) != len(frozen.labels):
        raise BaseSetError(f"{len(cells)} frozen cells were found, the set holds {len(frozen.labels)}")
    for place, found in enumerate(cells):
        locked = (frozen.names[place], frozen.pictures[place], frozen.slices[place], frozen.labels[place])
        if (found.cell.name, found.picture, found.slice, found.cell.label) != locked:
            raise BaseSetError(f"frozen cell {place}: {found.cell.name} is not the picture that was locked")
