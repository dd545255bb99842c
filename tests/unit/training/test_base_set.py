"""The base set that ships: whole, of the shipped embedder, and its frozen part never changes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fleet.release.gate import missing_of
from fleet.release.pinned import pinned
from models.bundle import Bundle, read_bundle
from models.bundle.manifest import EMBEDDER_NAME
from models.zoo import shipped
from training.base_cells import FrozenCell, same_frozen_cells
from training.base_set import (
    FROZEN_NAME,
    MANIFEST_NAME,
    OUTSIDER,
    BaseSet,
    find_base_set,
    read_base_set,
    write_base_set,
)
from training.data.white_cells import CellExample
from training.errors import BaseSetError
from training.recipe import load_recipe
from training.refit import figures_of_bundle, frozen_slices

CELLS_SHA256 = "c82a3478ad9e7ff45bf48f922cebbf56a11b075839cc39783a78096b41ae97c9"
"""Of the frozen cells: evidence of every model that was ever accepted names it, whatever its embedder."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(shipped("edge"))


@pytest.fixture(scope="module")
def base(bundle: Bundle) -> BaseSet:
    return read_base_set(find_base_set(bundle), bundle)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_base_set(bundle), tmp_path / "base"))


def test_the_frozen_set_is_the_one_that_earlier_models_were_judged_on(base: BaseSet) -> None:
    assert base.frozen.cells_sha256 == CELLS_SHA256
    known = pinned().frozen_set(CELLS_SHA256)
    assert known is not None
    assert known.embedded[base.manifest.embedder_sha256] == base.frozen.sha256


def test_the_pinned_slices_are_those_of_the_frozen_set(base: BaseSet, bundle: Bundle) -> None:
    known = pinned().frozen_set(base.frozen.cells_sha256)
    assert known is not None
    assert missing_of(known, figures_of_bundle(bundle, frozen_slices(base.frozen))) == []


def test_a_frozen_set_with_other_embeddings_is_not_taken_for_the_one_that_was_locked(
    base: BaseSet, bundle: Bundle, tmp_path: Path
) -> None:
    easier = dataclasses.replace(base.frozen, embeddings=base.frozen.embeddings * 1.01)
    said = base.manifest.model_dump(by_alias=True, exclude={"schema_", "cells", "files"})
    write_base_set(tmp_path / "easier", train=base.train, held_out=base.held_out, frozen=easier, said=said)
    with pytest.raises(BaseSetError, match="not the frozen set that was locked"):
        read_base_set(tmp_path / "easier", bundle)


def test_one_relabelled_cell_makes_another_frozen_set(base: BaseSet) -> None:
    labels = base.frozen.labels.copy()
    labels[0] = (labels[0] + 1) % 5
    assert dataclasses.replace(base.frozen, labels=labels).cells_sha256 != base.frozen.cells_sha256


def test_it_holds_every_type_in_each_part_and_is_small(base: BaseSet, bundle: Bundle) -> None:
    for part in (base.train, base.held_out):
        assert set(Counter(zip(part.origins.tolist(), part.labels.tolist(), strict=True))) == {
            (origin, label) for origin in (0, 1) for label in range(5)
        }
    slices = {name: base.frozen.labels[base.frozen.slices == name] for name in set(base.frozen.slices.tolist())}
    assert set(slices) == {"home", "generated", "outsiders"}
    assert set(slices.pop("outsiders").tolist()) == {OUTSIDER}
    assert all(set(labels.tolist()) == set(range(5)) for labels in slices.values())
    folder = find_base_set(bundle)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000


def test_no_frozen_cell_stands_among_those_learned_from(base: BaseSet) -> None:
    learned = {row.tobytes() for part in (base.train, base.held_out) for row in part.embeddings}
    assert not learned & {row.tobytes() for row in base.frozen.embeddings}


def test_the_frozen_seeds_are_used_for_nothing_else() -> None:
    for path in Path("training/configs").glob("*-bundle.yaml"):
        recipe = load_recipe(path)
        c = recipe.calibration
        ranges = [
            range(recipe.frozen_seed, recipe.frozen_seed + recipe.frozen_fields),
            range(c.generated_first_seed, c.generated_first_seed + c.generated_fields),
            range(c.held_out_first_seed, c.held_out_first_seed + c.held_out_fields),
            range(recipe.evaluation_seed, recipe.evaluation_seed + recipe.evaluation_fields),
            range(900_000, 910_000),
        ]
        seeds = [seed for seeds in ranges for seed in seeds] + list(recipe.golden_seeds)
        assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("name", ["base.npz", FROZEN_NAME])
def test_a_changed_file_is_refused(copied: Path, bundle: Bundle, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(BaseSetError, match=f"{name} is not the file"):
        read_base_set(copied, bundle)


def test_the_base_set_of_another_embedder_is_refused(copied: Path, bundle: Bundle) -> None:
    other = dataclasses.replace(bundle, files={**bundle.files, EMBEDDER_NAME: b"another"})
    with pytest.raises(BaseSetError, match="the bundle holds another one"):
        read_base_set(copied, other)
    with pytest.raises(BaseSetError, match="no base set"):
        find_base_set(other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "ahs.base-set/9"}, "no manifest of a base set"),
        ({"files": []}, "must name"),
        ({"files": [{"path": "../x", "size_bytes": 1, "sha256": "0" * 64}]}, "not a file of a base set"),
        ({"embedder": None}, "no manifest of a base set"),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(
    copied: Path, bundle: Bundle, change: dict[str, object], words: str
) -> None:
    path = copied / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BaseSetError, match=words):
        read_base_set(copied, bundle)


def test_a_frozen_set_is_never_replaced_in_place(copied: Path, base: BaseSet) -> None:
    with pytest.raises(BaseSetError, match="not empty"):
        write_base_set(copied, train=base.train, held_out=base.held_out, frozen=base.frozen, said={})


def test_what_is_written_is_what_is_read(base: BaseSet, bundle: Bundle, tmp_path: Path) -> None:
    said = base.manifest.model_dump(by_alias=True, exclude={"schema_", "cells", "files"})
    manifest = write_base_set(
        tmp_path / "again", train=base.train, held_out=base.held_out, frozen=base.frozen, said=said
    )
    assert manifest == base.manifest
    again = read_base_set(tmp_path / "again", bundle)
    assert np.array_equal(again.train.embeddings, base.train.embeddings)
    assert again.frozen.names.tolist() == base.frozen.names.tolist()


def test_a_frozen_cell_of_another_picture_is_named(base: BaseSet) -> None:
    chosen = base.frozen.slices == "home"
    frozen = dataclasses.replace(
        base.frozen, **{k: getattr(base.frozen, k)[chosen][:2] for k in ("labels", "slices", "names", "pictures")}
    )
    cells = [
        FrozenCell(
            CellExample(np.zeros((9, 9, 3), np.uint8), (0, 0, 9, 9), 9.0, int(label), 0, str(name)),
            "home",
            str(picture),
        )
        for label, name, picture in zip(frozen.labels, frozen.names, frozen.pictures, strict=True)
    ]
    same_frozen_cells(frozen, cells)
    with pytest.raises(BaseSetError, match="is not the picture that was locked"):
        same_frozen_cells(frozen, [cells[0], dataclasses.replace(cells[1], picture="0" * 64)])
    with pytest.raises(BaseSetError, match="1 frozen cells were found, the set holds 2"):
        same_frozen_cells(frozen, cells[:1])
