"""Fields of any size and magnification."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Bundle, CellClass, DetectorSpec, read_bundle
from models.runtime import Pipeline, match_detections, open_networks
from models.runtime.detector import Candidates
from models.runtime.golden import MIN_VISIBLE_RATIO
from models.runtime.matching import iou_matrix
from models.runtime.results import FloatArray
from models.runtime.scale import (
    MAX_ENLARGEMENT_RATIO,
    MAX_TILES,
    OVERLAP_RBC,
    TIGHT_OVERLAP_RBC,
    USUAL_TILES,
    FieldReader,
    covered,
    median_rbc_px,
    plan_tiles,
)
from models.runtime.session import Network
from models.synthetic import Optics, SlideSpec, VirtualSlide, generate_field
from models.zoo import shipped

SPEC = DetectorSpec(input_px=320, thresholds=dict.fromkeys(CellClass, 0.5), rbc_px=(24.0, 110.0))


def _read(bundle: Bundle, *, width_px: int, height_px: int, rbc_px: float, pitch_px: float) -> tuple[float, int, float]:
    """F1 against what was drawn, passes, red-cell diameter."""
    from tests.unit.runtime.blob_bundle import draw_field

    field = draw_field(width_px=width_px, height_px=height_px, rbc_px=rbc_px, pitch_px=pitch_px)
    seen = Pipeline(bundle).analyse(field.image)
    found = match_detections(
        boxes=[d.box for d in seen.detections],
        scores=[d.score for d in seen.detections],
        classes=[str(d.cls) for d in seen.detections],
        true_boxes=[cell.box for cell in field.cells],
        true_classes=[cell.cls for cell in field.cells],
    )
    return found.f1, seen.passes, seen.rbc_diameter_px or 0.0


def test_a_field_of_the_usual_size_takes_one_pass(blob_bundle: Bundle) -> None:
    f1, passes, rbc_px = _read(blob_bundle, width_px=640, height_px=480, rbc_px=60, pitch_px=105)
    assert passes == 1
    assert f1 > 0.95
    assert rbc_px == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize("rbc_px", [90.0, 130.0])
def test_cells_that_are_too_large_are_read_again_at_a_smaller_scale(blob_bundle: Bundle, rbc_px: float) -> None:
    f1, passes, found_px = _read(blob_bundle, width_px=640, height_px=480, rbc_px=rbc_px, pitch_px=1.6 * rbc_px)
    assert passes == 2
    assert f1 > 0.95
    assert found_px == pytest.approx(rbc_px, rel=0.06)


@pytest.mark.parametrize(
    ("width_px", "height_px", "rbc_px"),
    [(640, 480, 20.0), (1920, 1080, 60.0), (1920, 1080, 40.0), (2560, 400, 40.0), (400, 2560, 40.0)],
)
def test_cells_that_are_too_small_are_read_in_tiles(
    blob_bundle: Bundle, width_px: int, height_px: int, rbc_px: float
) -> None:
    f1, passes, found_px = _read(
        blob_bundle, width_px=width_px, height_px=height_px, rbc_px=rbc_px, pitch_px=2.5 * rbc_px
    )
    assert 3 <= passes <= USUAL_TILES + 6
    assert f1 > 0.95
    assert found_px == pytest.approx(rbc_px, rel=0.08)


def test_a_large_empty_field_costs_a_few_passes_and_gives_nothing(blob_bundle: Bundle) -> None:
    seen = Pipeline(blob_bundle).analyse(np.full((1500, 2000, 3), 200, np.uint8))
    assert seen.detections == ()
    assert seen.rbc_diameter_px is None
    assert seen.passes <= 6


def test_a_small_empty_field_costs_four_passes(blob_bundle: Bundle) -> None:
    assert Pipeline(blob_bundle).analyse(np.full((480, 640, 3), 200, np.uint8)).passes == 4


@pytest.mark.parametrize("um_per_px", [0.2, 0.3])
@pytest.mark.parametrize(("width_px", "height_px"), [(640, 480), (1280, 960)])
def test_a_low_magnification_is_read_by_enlarging_it(width_px: int, height_px: int, um_per_px: float) -> None:
    slide = VirtualSlide(SlideSpec(seed=3))
    view = slide.render(x_um=100, y_um=100, width_px=width_px, height_px=height_px, um_per_px=um_per_px)
    image = Optics(noise_sigma=2.0).apply(view.image, np.random.default_rng(0), um_per_px=um_per_px)
    true = sum(cell.cls == CellClass.RBC for cell in view.cells)
    seen = Pipeline(read_bundle(shipped("edge"))).analyse(image)
    assert len(seen.counted(CellClass.RBC)) == pytest.approx(true, rel=0.05)
    assert seen.rbc_diameter_px == pytest.approx(7.6 / um_per_px, rel=0.05)


class _Shortsighted:
    """A detector that sees nothing where one cell fills most of its input."""

    def __init__(self, inner: Network) -> None:
        self._inner = inner

    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        (found,) = self._inner.run(tensor)
        coloured = (np.ptp(tensor[0], axis=0) > 0.3).mean()
        return [found if coloured < 0.2 else np.full_like(found, -20)]


def test_a_huge_cell_alone_in_a_field_is_found_at_half_the_scale(blob_bundle: Bundle) -> None:
    from tests.unit.runtime.blob_bundle import draw_field

    field = draw_field(width_px=400, height_px=400, rbc_px=260, pitch_px=400)
    network = _Shortsighted(open_networks(blob_bundle).detector)
    reading = FieldReader(network, blob_bundle.manifest.detector, 3).read(field.image)
    assert reading.passes == 4
    assert len(reading.found) == 1
    assert iou_matrix(reading.found.boxes, [field.cells[0].box])[0, 0] > 0.8


@given(width=st.integers(16, 9000), height=st.integers(16, 9000), rbc=st.floats(2.0, 400.0))
def test_tiles_cover_the_frame_overlap_and_are_bounded(width: int, height: int, rbc: float) -> None:
    scale, tiles = plan_tiles(width_px=width, height_px=height, rbc_px=rbc, spec=SPEC)
    low, _ = SPEC.rbc_px
    dense = scale * rbc <= low <= MAX_ENLARGEMENT_RATIO * rbc
    assert 1 <= len(tiles) <= (MAX_TILES if dense else USUAL_TILES)
    ratio = TIGHT_OVERLAP_RBC if dense else OVERLAP_RBC
    columns = sorted({(t.x1, t.x2) for t in tiles})
    rows = sorted({(t.y1, t.y2) for t in tiles})
    assert len(columns) * len(rows) == len(tiles)
    for spans, length in ((columns, width), (rows, height)):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (_, end), (start, _) in pairwise(spans):
            needed = min(ratio * rbc, SPEC.input_px / scale / 2)
            assert end - start >= needed - 2
    assert all(max(t.x2 - t.x1, t.y2 - t.y1) * scale <= SPEC.input_px + 1 for t in tiles)


@given(width=st.integers(16, 9000), height=st.integers(16, 9000), rbc=st.floats(6.0, 400.0))
def test_red_cells_reach_the_range_unless_every_tile_is_spent(width: int, height: int, rbc: float) -> None:
    scale, tiles = plan_tiles(width_px=width, height_px=height, rbc_px=rbc, spec=SPEC)
    # A step of the search is 5 %, and the next number of tiles may be up to four times as many for a narrow frame.
    assert scale * rbc >= SPEC.rbc_px[0] * 0.999 or len(tiles) > MAX_TILES / 4


@pytest.mark.parametrize(
    ("width_px", "height_px", "rbc_px", "tiles", "at_input_px"),
    [(640, 480, 20.0, 35, 47.5), (1920, 1080, 60.0, 32, 49.9), (2560, 1920, 60.0, 35, 37.2)],
)
def test_where_few_tiles_suffice_no_more_are_spent(
    width_px: int, height_px: int, rbc_px: float, tiles: int, at_input_px: float
) -> None:
    spec = SPEC.model_copy(update={"rbc_px": (36.0, 84.0)})
    scale, planned = plan_tiles(width_px=width_px, height_px=height_px, rbc_px=rbc_px, spec=spec)
    assert len(planned) == tiles
    assert scale * rbc_px == pytest.approx(at_input_px, abs=0.05)


@pytest.mark.parametrize(
    ("width_px", "height_px", "rbc_px", "most"),
    [(4000, 3000, 61.0, 75), (9200, 6900, 61.0, 400), (4000, 3000, 30.0, 300)],
)
def test_a_field_of_very_many_cells_is_read_at_the_low_end_of_the_range(
    width_px: int, height_px: int, rbc_px: float, most: int
) -> None:
    spec = SPEC.model_copy(update={"rbc_px": (36.0, 84.0)})
    scale, planned = plan_tiles(width_px=width_px, height_px=height_px, rbc_px=rbc_px, spec=spec)
    assert scale * rbc_px == pytest.approx(36.0)
    assert USUAL_TILES < len(planned) <= most


@pytest.mark.parametrize("role", ["edge", "second-opinion"])
def test_both_halves_of_a_cut_white_cell_overlap_so_far_that_one_goes(role: str) -> None:
    assert read_bundle(shipped(role)).manifest.detector.nms_iou < TIGHT_OVERLAP_RBC / OVERLAP_RBC


def test_specks_that_no_enlargement_makes_a_red_cell_get_no_more_than_the_usual_work() -> None:
    _, planned = plan_tiles(width_px=4000, height_px=3000, rbc_px=3.0, spec=SPEC)
    assert len(planned) <= USUAL_TILES


@pytest.mark.slow
def test_a_dense_field_of_twelve_megapixels_keeps_its_cells() -> None:
    field = generate_field(
        11, width_px=4000, height_px=3000, um_per_px=0.125, spec=SlideSpec(seed=11, rbc_per_field_mean=9.0)
    )
    seen = Pipeline(read_bundle(shipped("edge"))).analyse(field.image)
    assert USUAL_TILES < seen.passes < 80
    for cls, least in ((CellClass.RBC, 0.99), (CellClass.WBC, 0.95)):
        true = [cell for cell in field.cells if cell.cls == cls and cell.visible_ratio >= MIN_VISIBLE_RATIO]
        found = seen.counted(cls)
        matched = match_detections(
            boxes=[d.box for d in found],
            scores=[d.score for d in found],
            classes=[d.cls for d in found],
            true_boxes=[cell.box for cell in true],
            true_classes=[cls] * len(true),
        )
        assert matched.recall >= least
        assert matched.precision >= 0.95
        assert len(found) == pytest.approx(len(true), rel=0.03)
        assert cls is not CellClass.RBC or len(true) > 600


def test_cut_boxes_are_compared_in_parts_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)

    def boxes(count: int, side_px: float) -> Candidates:
        corner = rng.uniform(0, 500, (count, 2))
        size = rng.uniform(side_px / 3, side_px, (count, 2))
        drawn = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        return Candidates(drawn, np.full(count, 0.9, np.float32), rng.integers(0, 2, count).astype(np.int32))

    fragments, complete = boxes(300, 30), boxes(300, 90)
    whole = covered(fragments, complete)
    assert 0 < whole.sum() < 300
    monkeypatch.setattr("models.runtime.scale.COVER_CHUNK", 7)
    np.testing.assert_array_equal(covered(fragments, complete), whole)
    assert not covered(fragments, complete.take(np.zeros(300, bool))).any()
    assert len(covered(fragments.take(np.zeros(300, bool)), complete)) == 0


def test_the_diameter_is_taken_from_whole_and_counted_red_cells_only() -> None:
    boxes = np.array(
        [
            [10, 10, 50, 40],  # 40 wide
            [60, 10, 90, 60],  # 50 high
            [100, 10, 160, 60],  # 60 wide
            [0, 100, 10, 190],  # at the frame's edge
            [20, 100, 120, 195],  # white cell
            [20, 100, 100, 190],  # too weak
        ],
        np.float32,
    )
    found = Candidates(
        boxes, np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.2], np.float32), np.array([0, 0, 0, 0, 1, 0], np.int32)
    )
    assert median_rbc_px(found, SPEC, width_px=200, height_px=200, min_count=3) == 50.0
    assert median_rbc_px(found, SPEC, width_px=200, height_px=200, min_count=4) is None
