"""What the networks see in training is, byte for byte, what they see on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.bundle.manifest import CellClass, DetectorSpec, EmbedderSpec  # noqa: E402
from models.runtime.imaging import crop_cell, to_batch, window_for  # noqa: E402
from models.runtime.scale import FieldReader  # noqa: E402
from training.augment_cells import CellAugmenter, mixed_density, ramp, turned  # noqa: E402
from training.augment_fields import PAD_GREY  # noqa: E402
from training.config import CellAugment  # noqa: E402
from training.data.cells import plain_crops  # noqa: E402
from training.data.fields import collate  # noqa: E402
from training.data.generated import FieldExample  # noqa: E402
from training.data.white_cells import HOME, CellExample  # noqa: E402

pytestmark = pytest.mark.torch

SPEC = DetectorSpec(input_px=96, reg_bins=8, pad_value=PAD_GREY, thresholds=dict.fromkeys(CellClass, 0.3))


class Recorder:
    """A network that keeps what it was given and finds nothing."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def run(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        self.seen.append(tensor)
        return [np.full((1, 35, 96 // s, 96 // s), -9, np.float32) for s in SPEC.strides]


def field(height: int, width: int, seed: int = 0) -> FieldExample:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    boxes = np.array([[10, 12, 30, 40], [50, 20, 80, 60]], np.float32)
    return FieldExample(image, boxes, np.array([0, 1]), ("", "monocyte"), "g")


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (96, 96), (100, 80), (61, 83)])
def test_a_training_tensor_equals_the_device_tensor(height: int, width: int) -> None:
    device = Recorder()
    example = field(height, width)
    FieldReader(device, SPEC, 3).read(example.image)
    batch = collate([example], 96)
    assert batch.images.numpy().tobytes() == device.seen[0].tobytes()


def test_boxes_land_on_the_same_pixels_of_the_letterboxed_input() -> None:
    image = np.full((90, 120, 3), 255, np.uint8)
    image[30:60, 40:80] = 0
    example = FieldExample(image, np.array([[40, 30, 80, 60]], np.float32), np.array([1]), ("",), "g")
    batch = collate([example], 96)
    dark = np.nonzero(batch.images[0].mean(0).numpy() < 0.1)
    seen = [dark[1].min(), dark[0].min(), dark[1].max() + 1, dark[0].max() + 1]
    assert np.abs(batch.boxes[0, 0].numpy() - seen).max() <= 1.0


def test_fields_with_fewer_cells_are_filled_with_no_cell() -> None:
    empty = FieldExample(field(90, 120).image, np.empty((0, 4), np.float32), np.empty(0, np.int64), (), "g")
    batch = collate([field(90, 120), empty], 96)
    assert batch.labels.tolist() == [[0, 1], [-1, -1]]


def test_a_calibration_crop_equals_the_device_crop() -> None:
    example = field(90, 120)
    spec = EmbedderSpec(input_px=64, dimensions=4, window_rbc=2.4, window_box=1.3)
    left, top, right, bottom = (float(v) for v in example.boxes[1])
    box = (left, top, right, bottom)
    window_px = window_for(box, 25.0, spec)
    cell = CellExample(example.image, box, window_px, 2, HOME, "x")
    device = to_batch([crop_cell(example.image, box, window_for(box, 25.0, spec), 64)])
    assert plain_crops([cell], 64).numpy().tobytes() == device.tobytes()


def test_without_any_shaking_a_training_crop_is_the_device_crop_turned() -> None:
    still = CellAugment(shift_ratio=0, window_jitter=0, strong_probability=0)
    example = field(90, 120)
    box = (50.0, 20.0, 80.0, 60.0)
    crop = CellAugmenter(still, 64)(example.image, box, 60.0, seed=3).astype(int)
    device = crop_cell(example.image, box, 60.0, 64)
    gaps = [np.abs(turned(device, which).astype(int) - crop).mean() for which in range(8)]
    assert min(gaps) < 12
    assert sorted(gaps)[1] > 40


def test_crop_augmentation_is_repeatable_and_changes_the_look() -> None:
    augmenter, example = CellAugmenter(CellAugment(strong_probability=1.0), 64), field(90, 120)
    first = augmenter(example.image, (50, 20, 80, 60), 60.0, seed=1)
    assert np.array_equal(first, augmenter(example.image, (50, 20, 80, 60), 60.0, seed=1))
    assert not np.array_equal(first, augmenter(example.image, (50, 20, 80, 60), 60.0, seed=2))
    assert first.dtype == np.uint8


def test_density_mixing_without_strength_changes_nothing() -> None:
    x = np.random.default_rng(0).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    assert np.abs(mixed_density(x, np.random.default_rng(1), 0.0) - x).max() < 1.0
    assert ramp(8, np.random.default_rng(0)).shape == (8, 8)
