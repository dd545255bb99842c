"""Shapes as signed distances in µm (negative inside), patches of pixels, and random texture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Square of pixels round one cell.

    Attributes:
        left_px, top_px: upper left corner on the slide's pixel grid.
        size_px: side.
        um_per_px: scale.
        x_um, y_um: (size, size) float32, place of each pixel's centre relative to the cell's.
    """

    left_px: int
    top_px: int
    size_px: int
    um_per_px: float
    x_um: FloatArray
    y_um: FloatArray

    @property
    def extent_um(self) -> float:
        """Side in µm."""
        return self.size_px * self.um_per_px

    def cover(self, distance_um: FloatArray, *, softness_um: float = 0.1) -> FloatArray:
        """(size, size) float32 0..1: how much of each pixel lies inside, with an antialiased edge."""
        width_um = max(self.um_per_px, softness_um)
        return bounded(np.float32(0.5) - distance_um / np.float32(width_um))

    def noise(self, rng: np.random.Generator, *, grain_um: float) -> FloatArray:
        """(size, size) float32, roughly mean 0 and deviation 1, smooth over `grain_um`.

        The grain is drawn in µm and then scaled, so that a cell keeps its texture at another magnification.
        """
        nodes = math.ceil(self.extent_um / grain_um) + 1
        grain = rng.standard_normal((nodes, nodes), dtype=np.float32)
        method = cv2.INTER_CUBIC if nodes < self.size_px else cv2.INTER_AREA
        return np.asarray(cv2.resize(grain, (self.size_px, self.size_px), interpolation=method), np.float32)

    def dots(self, places_um: NDArray[np.float64], radii_um: NDArray[np.float64]) -> FloatArray:
        """(size, size) float32 0..1: round granules, antialiased.

        Args:
            places_um: (N, 2) x, y relative to the cell's centre.
            radii_um: (N,).
        """
        scale = 16.0 / self.um_per_px
        origin_um = np.array([self.x_um[0, 0], self.y_um[0, 0]], np.float64)
        centres = np.rint((places_um - origin_um) * scale).astype(int).tolist()
        radii = np.maximum(np.rint(radii_um * scale), 6).astype(int).tolist()
        canvas = np.zeros((self.size_px, self.size_px), np.uint8)
        for (x, y), radius in zip(centres, radii, strict=True):
            cv2.circle(canvas, (x, y), radius, 255, -1, cv2.LINE_AA, 4)
        return canvas.astype(np.float32) * np.float32(1.0 / 255.0)


def bounded(share: FloatArray) -> FloatArray:
    """The share, held between 0 and 1."""
    return np.minimum(np.maximum(share, np.float32(0.0)), np.float32(1.0))


def patch_around(*, x_um: float, y_um: float, reach_um: float, um_per_px: float) -> Patch:
    """Patch that holds everything within `reach_um` of a point, on the slide's pixel grid."""
    centre_x_px, centre_y_px, reach_px = x_um / um_per_px, y_um / um_per_px, reach_um / um_per_px
    left_px, top_px = math.floor(centre_x_px - reach_px) - 1, math.floor(centre_y_px - reach_px) - 1
    size_px = math.ceil(2.0 * reach_px) + 3
    steps = np.arange(size_px, dtype=np.float64) + 0.5
    xs = ((steps + (left_px - centre_x_px)) * um_per_px).astype(np.float32)
    ys = ((steps + (top_px - centre_y_px)) * um_per_px).astype(np.float32)
    grid_x, grid_y = np.meshgrid(xs, ys)
    return Patch(left_px, top_px, size_px, um_per_px, grid_x, grid_y)


def disc(x: FloatArray, y: FloatArray, *, at: tuple[float, float], radius_um: float) -> FloatArray:
    """Signed distance to a circle."""
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    return np.asarray(np.sqrt(dx * dx + dy * dy), np.float32) - np.float32(radius_um)


def ellipse(
    x: FloatArray, y: FloatArray, *, at: tuple[float, float], radii_um: tuple[float, float], turn_rad: float
) -> FloatArray:
    """About the signed distance to an ellipse (exact on its edge)."""
    cos, sin = np.float32(math.cos(turn_rad)), np.float32(math.sin(turn_rad))
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    long, short = np.float32(radii_um[0]), np.float32(radii_um[1])
    u, v = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / short
    return (np.sqrt(u * u + v * v) - np.float32(1.0)) * min(long, short)


def bar(
    x: FloatArray, y: FloatArray, *, start: tuple[float, float], end: tuple[float, float], radius_um: float
) -> FloatArray:
    """Signed distance to a thick segment with round ends."""
    dx, dy = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    along = bounded((px * dx + py * dy) * np.float32(1.0 / (float(dx) ** 2 + float(dy) ** 2 + 1e-9)))
    ex, ey = px - along * dx, py - along * dy
    return np.asarray(np.sqrt(ex * ex + ey * ey), np.float32) - np.float32(radius_um)


def joined(first: FloatArray, second: FloatArray, *, blend_um: float) -> FloatArray:
    """Union of two shapes with a rounded seam."""
    share = bounded(np.float32(0.5) + (second - first) * np.float32(0.5 / blend_um))
    return second + (first - second) * share - np.float32(blend_um) * share * (np.float32(1.0) - share)


def carved(shape: FloatArray, hole: FloatArray, *, blend_um: float) -> FloatArray:
    """The shape without the hole, with a rounded seam."""
    return -joined(-shape, hole, blend_um=blend_um)


def blob(
    x: FloatArray, y: FloatArray, rng: np.random.Generator, *, radius_um: float, bumps: tuple[float, ...]
) -> tuple[FloatArray, FloatArray]:
    """A disc with a wavy edge.

    Args:
        x, y: places in µm.
        rng: decides how the waves lie.
        radius_um: mean radius.
        bumps: height of the waves with 2, 3, 4, ... crests, as a share of the radius.

    Returns:
        About the signed distance in µm, and the distance from the centre as a share of the local radius.
    """
    rho = np.asarray(np.sqrt(x * x + y * y), np.float32) + np.float32(1e-6)
    cos1, sin1 = x / rho, y / rho
    edge: FloatArray = np.full_like(rho, 1.0)
    cos_k, sin_k = cos1, sin1
    for bump in bumps:
        cos_k, sin_k = cos_k * cos1 - sin_k * sin1, sin_k * cos1 + cos_k * sin1
        phase = float(rng.uniform(0.0, math.tau))
        edge += np.float32(bump * math.cos(phase)) * cos_k + np.float32(bump * math.sin(phase)) * sin_k
    local_um = edge * np.float32(radius_um)
    return rho - local_um, rho / local_um
