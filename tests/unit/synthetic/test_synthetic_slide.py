"""The slide is decided by its specification and the place, and its truth is what was drawn."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from models.synthetic import (
    CELL_TYPES,
    STAIN_NAMES,
    BadRequestError,
    Optics,
    SlideSpec,
    TruthCell,
    VirtualSlide,
    generate_field,
)
from models.synthetic.placement import Plane

UM_PER_PX = 0.083
SCRIPT = """
import hashlib
from models.synthetic import generate_field
field = generate_field(21, width_px=160, height_px=120)
print(hashlib.sha256(field.image.tobytes() + repr(field.cells).encode()).hexdigest())
"""


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def whole(cells: list[TruthCell]) -> dict[str, TruthCell]:
    return {cell.cell_id: cell for cell in cells if cell.visible_ratio == 1.0}


def test_one_seed_gives_the_same_bytes_in_another_process() -> None:
    field = generate_field(21, width_px=160, height_px=120)
    here = hashlib.sha256(field.image.tobytes() + repr(field.cells).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, timeout=60,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        assert there.stdout.strip() == here


def test_another_seed_gives_another_slide() -> None:
    first = VirtualSlide(SlideSpec(seed=1)).render(x_um=0, y_um=0, width_px=160, height_px=120)
    second = VirtualSlide(SlideSpec(seed=2)).render(x_um=0, y_um=0, width_px=160, height_px=120)
    assert not np.array_equal(first.image, second.image)


def test_two_views_that_overlap_show_the_same_pixels_and_the_same_cells() -> None:
    slide, step_px = VirtualSlide(SlideSpec(seed=3, wbc_per_field_mean=2.5)), 137
    first = slide.render(x_um=0.0, y_um=0.0, um_per_px=UM_PER_PX)
    second = slide.render(x_um=step_px * UM_PER_PX, y_um=0.0, um_per_px=UM_PER_PX)
    assert np.array_equal(first.image[:, step_px:], second.image[:, :-step_px])
    ours, theirs = whole(first.cells), whole(second.cells)
    shared = set(ours) & set(theirs)
    assert len(shared) >= 5
    for cell_id in shared:
        x1, y1, x2, y2 = ours[cell_id].box
        assert theirs[cell_id].box == (x1 - step_px, y1, x2 - step_px, y2)
        assert theirs[cell_id].cell_type == ours[cell_id].cell_type


def test_the_order_of_visits_changes_nothing() -> None:
    places = [(0.0, 0.0), (200.0, -90.0), (40.0, 30.0), (-64.0, 0.0)]
    forth, back = VirtualSlide(SlideSpec(seed=4)), VirtualSlide(SlideSpec(seed=4))
    seen = {p: forth.render(x_um=p[0], y_um=p[1], width_px=200, height_px=150) for p in places}
    for place in reversed(places):
        again = back.render(x_um=place[0], y_um=place[1], width_px=200, height_px=150)
        assert np.array_equal(again.image, seen[place].image)
        assert again.cells == seen[place].cells


def test_the_truth_without_the_image_is_the_same() -> None:
    slide = VirtualSlide(SlideSpec(seed=5))
    assert slide.cells_in(x_um=10.0, y_um=20.0) == slide.render(x_um=10.0, y_um=20.0).cells


@pytest.mark.parametrize("cls", ["RBC", "WBC", "Platelets"])
def test_boxes_are_tight_round_what_the_picture_shows(cls: str) -> None:
    """The box is compared with pixels that differ from an empty slide: not with the generator's own mask."""
    counts = {"RBC": "rbc_per_field_mean", "WBC": "wbc_per_field_mean", "Platelets": "platelets_per_field_mean"}
    nothing = dict.fromkeys(counts.values(), 0.0)
    # Pallor would leave a ring, and a wide spread would let cells touch.
    spec = SlideSpec(seed=6, pallor_ratio=0.1, rbc_overlap_ratio=0.0, **{**nothing, counts[cls]: 2.0})
    view = VirtualSlide(spec).render(x_um=0.0, y_um=0.0, width_px=1400, height_px=1000, um_per_px=UM_PER_PX)
    empty = VirtualSlide(SlideSpec(seed=6, **nothing)).render(
        x_um=0.0, y_um=0.0, width_px=1400, height_px=1000, um_per_px=UM_PER_PX
    )
    darker = empty.image.astype(int).sum(axis=2) - view.image.astype(int).sum(axis=2)
    checked = 0
    for cell in whole(view.cells).values():
        x1, y1, x2, y2 = (int(v) for v in cell.box)
        margin = 8
        if min(x1, y1) < margin or x2 > 1400 - margin or y2 > 1000 - margin:
            continue
        if any(o is not cell and iou(tuple(np.add(cell.box, (-9, -9, 9, 9))), o.box) > 0 for o in view.cells):
            continue
        around = darker[y1 - margin : y2 + margin, x1 - margin : x2 + margin]
        ys, xs = np.nonzero(around > 20)
        drawn = (
            x1 - margin + xs.min(), y1 - margin + ys.min(), x1 - margin + xs.max() + 1, y1 - margin + ys.max() + 1,
        )  # fmt: skip
        assert iou(cell.box, drawn) >= 0.9
        checked += 1
    assert checked >= 3


