"""Boxes stay on their cells through every augmentation."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("albumentations")

from training.augment_fields import FieldAugmenter
from training.augment_look import relit
from training.config import FieldAugment, FieldLook

pytestmark = pytest.mark.torch

CELL = np.array([[100, 60, 160, 100]], np.float32)
STILL = {
    "scale": (1.0, 1.0),
    "shift_ratio": 0.0,
    "hue_shift": 0,
    "saturation_shift": 0,
    "value_shift": 0,
    "blur_probability": 0.0,
    "noise_probability": 0.0,
}


def field() -> np.ndarray:
    """A dark rectangle on a light field, wider than high."""
    image = np.full((240, 320, 3), 230, np.uint8)
    image[60:100, 100:160] = 20
    return image


def seen(image: np.ndarray) -> np.ndarray:
    """Box of the dark pixels."""
    rows, columns = np.nonzero(image.mean(axis=2) < 85)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scale": (0.75, 1.35)},
        {"shift_ratio": 0.1},
        {"hue_shift": 10, "saturation_shift": 40, "value_shift": 20},
        {"blur_probability": 1.0},
        {"noise_probability": 1.0},
        {"scale": (0.75, 1.35), "shift_ratio": 0.1, "blur_probability": 1.0, "noise_probability": 1.0},
    ],
    ids=["turns", "scale", "shift", "colour", "blur", "noise", "all"],
)
def test_a_box_moves_with_its_cell(change: dict[str, object]) -> None:
    augmenter = FieldAugmenter(FieldAugment.model_validate({**STILL, **change}))
    moved = 0
    for seed in range(24):
        image, boxes, labels = augmenter(field(), CELL, np.array([2]), seed=seed)
        assert image.dtype == np.uint8
        assert image.flags["C_CONTIGUOUS"]
        assert labels.tolist() == [2]
        assert np.abs(boxes[0] - seen(image)).max() <= 2.0, (seed, boxes, seen(image))
        moved += bool(np.abs(boxes[0] - CELL[0]).max() > 5)
    assert moved > 6


def test_the_same_seed_gives_the_same_field() -> None:
    augmenter = FieldAugmenter(FieldAugment(blur_probability=1.0, noise_probability=1.0))
    first = augmenter(field(), CELL, np.array([0]), seed=5)
    augmenter(field(), CELL, np.array([0]), seed=6)
    again = augmenter(field(), CELL, np.array([0]), seed=5)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_a_field_without_cells_stays_without_cells() -> None:
    augmenter = FieldAugmenter(FieldAugment())
    _, boxes, labels = augmenter(field(), np.empty((0, 4), np.float32), np.empty(0, np.int64), seed=1)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_a_cell_that_leaves_the_field_is_dropped() -> None:
    corner = np.array([[0, 0, 12, 12]], np.float32)
    augmenter = FieldAugmenter(FieldAugment.model_validate({**STILL, "scale": (1.35, 1.35)}))
    counts = {len(augmenter(field(), corner, np.array([0]), seed=s)[1]) for s in range(12)}
    assert 0 in counts


def test_another_look_changes_pixels_and_moves_nothing() -> None:
    look = FieldLook(probability=1.0, stain_probability=1.0, light_probability=1.0, defocus_probability=0.0)
    changed = 0
    for seed in range(12):
        image = relit(field(), np.random.default_rng(seed), look)
        assert image.shape == field().shape
        assert image.dtype == np.uint8
        inside, outside = image[60:100, 100:160].mean(), np.delete(image, slice(60, 100), axis=0).mean()
        assert inside < outside - 5, "the cell stays darker than its ground"
        changed += bool(np.abs(image.astype(int) - field()).mean() > 10)
    assert changed > 8


@pytest.mark.parametrize(("probability", "changed"), [(0.0, 0), (1.0, 12)])
def test_as_many_fields_as_asked_for_are_shown_in_another_look(probability: float, changed: int) -> None:
    look = {"probability": probability, "stain_probability": 1.0, "light_probability": 1.0}
    other = FieldAugmenter(FieldAugment.model_validate({**STILL, "look": look}))
    plain = FieldAugmenter(FieldAugment.model_validate(STILL))
    seen = 0
    for seed in range(12):
        ours, boxes, _ = other(field(), CELL, np.array([0]), seed=seed)
        theirs, expected, _ = plain(field(), CELL, np.array([0]), seed=seed)
        seen += not np.array_equal(ours, theirs)
        assert np.array_equal(boxes, expected)
    assert seen == changed
