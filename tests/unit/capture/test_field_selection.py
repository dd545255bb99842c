from __future__ import annotations

import numpy as np
import pytest

from edge_agent.capture.measure import thumbnail
from edge_agent.capture.selection import FieldSelector, Selection, overlap_ratio
from models.synthetic import Optics, SlideSpec, VirtualSlide

WIDTH_UM, HEIGHT_UM = 640 * 0.083, 480 * 0.083
SLIDE = VirtualSlide(SlideSpec(seed=11))


def seen(x_ratio: float, y_ratio: float = 0.0, *, noise_seed: int = 0) -> np.ndarray:
    view = SLIDE.render(x_um=x_ratio * WIDTH_UM, y_um=y_ratio * HEIGHT_UM)
    return thumbnail(Optics(noise_sigma=3.0).apply(view.image, np.random.default_rng(noise_seed)))


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.3), (0.6, 0.0)])
def test_the_common_area_of_two_fields_is_measured(dx: float, dy: float) -> None:
    measured = overlap_ratio(seen(0), seen(dx, dy, noise_seed=1), peak_above_ratio=0.7)
    assert measured == pytest.approx((1 - dx) * (1 - dy), abs=0.05)


def test_fields_side_by_side_have_nothing_in_common() -> None:
    assert max(overlap_ratio(seen(n * 1.1), seen(n * 1.1 + 1.1), peak_above_ratio=0.7) for n in range(8)) == 0.0


def test_a_field_is_counted_once_when_the_stage_rests_and_again_only_after_a_move() -> None:
    selector = FieldSelector()
    path = [0.0] * 8 + [0.2, 0.5, 0.8] + [1.1] * 8 + [1.3] * 8
    said = [selector.offer(seen(x, noise_seed=n), n * 0.1) for n, x in enumerate(path)]
    assert said.count(Selection.NEW_FIELD) == 2
    assert said[8:11] == [Selection.MOVING] * 3
    assert Selection.NEW_FIELD in said[11:19]
    assert said[-1] is Selection.SAME_FIELD