def test_a_box_is_the_tight_one_of_the_body() -> None:
    slide = VirtualSlide(SlideSpec(seed=7))
    left, top = round(30.0 / UM_PER_PX), round(30.0 / UM_PER_PX)
    for cell in whole(slide.cells_in(x_um=30.0, y_um=30.0, um_per_px=UM_PER_PX)).values():
        body, (corner_x, corner_y) = slide.cell_mask(cell, um_per_px=UM_PER_PX)
        ys, xs = np.nonzero(body)
        box = (corner_x - left + xs.min(), corner_y - top + ys.min(),
               corner_x - left + xs.max() + 1, corner_y - top + ys.max() + 1)  # fmt: skip
        assert cell.box == tuple(float(v) for v in box)


def test_a_cell_cut_by_the_frame_says_how_much_of_it_is_seen() -> None:
    slide = VirtualSlide(SlideSpec(seed=8, wbc_per_field_mean=0.0))
    wide = whole(slide.cells_in(x_um=0.0, y_um=0.0, width_px=800, height_px=600, um_per_px=UM_PER_PX))
    cell = next(c for c in wide.values() if c.cls == "RBC")
    middle_px = round((cell.box[0] + cell.box[2]) / 2)
    cut = slide.cells_in(x_um=middle_px * UM_PER_PX, y_um=0.0, width_px=800, height_px=600, um_per_px=UM_PER_PX)
    half = next(c for c in cut if c.cell_id == cell.cell_id)
    assert half.box[0] == 0.0
    assert half.visible_ratio == pytest.approx(0.5, abs=0.12)
    assert all(0.0 < c.visible_ratio <= 1.0 and c.box[2] > c.box[0] and c.box[3] > c.box[1] for c in cut)


def test_boxes_scale_with_the_microscope() -> None:
    slide = VirtualSlide(SlideSpec(seed=9))
    for um_per_px in (0.05, 0.1, 0.2, 0.35):
        size_px = (round(60 / um_per_px), round(45 / um_per_px))
        view = slide.render(x_um=0.0, y_um=0.0, width_px=size_px[0], height_px=size_px[1], um_per_px=um_per_px)
        reds = [c for c in whole(view.cells).values() if c.cls == "RBC"]
        sides_um = [max(c.box[2] - c.box[0], c.box[3] - c.box[1]) * um_per_px for c in reds]
        assert len(reds) >= 5
        assert 7.0 < float(np.median(sides_um)) < 8.6
        assert view.image.shape == (size_px[1], size_px[0], 3)
        assert view.image.dtype == np.uint8


def test_white_cells_keep_clear_of_each_other_over_tile_borders() -> None:
    cells = Plane(SlideSpec(seed=10, wbc_per_field_mean=3.0)).cells_near(x0_um=0, y0_um=0, x1_um=400, y1_um=400)
    white = [c for c in cells if c.kind == "wbc"]
    assert len(white) > 100
    for k, one in enumerate(white):
        for other in white[k + 1 :]:
            away_um = np.hypot(one.x_um - other.x_um, one.y_um - other.y_um)
            assert away_um >= one.radius_um + other.radius_um + 0.99


@pytest.mark.parametrize(
    "wanted",
    [
        {"neutrophil": 0.55, "lymphocyte": 0.28, "monocyte": 0.09, "eosinophil": 0.05, "basophil": 0.03},
        dict.fromkeys(CELL_TYPES, 0.2),
        {"monocyte": 1.0},
    ],
)
def test_types_follow_the_differential(wanted: dict[str, float]) -> None:
    spec = SlideSpec(
        seed=12, differential=wanted, wbc_per_field_mean=3.0, rbc_per_field_mean=0.0, platelets_per_field_mean=0.0
    )
    cells = Plane(spec).cells_near(x0_um=0, y0_um=0, x1_um=1000, y1_um=1000)
    types = [c.cell_type for c in cells if c.kind == "wbc"]
    assert len(types) > 1000
    for cell_type in CELL_TYPES:
        share = wanted.get(cell_type, 0.0)
        allowed = 4.0 * (share * (1.0 - share) / len(types)) ** 0.5
        assert abs(types.count(cell_type) / len(types) - share) <= allowed


