"""Light and sensor do what their settings say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.synthetic import Optics, SlideSpec, VirtualSlide
from models.synthetic.__main__ import main
from models.synthetic.slide import FieldTruth


@pytest.fixture(scope="module")
def view() -> FieldTruth:
    return VirtualSlide(SlideSpec(seed=11)).render(x_um=0.0, y_um=0.0, width_px=320, height_px=240)


def shot(view: FieldTruth, optics: Optics, *, seed: int = 0) -> np.ndarray:
    return optics.apply(view.image, np.random.default_rng(seed), um_per_px=view.um_per_px)


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def test_no_optics_leaves_the_view_as_it_is(view: FieldTruth) -> None:
    assert np.array_equal(shot(view, Optics(noise_sigma=0.0)), view.image)


def test_the_further_out_of_focus_the_less_sharp(view: FieldTruth) -> None:
    values = [sharpness(shot(view, Optics(noise_sigma=0.0, defocus_um=d))) for d in (0.0, 0.5, 1.0, 2.0)]
    # Further out the steps of 8 bits are all that is left to measure.
    assert all(later < earlier * 0.8 for earlier, later in pairwise(values))


def test_focus_is_lost_alike_on_both_sides(view: FieldTruth) -> None:
    above, below = (shot(view, Optics(noise_sigma=0.0, defocus_um=d)) for d in (-1.5, 1.5))
    assert np.array_equal(above, below)


def test_noise_has_the_deviation_asked_for_and_repeats_with_the_seed() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    optics = Optics(noise_sigma=5.0)
    noisy = optics.apply(grey, np.random.default_rng(1))
    assert float(noisy.astype(float).std()) == pytest.approx(5.0, rel=0.05)
    assert float(noisy.astype(float).mean()) == pytest.approx(128.0, abs=0.2)
    assert np.array_equal(noisy, optics.apply(grey, np.random.default_rng(1)))
    assert not np.array_equal(noisy, optics.apply(grey, np.random.default_rng(2)))


def test_vignetting_darkens_the_corners_and_not_the_middle() -> None:
    grey = np.full((201, 301, 3), 200, np.uint8)
    seen = Optics(noise_sigma=0.0, vignetting_ratio=0.4).apply(grey, np.random.default_rng(0))
    assert seen[100, 150, 0] == 200
    assert seen[0, 0, 0] == pytest.approx(120, abs=1)


def test_the_slope_brightens_one_side() -> None:
    grey = np.full((200, 300, 3), 150, np.uint8)
    seen = Optics(noise_sigma=0.0, slope_ratio=0.2, slope_rad=0.0).apply(grey, np.random.default_rng(0))
    assert int(seen[100, -1, 0]) - int(seen[100, 0, 0]) == pytest.approx(30, abs=2)


def test_gain_and_cast_scale_red_green_blue_in_this_order() -> None:
    grey = np.full((20, 20, 3), 100, np.uint8)
    seen = Optics(noise_sigma=0.0, gain=1.2, cast=(1.5, 1.0, 0.5)).apply(grey, np.random.default_rng(0))
    assert seen[5, 5].tolist() == [180, 120, 60]


def test_haze_lowers_contrast(view: FieldTruth) -> None:
    assert shot(view, Optics(noise_sigma=0.0, haze_ratio=0.5)).std() < 0.6 * view.image.std()


def test_the_picture_given_is_not_written_to(view: FieldTruth) -> None:
    before = view.image.copy()
    shot(view, Optics(defocus_um=1.0, gain=0.5, noise_sigma=9.0, haze_ratio=0.2, vignetting_ratio=0.3))
    assert np.array_equal(view.image, before)


def test_a_folder_that_cannot_be_made_is_said_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["--out", str(tmp_path / "file" / "pictures")]) == 1
    assert "file" in capsys.readouterr().err


def test_a_folder_of_fields_can_be_made_to_be_read(tmp_path: Path) -> None:
    assert main(["--fields", "2", "--out", str(tmp_path / "fields")]) == 0
    first, second = sorted((tmp_path / "fields").iterdir())
    assert first.suffix == second.suffix == ".png"
    assert first.read_bytes() != second.read_bytes()
