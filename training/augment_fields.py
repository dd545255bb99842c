"""Augmentation of whole fields; boxes move with the pixels."""

from __future__ import annotations

import albumentations as alb
import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.results import FloatArray, ImageRGB
from training.augment_look import relit
from training.config import FieldAugment

PAD_GREY = 114
"""Grey of what lies beyond the field, the same as the letterbox's."""
NOISE_TILE_PX = 1024
NOISE_TILE_SIGMA = 24.0
"""Deviation of the stored noise tile, grey levels; a field takes a scaled piece of it."""
MAX_NOISE_SIGMA = 7.0


class FieldAugmenter:
    """Flips, quarter turns, scale and shift, colour, blur, noise; repeatable by seed."""

    def __init__(self, config: FieldAugment) -> None:
        shift = config.shift_ratio
        steps = [
            alb.D4(p=1.0),
            alb.Affine(
                scale=config.scale,
                translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                fill=PAD_GREY,
                p=0.8,
            ),
            alb.HueSaturationValue(
                hue_shift_limit=config.hue_shift,
                sat_shift_limit=config.saturation_shift,
                val_shift_limit=config.value_shift,
                p=0.8,
            ),
            alb.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.5), p=config.blur_probability),
        ]
        boxes = alb.BboxParams(
            format="pascal_voc",
            label_fields=["labels"],
            min_visibility=config.min_visible_ratio,
            min_area=9.0,
            clip=True,
            filter_invalid_bboxes=True,
        )
        self._transform = alb.Compose(steps, bbox_params=boxes)
        self._look = config.look
        self._noise_probability = config.noise_probability
        # Drawing noise afresh costs more than everything else together: each field takes a random piece of a tile.
        tile = np.random.default_rng(0).normal(0, NOISE_TILE_SIGMA, (NOISE_TILE_PX, NOISE_TILE_PX, 3))
        self._tile = tile.clip(-127, 127).astype(np.float32)

    def __call__(
        self, image: ImageRGB, boxes: FloatArray, labels: NDArray[np.int64], *, seed: int
    ) -> tuple[ImageRGB, FloatArray, NDArray[np.int64]]:
        """Augment one field.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the image.
            labels: (N,) class indices.
            seed: the same seed gives the same result.

        Returns:
            The new image, the boxes still visible in it (pixels of the new image), their labels.
        """
        rng = np.random.default_rng(seed)
        if self._look is not None and rng.random() < self._look.probability:
            image = relit(image, rng, self._look)
        self._transform.set_random_seed(seed)
        out = self._transform(image=image, bboxes=boxes, labels=labels)
        noisy = self._with_noise(np.ascontiguousarray(out["image"]), rng)
        kept = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        return noisy, kept, np.asarray(out["labels"], np.int64).reshape(-1)

    def _with_noise(self, image: ImageRGB, rng: np.random.Generator) -> ImageRGB:
        height, width = image.shape[:2]
        if rng.random() >= self._noise_probability or max(height, width) > NOISE_TILE_PX:
            return image
        top, left = rng.integers(0, NOISE_TILE_PX - height + 1), rng.integers(0, NOISE_TILE_PX - width + 1)
        piece = self._tile[top : top + height, left : left + width]
        share = float(rng.uniform(0.15, 1.0)) * MAX_NOISE_SIGMA / NOISE_TILE_SIGMA
        return np.asarray(cv2.addWeighted(image, 1.0, piece, share, 0.0, dtype=cv2.CV_8U), np.uint8)