def test_cells_are_as_many_as_asked_for() -> None:
    spec = SlideSpec(seed=13, wbc_per_field_mean=1.5, rbc_per_field_mean=15.0, platelets_per_field_mean=2.0)
    side_um = 600.0
    cells = [
        c
        for c in Plane(spec).cells_near(x0_um=0, y0_um=0, x1_um=side_um, y1_um=side_um)
        if 0 <= c.x_um < side_um and 0 <= c.y_um < side_um
    ]
    fields = side_um**2 / (640 * 480 * 0.083**2)
    per_field = {kind: sum(c.kind == kind for c in cells) / fields for kind in ("wbc", "rbc", "platelet")}
    assert per_field["wbc"] == pytest.approx(1.5, rel=0.15)
    assert per_field["rbc"] == pytest.approx(15.0, rel=0.1)
    assert per_field["platelet"] == pytest.approx(2.0, rel=0.2)


def test_ambiguous_cells_are_flagged_and_keep_their_type() -> None:
    spec = SlideSpec(seed=14, ambiguous_ratio=1.0, wbc_per_field_mean=3.0)
    white = [c for c in VirtualSlide(spec).cells_in(x_um=0, y_um=0, width_px=1000, height_px=800) if c.cls == "WBC"]
    assert white
    assert all(c.ambiguous and c.cell_type in CELL_TYPES for c in white)
    plain = VirtualSlide(SlideSpec(seed=14)).cells_in(x_um=0, y_um=0, width_px=1000, height_px=800)
    assert not any(c.ambiguous for c in plain)


def test_smudges_are_drawn_and_are_not_cells() -> None:
    none = VirtualSlide(SlideSpec(seed=15, wbc_per_field_mean=0.0)).render(x_um=0, y_um=0, width_px=900, height_px=900)
    some = VirtualSlide(SlideSpec(seed=15, wbc_per_field_mean=0.0, smudges_per_field_mean=2.0)).render(
        x_um=0, y_um=0, width_px=900, height_px=900
    )
    assert some.cells == none.cells
    assert int((some.image.astype(int) - none.image).min()) < -20


@pytest.mark.parametrize("stain", STAIN_NAMES)
def test_a_nucleus_is_darker_than_a_red_cell_and_a_red_cell_than_the_ground(stain: str) -> None:
    palette = SlideSpec(stain=stain).palette()
    assert sum(palette.chromatin_dark) < sum(palette.red) < 3.0
    pale = SlideSpec(stain=stain, stain_intensity_ratio=0.6).palette()
    assert sum(pale.red) > sum(palette.red)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"stain": "crystal_violet"}, "unknown stain"),
        ({"differential": {"neutrophil": 0.5}}, "sum to 1"),
        ({"differential": {"blast": 1.0}}, "unknown white-cell types"),
        ({"stain_tint": (1.0, 9.0, 1.0)}, "stain_tint"),
        ({"wbc_per_field_mean": -1.0}, "wbc_per_field_mean"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_specification_is_refused_with_its_reason(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SlideSpec.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong", [{"width_px": 0}, {"height_px": 100_000}, {"um_per_px": 0.0}, {"um_per_px": 3.0}, {"x_um": float("nan")}]
)
def test_a_view_that_cannot_be_drawn_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRequestError):
        VirtualSlide().render(**{"x_um": 0.0, "y_um": 0.0, **wrong})  # type: ignore[arg-type]


def test_generated_fields_hold_every_class_and_type() -> None:
    fields = [generate_field(seed, optics=Optics(noise_sigma=0.0)) for seed in range(12)]
    assert {c.cls for f in fields for c in f.cells} == {"RBC", "WBC", "Platelets"}
    assert {c.cell_type for f in fields for c in f.cells if c.cls == "WBC"} == set(CELL_TYPES)
    assert len({f.um_per_px for f in fields}) == len(fields)


def test_no_cell_is_drawn_further_out_than_it_says() -> None:
    """Otherwise a cell would appear in one view and be missing at the border of the next."""
    spec = SlideSpec(
        seed=16, rbc_shape_spread_ratio=0.25, rbc_size_spread_ratio=0.25, smudges_per_field_mean=1.0,
        platelets_per_field_mean=8.0,
    )  # fmt: skip
    slide = VirtualSlide(spec)
    for placed in Plane(spec).cells_near(x0_um=0.0, y0_um=0.0, x1_um=150.0, y1_um=150.0):
        sprite = slide._draw(placed, 0.2)
        height, width = sprite.body.shape
        reach_px = placed.reach_um / 0.2 + 3.0
        assert sprite.left_px >= placed.x_um / 0.2 - reach_px
        assert sprite.top_px >= placed.y_um / 0.2 - reach_px
        assert sprite.left_px + width <= placed.x_um / 0.2 + reach_px
        assert sprite.top_px + height <= placed.y_um / 0.2 + reach_px
        assert not sprite.body[[0, -1]].any()
        assert not sprite.body[:, [0, -1]].any()
