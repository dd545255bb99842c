"""Exports say what torch says; int8 nearly so; a wrong export is caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from models.nets.embedder import CellEmbedder, EmbedderShape
from models.nets.hema_net import HemaNet, HemaNetShape
from training import export
from training.errors import ParityError
from training.export import export_onnx, fused_detector, fused_embedder, parity, quantise

pytestmark = pytest.mark.torch

SHAPE = HemaNetShape(stem=4, stages=(8, 8, 8), depths=(1, 1, 1), neck=8, reg_bins=4)
MAPS = ["map8", "map16"]


def detector(flips: tuple[str, ...] = ()) -> torch.nn.Module:
    torch.manual_seed(0)
    return fused_detector(HemaNet(SHAPE), flips)


def inputs(count: int, side: int = 64, batch: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.random((batch, 3, side, side), np.float32) for _ in range(count)]


@pytest.mark.parametrize("flips", [(), ("h", "v", "hv")], ids=["plain", "mirrored"])
def test_the_detector_export_equals_torch(flips: tuple[str, ...]) -> None:
    model = detector(flips)
    data = export_onnx(model, (1, 3, 64, 64), outputs=MAPS, dynamic=False)
    assert parity(model, data, inputs(2)).largest < 1e-4
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in onnx.load_from_string(data).graph.output]
    assert shapes == [[1, 19, 8, 8], [1, 19, 4, 4]]


def test_the_embedder_export_takes_any_number_of_crops() -> None:
    net = CellEmbedder(EmbedderShape(widths=(4, 4, 8, 8), dimensions=6))
    model = fused_embedder([net, net])
    data = export_onnx(model, (2, 3, 64, 64), outputs=["embedding"], dynamic=True)
    for batch in (1, 5):
        assert parity(model, data, inputs(1, batch=batch)).largest < 1e-4


def test_int8_stays_near_and_holds_seven_bit_weights() -> None:
    model = detector()
    data = export_onnx(model, (1, 3, 64, 64), outputs=MAPS, dynamic=False)
    small = quantise(data, inputs(8))
    said = parity(model, small, inputs(2))
    spread = max(float(np.ptp(m.detach().numpy())) for m in model(torch.from_numpy(inputs(1)[0])))
    assert 0 < said.mean < 0.05 * spread
    weights = [
        onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(small).graph.initializer if t.data_type == 3
    ]
    kernels = [w for w in weights if w.ndim == 4]
    assert kernels
    assert max(int(np.abs(w.astype(int)).max()) for w in kernels) <= 64


def test_named_parts_stay_in_float() -> None:
    net = fused_embedder([CellEmbedder(EmbedderShape(widths=(4, 4, 8, 8), dimensions=6))])
    data = export_onnx(net, (2, 3, 64, 64), outputs=["embedding"], dynamic=True)
    small = onnx.load_from_string(quantise(data, inputs(4, batch=2), keep_float=("normalise",)))
    first = [n for n in small.graph.node if "image" in n.input]
    assert first
    assert all(n.op_type != "QuantizeLinear" for n in first)


def test_an_export_that_differs_from_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PARITY_LIMIT", -1.0)
    with pytest.raises(ParityError, match="differs from torch"):
        export_onnx(detector(), (1, 3, 64, 64), outputs=MAPS, dynamic=False)
