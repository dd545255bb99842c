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
from models.runtime.matching import iou_matrix
from models.runtime.results import FloatArray
from models.runtime.scale import MAX_TILES, OVERLAP_RBC, FieldReader, median_rbc_px, plan_tiles
from models.runtime.session import Network
from models.synthetic import Optics, SlideSpec, VirtualSlide
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
    assert 3 <= passes <= MAX_TILES + 6
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
    assert 1 <= len(tiles) <= MAX_TILES
    columns = sorted({(t.x1, t.x2) for t in tiles})
    rows = sorted({(t.y1, t.y2) for t in tiles})
    assert len(columns) * len(rows) == len(tiles)
    for spans, length in ((columns, width), (rows, height)):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (_, end), (start, _) in pairwise(spans):
            needed = min(OVERLAP_RBC * rbc, SPEC.input_px / scale / 2)
            assert end - start >= needed - 2
    assert all(max(t.x2 - t.x1, t.y2 - t.y1) * scale <= SPEC.input_px + 1 for t in tiles)


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
