"""From torch to ONNX, from fp32 to int8, and the proof that they say the same."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from models.nets.embedder import CellEmbedder, PairEmbedder
from models.nets.hema_net import FlipEnsemble, HemaNet
from models.runtime.results import FloatArray
from models.runtime.session import Session
from training.detector_task import TorchNetwork
from training.errors import ParityError

OPSET = 17
INPUT_NAME = "image"
PARITY_LIMIT = 1e-3
"""Largest difference between torch and the fp32 export, raw outputs."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an export is from torch on the same inputs, over all outputs.

    Attributes:
        largest: largest absolute difference.
        mean: mean absolute difference.
    """

    largest: float
    mean: float


def fused_detector(model: HemaNet, flips: tuple[str, ...] = ()) -> nn.Module:
    """A copy for inference: normalisations folded in, averaged over mirror images if asked for."""
    fused = copy.deepcopy(model).cpu().eval().fuse()
    return FlipEnsemble(fused, flips).eval() if flips else fused


def fused_embedder(members: list[CellEmbedder]) -> nn.Module:
    """A copy for inference; several members become one graph with concatenated vectors."""
    fused = [copy.deepcopy(m).cpu().eval().fuse() for m in members]
    return fused[0] if len(fused) == 1 else PairEmbedder(fused).eval()


def export_onnx(model: nn.Module, shape: tuple[int, int, int, int], *, outputs: list[str], dynamic: bool) -> bytes:
    """Write a model as ONNX.

    Args:
        model: in eval mode, on the CPU.
        shape: of the input.
        outputs: their names.
        dynamic: whether the first side of input and outputs may be any number.

    Raises:
        ParityError: the export does not say what torch says.
    """
    axes = {name: {0: "n"} for name in (INPUT_NAME, *outputs)} if dynamic else {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "model.onnx"
        # The exporter through TorchScript is on its way out; its successor wants packages that nothing else needs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.rand(shape),), path, input_names=[INPUT_NAME], output_names=outputs,
            opset_version=OPSET, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
        data = path.read_bytes()
    onnx.checker.check_model(onnx.load_from_string(data))
    rng = np.random.default_rng(0)
    said = parity(model, data, [rng.random(shape, np.float32) for _ in range(2)])
    if said.largest > PARITY_LIMIT:
        raise ParityError(f"the ONNX export differs from torch by {said.largest:.3g}, more than {PARITY_LIMIT}")
    return data


def parity(model: nn.Module, data: bytes, inputs: Iterable[FloatArray]) -> Parity:
    """Compare an export with its torch model."""
    network, session = TorchNetwork(model), Session(data, name="export", threads=1)
    largest, means = 0.0, []
    for tensor in inputs:
        for a, b in zip(network.run(tensor), session.run(tensor), strict=True):
            gap = np.abs(a - b)
            largest = max(largest, float(gap.max()))
            means.append(float(gap.mean()))
    return Parity(largest, float(np.mean(means)))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types.
    """Feeds calibration inputs to the quantiser, one at a time."""

    def __init__(self, inputs: Iterable[FloatArray]) -> None:
        self._inputs: Iterator[FloatArray] = iter(inputs)

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next input, None at the end."""
        tensor = next(self._inputs, None)
        return None if tensor is None else {INPUT_NAME: tensor}


def quantise(data: bytes, inputs: Iterable[FloatArray], *, keep_float: tuple[str, ...] = ()) -> bytes:
    """Static int8 with weights per channel.

    Weights take seven bits (`reduce_range`): AVX2 without VNNI adds pairs of products in 16 bits and saturates
    silently with eight.

    Args:
        data: the fp32 model.
        inputs: what the device would see, for the ranges of the activations.
        keep_float: nodes whose name holds one of these stay fp32.
    """
    model = _with_own_constants(onnx.load_from_string(data))
    excluded = [node.name for node in model.graph.node if any(part in node.name for part in keep_float)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantize_static(
            source,
            target,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=excluded,
        )
        return target.read_bytes()


def _with_own_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace `Identity` of a constant by the constant: the exporter shares equal biases so, the quantiser then
    leaves them out of a convolution's scale and spoils it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    shared = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity" and n.input[0] in constants}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in shared:
                node.input[index] = shared[name]
    kept = [n for n in model.graph.node if n.output[0] not in shared]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
