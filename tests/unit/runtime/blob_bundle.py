"""A real, tiny bundle whose answers can be worked out by hand, and the pictures that it reads.

The detector finds coloured discs: red for red cells, blue for white cells, green for platelets. It follows the colour
to each side, so boxes and sizes come from the picture, at any scale. The embedder is the mean colour of the crop's
middle, and the head knows the five types as five shades of blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle, CellClass, WhiteCellType, write_bundle
from models.runtime.head import Head

INPUT_PX = 320
STRIDE = 8
BINS = 8
CROP_PX = 32
RBC_RANGE_PX = (16.0, 40.0)

BACKGROUND = (200, 200, 200)
COLOURS = {CellClass.RBC: (220, 40, 40), CellClass.WBC: (30, 30, 220), CellClass.PLATELETS: (40, 220, 40)}
SHADES = {
    WhiteCellType.NEUTROPHIL: (30, 30, 220),
    WhiteCellType.LYMPHOCYTE: (90, 30, 250),
    WhiteCellType.MONOCYTE: (30, 90, 250),
    WhiteCellType.EOSINOPHIL: (90, 90, 250),
    WhiteCellType.BASOPHIL: (0, 0, 160),
}


@dataclass(frozen=True)
class Disc:
    """A drawn cell; has what `models.runtime.golden.TrueCell` asks for."""

    cls: str
    cell_type: str | None
    box: tuple[float, float, float, float]
    visible_ratio: float = 1.0
    ambiguous: bool = False


@dataclass(frozen=True)
class DiscField:
    """A drawn field; has what `models.runtime.golden.TrueField` asks for."""

    image: NDArray[np.uint8]
    cells: Sequence[Disc]


def draw_field(
    *, width_px: int = 640, height_px: int = 480, rbc_px: float = 60.0, pitch_px: float = 100.0, seed: int = 0
) -> DiscField:
    """Discs on a grid, apart from one another; each seventh a white cell, each ninth a platelet."""
    rng = np.random.default_rng(seed)
    image = np.full((height_px, width_px, 3), BACKGROUND, np.uint8)
    cells: list[Disc] = []
    types = list(WhiteCellType)
    ys, xs = np.mgrid[:height_px, :width_px]
    for row in range(int(height_px // pitch_px)):
        for column in range(int(width_px // pitch_px)):
            jitter = rng.uniform(-0.03, 0.03, 2) * pitch_px
            x, y = float((column + 0.5) * pitch_px + jitter[0]), float((row + 0.5) * pitch_px + jitter[1])
            number, cls, ratio, name = len(cells), CellClass.RBC, 1.0, None
            colour = COLOURS[cls]
            if number % 7 == 2:
                cls, ratio, name = CellClass.WBC, 1.4, types[(number // 7 + seed) % 5]
                colour = SHADES[name]
            elif number % 9 == 4:
                cls, ratio = CellClass.PLATELETS, 0.6
                colour = COLOURS[cls]
            radius = rbc_px * ratio / 2
            top, left = max(0, int(y - radius) - 1), max(0, int(x - radius) - 1)
            part = np.s_[top : int(y + radius) + 3, left : int(x + radius) + 3]
            image[part][(xs[part] + 0.5 - x) ** 2 + (ys[part] + 0.5 - y) ** 2 <= radius**2] = colour
            cells.append(
                Disc(str(cls), None if name is None else str(name), (x - radius, y - radius, x + radius, y + radius))
            )
    return DiscField(image, cells)


def detector_onnx() -> bytes:
    """(1, 3, 320, 320) -> (1, 4 * 8 + 3, 40, 40): how far the colour reaches to each side of a cell of the map."""
    side = INPUT_PX // STRIDE
    shifts = np.zeros((4 * BINS, 1, 2 * BINS + 1, 2 * BINS + 1), np.float32)
    for step in range(BINS):
        for direction, (dy, dx) in enumerate(((0, -1), (-1, 0), (0, 1), (1, 0))):
            shifts[direction * BINS + step, 0, BINS + dy * (step + 1), BINS + dx * (step + 1)] = 1
    constants = {
        "colour": np.array([[2, -1, -1], [-1, -1, 2], [-1, 2, -1]], np.float32).reshape(3, 3, 1, 1),
        "colour_bias": np.full(3, -0.4, np.float32),
        "shifts": shifts,
        "zero": np.float32(0),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "tiny": np.float32(1e-4),
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
        "along": np.int64(2),
        "rays": np.array([1, 4, BINS, side, side], np.int64),
        "sides": np.array([1, 4, 1, side, side], np.int64),
        "flat": np.array([1, 4 * BINS, side, side], np.int64),
        "halves": np.array([2, 2], np.int64),
        "bins": np.arange(BINS, dtype=np.float32).reshape(1, 1, BINS, 1, 1),
        "sharp": np.float32(-3.0),
        "height": np.float32(4.0),
        "slope": np.float32(-2.5),
        "cell_slope": np.float32(40.0),
        "cell_floor": np.float32(0.4),
        "bright": np.float32(1.2),
        "punish": np.float32(10.0),
    }
    nodes = [
        helper.make_node("Conv", ["image", "colour", "colour_bias"], ["tinted"]),
        helper.make_node("Clip", ["tinted", "zero", "one"], ["masks"]),
        helper.make_node("AveragePool", ["masks"], ["cells"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        # From each cell a ray to each side, as long as the colour goes on without a gap.
        helper.make_node("ReduceSum", ["cells", "axis1"], ["any_colour"], keepdims=1),
        helper.make_node("Conv", ["any_colour", "shifts"], ["seen"], pads=[BINS] * 4),
        helper.make_node("Clip", ["seen", "tiny", "one"], ["seen1"]),
        helper.make_node("Log", ["seen1"], ["logs"]),
        helper.make_node("Reshape", ["logs", "rays"], ["logs5"]),
        helper.make_node("CumSum", ["logs5", "along"], ["unbroken_log"]),
        helper.make_node("Exp", ["unbroken_log"], ["unbroken"]),
        helper.make_node("ReduceSum", ["unbroken", "axis2"], ["reach"], keepdims=0),
        helper.make_node("Mul", ["any_colour", "half"], ["own"]),
        helper.make_node("Add", ["reach", "own"], ["distances"]),
        helper.make_node("Reshape", ["distances", "sides"], ["distances5"]),
        helper.make_node("Sub", ["distances5", "bins"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["apart2"]),
        helper.make_node("Mul", ["apart2", "sharp"], ["distribution5"]),
        helper.make_node("Reshape", ["distribution5", "flat"], ["distribution"]),
        # Scores: high in the middle of a disc, where opposite rays are equally long; never for a glaring input.
        helper.make_node("Split", ["distances", "halves"], ["before", "after"], axis=1),
        helper.make_node("Sub", ["before", "after"], ["uneven"]),
        helper.make_node("Mul", ["uneven", "uneven"], ["uneven2"]),
        helper.make_node("ReduceSum", ["uneven2", "axis1"], ["off_centre"], keepdims=1),
        helper.make_node("Mul", ["off_centre", "slope"], ["drop"]),
        helper.make_node("Add", ["drop", "height"], ["peak"]),
        helper.make_node("Sub", ["cells", "cell_floor"], ["enough"]),
        helper.make_node("Mul", ["enough", "cell_slope"], ["gate"]),
        helper.make_node("Min", ["peak", "gate"], ["raw_score"]),
        helper.make_node("ReduceMax", ["image"], ["glare"], keepdims=1),
        helper.make_node("Sub", ["glare", "bright"], ["too_bright"]),
        helper.make_node("Relu", ["too_bright"], ["excess"]),
        helper.make_node("Mul", ["excess", "punish"], ["penalty"]),
        helper.make_node("Sub", ["raw_score", "penalty"], ["score"]),
        helper.make_node("Concat", ["distribution", "score"], ["map8"], axis=1),
    ]
    return _model(nodes, constants, (1, 3, INPUT_PX, INPUT_PX), ("map8", (1, 4 * BINS + 3, side, side)))


def embedder_onnx() -> bytes:
    """(N, 3, 32, 32) -> (N, 3): mean colour of the middle 8 x 8 pixels."""
    kernel = np.zeros((3, 3, CROP_PX, CROP_PX), np.float32)
    middle = np.s_[CROP_PX // 2 - 4 : CROP_PX // 2 + 4]
    for k in range(3):
        kernel[k, k, middle, middle] = 1 / 64
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["embedding"], axis=1),
    ]
    return _model(nodes, {"kernel": kernel}, ("N", 3, CROP_PX, CROP_PX), ("embedding", ("N", 3)))


def blob_head(*, sharpness: float = 400.0) -> Head:
    """Nearest shade wins."""
    means = np.array([SHADES[name] for name in WhiteCellType], np.float32) / np.float32(255)
    return Head(
        weights=np.float32(2 * sharpness) * means,
        bias=np.float32(-sharpness) * (means**2).sum(axis=1),
        temperature=np.array(1.0, np.float32),
        conformal_quantiles=np.full(5, 0.5, np.float32),
        domain_means=means,
        domain_precision=np.eye(3, dtype=np.float32),
        domain_threshold=np.array(0.01, np.float32),
    )


def manifest_fields() -> dict[str, Any]:
    """Fields of the tiny bundle's manifest."""
    return {
        "name": "blobs",
        "version": "0.0.1",
        "role": "edge",
        "created": "2025-01-01",
        "licence": "MIT",
        "detector": {
            "input_px": INPUT_PX,
            "strides": [STRIDE],
            "reg_bins": BINS,
            "thresholds": {"RBC": 0.5, "WBC": 0.5, "Platelets": 0.5},
            "rbc_px": RBC_RANGE_PX,
            "nms_iou": 0.2,
        },
        "embedder": {"input_px": CROP_PX, "dimensions": 3, "window_rbc": 2.0, "window_box": 1.4},
        "head": {"accept_probability": 0.8},
        "provenance": {"trained_on": [], "recipe": "by hand", "seed": 0},
    }


def bundle_files() -> dict[str, bytes]:
    """Files of the tiny bundle, without golden inputs."""
    return {
        "detector.onnx": detector_onnx(),
        "embedder.onnx": embedder_onnx(),
        "head.npz": blob_head().to_bytes(),
        "card.md": b"# Discs\nResearch use only.\n",
    }


def write_blob_bundle(directory: Path, extra: dict[str, bytes] | None = None) -> Bundle:
    """Write the tiny bundle."""
    return write_bundle(directory, manifest_fields(), {**bundle_files(), **(extra or {})})


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    input_shape: Sequence[int | str],
    output: tuple[str, Sequence[int | str]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, list(output[1]))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
