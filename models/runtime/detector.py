"""From the detector's raw maps to boxes in the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import DetectorSpec
from models.runtime.errors import InferenceError
from models.runtime.imaging import Letterboxed, suppress
from models.runtime.results import FloatArray

MIN_BOX_PX = 1.0
"""A box that clipping leaves thinner than this lay outside the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Boxes of one frame, in step.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the frame, inside it.
        scores: (N,) float32 in 0..1.
        classes: (N,) int32, index into the bundle's class order.
    """

    boxes: FloatArray
    scores: FloatArray
    classes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """The chosen ones, in the order of the index."""
        return Candidates(self.boxes[index], self.scores[index], self.classes[index])

    def shifted(self, x_px: float, y_px: float) -> Candidates:
        """The same boxes seen from a frame whose origin lies (-x, -y) away."""
        return Candidates(self.boxes + np.array([x_px, y_px, x_px, y_px], np.float32), self.scores, self.classes)


def join(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of several parts, in one."""
    return Candidates(
        np.concatenate([p.boxes for p in parts] or [np.empty((0, 4), np.float32)]).astype(np.float32, copy=False),
        np.concatenate([p.scores for p in parts] or [np.empty(0, np.float32)]),
        np.concatenate([p.classes for p in parts] or [np.empty(0, np.int32)]),
    )


def decode(
    maps: Sequence[FloatArray], view: Letterboxed, *, width_px: int, height_px: int, spec: DetectorSpec
) -> Candidates:
    """Turn raw maps into boxes of the frame, without suppression.

    Classes are chosen first, on their logits; the sides' distributions are decoded for the chosen cells only.

    Args:
        maps: for each stride (1, 4 * reg_bins + classes, S / stride, S / stride) float32, raw logits.
        view: how the frame was put into the input.
        width_px, height_px: size of the frame.
        spec: the bundle's detector.

    Raises:
        InferenceError: maps of another shape, or values that are not finite.
    """
    check_maps(maps, spec)
    sides = 4 * spec.reg_bins
    logits = np.concatenate([m[0, sides:].reshape(len(spec.classes), -1) for m in maps], axis=1)
    floor = np.log(spec.floor_score / (1.0 - spec.floor_score))
    classes, cells = np.nonzero(logits >= floor)
    chosen = logits[classes, cells]
    if len(chosen) > spec.max_candidates:
        strongest = np.argpartition(-chosen, spec.max_candidates - 1)[: spec.max_candidates]
        classes, cells, chosen = classes[strongest], cells[strongest], chosen[strongest]
    boxes = view.to_frame(_boxes(maps, cells, spec))
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width_px)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height_px)
    scores = (1.0 / (1.0 + np.exp(-chosen))).astype(np.float32)
    found = Candidates(boxes, scores, classes.astype(np.int32))
    return found.take(np.nonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_BOX_PX)[0])


def without_doubles(found: Candidates, iou: float) -> Candidates:
    """Per-class non-maximum suppression; strongest first."""
    kept = suppress(found.boxes, found.scores, found.classes, iou)
    return found.take(kept[np.argsort(-found.scores[kept], kind="stable")])


def check_maps(maps: Sequence[FloatArray], spec: DetectorSpec) -> None:
    """Refuse maps that are not what the manifest promises.

    Raises:
        InferenceError: number, shape or values.
    """
    expected = [
        (1, 4 * spec.reg_bins + len(spec.classes), spec.input_px // stride, spec.input_px // stride)
        for stride in spec.strides
    ]
    shapes = [m.shape for m in maps]
    if shapes != expected:
        raise InferenceError(f"the detector gave maps of shape {shapes}, the manifest promises {expected}")
    # A sum is finite only if no summand is nan or infinite: one pass, no mask.
    if not all(np.isfinite(m.sum(dtype=np.float64)) for m in maps):
        raise InferenceError("the detector gave values that are not finite")


def _boxes(maps: Sequence[FloatArray], cells: NDArray[np.intp], spec: DetectorSpec) -> FloatArray:
    """(N, 4) boxes on the canvas for flat cell indices that run through the strides' maps one after the other."""
    boxes = np.empty((len(cells), 4), np.float32)
    bins = np.arange(spec.reg_bins, dtype=np.float32)
    first = 0
    for stride, raw in zip(spec.strides, maps, strict=True):
        side = spec.input_px // stride
        here = np.nonzero((cells >= first) & (cells < first + side * side))[0]
        rows, columns = np.divmod(cells[here] - first, side)
        first += side * side
        distribution = raw[0, : 4 * spec.reg_bins, rows, columns].reshape(-1, 4, spec.reg_bins)
        weights = np.exp(distribution - distribution.max(axis=2, keepdims=True))
        distances = (weights @ bins) / weights.sum(axis=2) * stride
        centres = np.stack([(columns + 0.5) * stride, (rows + 0.5) * stride], axis=1)
        boxes[here, :2] = centres - distances[:, :2]
        boxes[here, 2:] = centres + distances[:, 2:]
    return boxes
