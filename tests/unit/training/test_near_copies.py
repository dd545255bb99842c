"""Near-copies are found in every orientation, cropped and recompressed; pictures of other cells are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.runtime.imaging import decode_image, encode_jpeg, encode_png
from models.runtime.results import ImageRGB
from tests.unit.training.annotated_sets import CLASSES, annotated
from training.data.formats.annotated import AnnotatedSet
from training.data.generated import generated_example
from training.data.grouping import found_groups
from training.data.near_copies import (
    MAX_BITS,
    MIN_LIKENESS,
    Fingerprint,
    agreement,
    best_orientation,
    candidates,
    connected,
    fingerprint,
    likeness,
    near_copies,
    turned,
)


def field(seed: int, *, width_px: int = 640, height_px: int = 480) -> ImageRGB:
    return generated_example(seed, width_px=width_px, height_px=height_px).image


@pytest.fixture(scope="module")
def fields() -> list[ImageRGB]:
    return [field(seed) for seed in range(700, 712)]


def oriented(image: ImageRGB, orientation: int) -> ImageRGB:
    return np.ascontiguousarray(
        np.dstack([turned(np.ascontiguousarray(image[:, :, c]), orientation) for c in range(3)])
    )


def squeezed(image: ImageRGB) -> ImageRGB:
    """Cropped, squeezed to a square, turned, brighter and recompressed."""
    height, width = image.shape[:2]
    crop = image[height // 40 : -height // 30, width // 50 : -width // 30]
    small = np.asarray(cv2.resize(crop, (416, 416), interpolation=cv2.INTER_AREA), np.uint8)
    return decode_image(encode_jpeg(np.clip(oriented(small, 5) * 0.9 + 20, 0, 255).astype(np.uint8), 75))


@pytest.mark.parametrize("orientation", range(8))
def test_the_hash_is_the_same_in_all_eight_orientations(fields: list[ImageRGB], orientation: int) -> None:
    for image in fields[:4]:
        same, other = fingerprint(image), fingerprint(oriented(image, orientation))
        assert other.name == same.name
        bits, found = best_orientation(other, same)
        assert bits == 0
        assert np.abs(turned(same.fine, found).astype(int) - other.fine).max() <= 2


def test_a_cropped_turned_and_recompressed_copy_is_found(fields: list[ImageRGB]) -> None:
    for image in fields:
        a, b = fingerprint(image), fingerprint(squeezed(image))
        assert best_orientation(a, b)[0] <= MAX_BITS
        assert likeness(a, b) >= MIN_LIKENESS


def test_fields_of_other_cells_are_no_copies(fields: list[ImageRGB]) -> None:
    prints = [fingerprint(image) for image in fields]
    assert near_copies(prints) == []
    assert max(likeness(a, b) for n, a in enumerate(prints) for b in prints[n + 1 :]) < MIN_LIKENESS - 0.02


def test_hashes_alone_would_join_what_the_correlation_keeps_apart(fields: list[ImageRGB]) -> None:
    prints = [fingerprint(image) for image in fields]
    assert list(candidates(prints, max_bits=26)) != []
    assert near_copies(prints, max_bits=26) == []


def test_flat_pictures_are_copies_only_of_the_same_grey() -> None:
    def flat(level: int) -> Fingerprint:
        return fingerprint(np.full((64, 64, 3), level, np.uint8))

    assert likeness(flat(90), flat(90)) == 1.0
    assert likeness(flat(90), flat(200)) == 0.0
    assert likeness(flat(90), fingerprint(field(1))) == 0.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
@settings(max_examples=60)
def test_groups_are_what_pairs_connect(pairs: list[tuple[int, int]]) -> None:
    roots = connected(10, pairs)
    assert all(roots[a] == roots[b] for a, b in pairs)
    assert all(roots[r] == r for r in roots)
    for item in range(10):
        reached = {item}
        for _ in range(10):
            reached |= {b for a, b in [*pairs, *(p[::-1] for p in pairs)] if a in reached}
        assert roots[item] == min(reached)


def test_groups_depend_neither_on_names_nor_on_order(tmp_path: Path, fields: list[ImageRGB]) -> None:
    contents = [encode_png(f) for f in fields[:3]] + [encode_png(squeezed(fields[0]))]
    contents.append(contents[1])

    def groups(folder: str, order: list[int]) -> dict[bytes, str]:
        pictures = []
        for number, index in enumerate(order):
            path = tmp_path / folder / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(contents[index])
            pictures.append(annotated(path))
        found = found_groups(AnnotatedSet(CLASSES, tuple(pictures)))
        return {contents[i]: g for i, g in zip(order, found, strict=True)}

    once = groups("a", [0, 1, 2, 3, 4])
    assert groups("b", [3, 4, 2, 0, 1]) == once
    assert once[contents[0]] == once[contents[3]]
    assert len(set(once.values())) == 3


def test_groupings_are_compared_pair_by_pair() -> None:
    said = agreement(["a", "a", "a", "b", "c"], ["x", "x", "y", "z", "z"])
    assert (said.both, said.only_found, said.only_given) == (1, 2, 1)
    assert said.precision == pytest.approx(1 / 3)
    assert said.recall == pytest.approx(1 / 2)
    alone = agreement(["a", "b"], ["x", "y"])
    assert (alone.precision, alone.recall) == (None, None)
