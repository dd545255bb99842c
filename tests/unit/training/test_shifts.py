"""Shifts: the same seed gives the same field, boxes stay on their cells, every strength is written down."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.generated import FieldExample, generated_example
from training.shifts import AS_IT_IS, SHIFTS, Shift

NAMES = [shift.name for shift in SHIFTS]


@pytest.fixture(scope="module")
def field() -> FieldExample:
    return generated_example(970_000, width_px=320, height_px=240)


@pytest.mark.parametrize("shift", SHIFTS, ids=NAMES)
def test_the_same_seed_gives_the_same_field_and_nothing_given_is_touched(shift: Shift, field: FieldExample) -> None:
    image, boxes = field.image.copy(), field.boxes.copy()
    once, again = shift.apply(image, boxes, 5), shift.apply(image, boxes, 5)
    assert (once[0] == again[0]).all()
    assert (once[1] == again[1]).all()
    assert (image == field.image).all()
    assert (boxes == field.boxes).all()
    assert once[0].dtype == np.uint8
    assert once[1].dtype == np.float32
    assert once[0].shape != image.shape or (once[0] != image).any()


@pytest.mark.parametrize("shift", [s for s in SHIFTS if s.kind != "scale"], ids=lambda s: s.name)
def test_a_change_of_look_moves_no_box(shift: Shift, field: FieldExample) -> None:
    image, boxes = shift.apply(field.image, field.boxes, 0)
    assert image.shape == field.image.shape
    assert (boxes == field.boxes).all()


@pytest.mark.parametrize("shift", [s for s in SHIFTS if s.kind == "scale"], ids=lambda s: s.name)
def test_a_change_of_size_takes_the_boxes_along(shift: Shift) -> None:
    image = np.full((200, 300, 3), 255, np.uint8)
    boxes = np.array([[60, 40, 120, 100], [200, 120, 260, 180]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 0
    resized, moved = shift.apply(image, boxes, 0)
    assert resized.shape[1] / 300 == pytest.approx(shift.strength, abs=0.01)
    dark = np.argwhere(resized[..., 0] < 128)
    for x1, y1, x2, y2 in moved:
        inside = dark[(dark[:, 0] >= y1 - 2) & (dark[:, 0] <= y2 + 2) & (dark[:, 1] >= x1 - 2) & (dark[:, 1] <= x2 + 2)]
        edges = (*inside.min(axis=0), *(inside.max(axis=0) + 1))
        assert edges == pytest.approx((y1, x1, y2, x2), abs=1.0)


@pytest.mark.parametrize("name", ["stain_mix", "cast", "noise", "haze"])
def test_a_random_shift_differs_by_seed(name: str, field: FieldExample) -> None:
    shift = SHIFTS[NAMES.index(name)]
    assert (shift.apply(field.image, field.boxes, 1)[0] != shift.apply(field.image, field.boxes, 2)[0]).any()


def test_each_shift_says_its_strength_and_has_its_own_name() -> None:
    assert len(set(NAMES)) == len(SHIFTS)
    assert all(shift.words and shift.kind and shift.strength > 0 for shift in SHIFTS)
    assert {s.kind for s in SHIFTS} >= {
        *("stain", "white balance", "blur", "noise", "vignetting", "scale", "compression", "brightness", "contrast"),
        "haze",
    }


def test_the_stated_strengths_are_what_happens() -> None:
    grey = np.full((64, 64, 3), 120, np.uint8)
    none = np.empty((0, 4), np.float32)
    by_name = dict(zip(NAMES, SHIFTS, strict=True))
    assert (by_name["brightness_dark"].apply(grey, none, 0)[0] == 90).all()
    assert by_name["noise"].apply(grey, none, 0)[0].std() == pytest.approx(12.0, abs=0.5)
    corner = by_name["vignetting"].apply(grey, none, 0)[0]
    assert corner[0, 0, 0] == round(120 * 0.6)
    assert corner[32, 32, 0] >= 119
    warm = by_name["white_balance_warm"].apply(grey, none, 0)[0][0, 0]
    assert warm.tolist() == [138, 120, 102]
    assert (AS_IT_IS.apply(grey, none, 0)[0] == grey).all()
