from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.capture.gate import AnalysisSummary, GateReason, QualityGate
from edge_agent.capture.measure import measure
from models.runtime.imaging import read_image
from models.synthetic import Optics, SlideSpec, VirtualSlide


def generated(seed: int, **optics: Any) -> np.ndarray:
    view = VirtualSlide(SlideSpec(seed=seed)).render(x_um=0.0, y_um=0.0)
    return Optics(**optics).apply(view.image, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_sharp_generated_field_passes(seed: int) -> None:
    assert QualityGate().judge(measure(generated(seed))) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("optics", "reason"),
    [
        ({"defocus_um": 4.0}, GateReason.OUT_OF_FOCUS),
        ({"defocus_um": 5.0, "noise_sigma": 3.0}, GateReason.OUT_OF_FOCUS),
        ({"gain": 0.25}, GateReason.TOO_DARK),
        ({"gain": 1.6}, GateReason.TOO_BRIGHT),
        ({"cast": (1.0, 0.5, 0.9)}, GateReason.COLOUR_CAST),
    ],
)
def test_a_spoilt_generated_field_is_caught_for_the_right_reason(
    seed: int, optics: dict[str, float], reason: GateReason
) -> None:
    assert reason in QualityGate().judge(measure(generated(seed, **optics)))


def test_focus_hardly_depends_on_light_or_noise() -> None:
    plain = measure(generated(1)).focus
    assert measure(generated(1, gain=0.6)).focus == pytest.approx(plain, rel=0.15)
    assert measure(generated(1, noise_sigma=5.0)).focus == pytest.approx(plain, rel=0.15)


def test_an_empty_field_has_no_focus() -> None:
    assert measure(np.full((48, 64, 3), 200, np.uint8)).focus == 0.0


FIELD_PX = 640 * 480


def test_cells_are_judged_by_number_and_size() -> None:
    fine = measure(generated(1))
    gate = QualityGate()
    assert gate.judge(fine, AnalysisSummary(20, 1, 1, 90.0, FIELD_PX)) == []
    assert gate.judge(fine, AnalysisSummary(1, 0, 0, None, FIELD_PX)) == [GateReason.TOO_FEW_CELLS]
    assert gate.judge(fine, AnalysisSummary(20, 0, 0, 12.0, FIELD_PX)) == [GateReason.RED_CELL_SIZE]
    assert gate.judge(fine, AnalysisSummary(20, 0, 0, 90.0, FIELD_PX), um_per_px=0.2) == [GateReason.RED_CELL_SIZE]
    assert gate.judge(fine, AnalysisSummary(20, 0, 0, 12.0, FIELD_PX), um_per_px=0.6) == []


def test_density_is_a_share_of_the_field_whatever_the_camera() -> None:
    fine, gate = measure(generated(1)), QualityGate()
    assert gate.judge(fine, AnalysisSummary(80, 2, 30, 80.0, FIELD_PX)) == [GateReason.TOO_DENSE], "they do not fit"
    assert gate.judge(fine, AnalysisSummary(30, 2, 900, 80.0, FIELD_PX)) == [], "platelets cover nothing"
    large_px = 4000 * 3000
    assert gate.judge(fine, AnalysisSummary(1200, 80, 30, 80.0, large_px)) == [], "more cells, no denser"
    assert gate.judge(fine, AnalysisSummary(3000, 80, 30, 80.0, large_px)) == [GateReason.TOO_DENSE]
    assert gate.judge(fine, AnalysisSummary(900, 0, 0, None, FIELD_PX)) == [], "the size of a red cell is not known"


def test_the_generated_field_of_twelve_megapixels_is_no_denser_than_its_part() -> None:
    slide = VirtualSlide(SlideSpec(seed=3))
    densities = []
    for width_px, height_px in ((640, 480), (4000, 3000)):
        view = slide.cells_in(x_um=0.0, y_um=0.0, width_px=width_px, height_px=height_px)
        red = [cell for cell in view if cell.cls == "RBC"]
        sides = [max(cell.box[2] - cell.box[0], cell.box[3] - cell.box[1]) for cell in red]
        summary = AnalysisSummary(len(red), 0, 0, float(np.median(sides)), width_px * height_px)
        assert QualityGate().judge(measure(generated(1)), summary) == []
        densities.append(summary.density_ratio)
    assert len(red) > 400
    assert densities[1] == pytest.approx(densities[0], rel=0.35)


@pytest.mark.data
@pytest.mark.slow
def test_real_fields_pass_and_their_defocused_copies_do_not() -> None:
    root = Path(os.environ["AHS_DATA_DIR"]) / "det_txl"
    images = json.loads((root / "train.json").read_text())["images"][::8]
    gate, passed, caught = QualityGate(), 0, 0
    rng = np.random.default_rng(1)
    for entry in images:
        image = read_image(root / entry["file_name"])
        passed += not gate.judge(measure(image))
        blurred = cv2.GaussianBlur(image, (0, 0), 4.0 * max(image.shape) / 480).astype(np.float32)
        noisy = np.clip(blurred + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        caught += GateReason.OUT_OF_FOCUS in gate.judge(measure(noisy))
    assert passed / len(images) >= 0.98
    assert caught / len(images) >= 0.95
