"""Training goes on from a shipped bundle: a detector's exported weights become a trainable net again.

An exported net has its normalisations folded into the convolutions. They are unfolded so that the net computes the same
with the statistics of its batch as with its running ones: each scale becomes the spread, each shift the mean of what
its convolution gives on fields of the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.bundle import read_bundle
from models.bundle.manifest import DETECTOR_NAME
from models.nets.hema_net import ConvUnit, HemaNet
from training.errors import CheckpointError


def load_folded(net: HemaNet, bundle_dir: Path) -> None:
    """Put a bundle's detector into a fresh net, normalisations standing still: only `unfold` makes it trainable.

    Args:
        net: of the same shape as the bundle's.
        bundle_dir: a bundle whose detector was exported in fp32.

    Raises:
        CheckpointError: quantised, or of another shape.
    """
    graph = onnx.load_from_string(read_bundle(bundle_dir).files[DETECTOR_NAME]).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # An ensemble over mirror images holds its net below this name.
    prefix = "net." if "net.stem.conv.weight" in arrays else ""
    if f"{prefix}stem.conv.weight" not in arrays:
        raise CheckpointError(f"{bundle_dir}: its detector is quantised; start from a bundle that was exported in fp32")
    try:
        for name, module in net.named_modules():
            if isinstance(module, ConvUnit):
                _set(module.conv.weight, arrays[f"{prefix}{name}.conv.weight"])
                _stand_still(module)
                _set(module.norm.bias, arrays[f"{prefix}{name}.conv.bias"])
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                _set(module.weight, arrays[f"{prefix}{name}.weight"])
                _set(module.bias, arrays[f"{prefix}{name}.bias"])
    except (KeyError, RuntimeError) as exc:
        raise CheckpointError(f"{bundle_dir}: its detector has another shape than `net` of the configuration") from exc


@torch.no_grad()
def unfold(net: HemaNet, batches: Iterable[Tensor]) -> None:
    """Give each normalisation the statistics of its convolution; what the net computes stays the same.

    Args:
        net: as `load_folded` left it.
        batches: pictures (N, 3, S, S) like those of the training.
    """
    units = [m for m in net.modules() if isinstance(m, ConvUnit)]
    seen = {unit: _Moments(unit.conv.out_channels) for unit in units}
    hooks = [unit.conv.register_forward_hook(lambda _m, _i, out, unit=unit: seen[unit].add(out)) for unit in units]
    net.eval()
    for images in batches:
        net(images)
    for hook in hooks:
        hook.remove()
    for unit in units:
        norm, (mean, variance) = unit.norm, seen[unit].mean_and_variance()
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)


class _Moments:
    def __init__(self, channels: int) -> None:
        self._sum, self._squares = np.zeros(channels), np.zeros(channels)
        self._count = 0

    def add(self, out: Tensor) -> None:
        rows = out.double()
        self._sum += rows.sum(dim=(0, 2, 3)).numpy()
        self._squares += rows.square().sum(dim=(0, 2, 3)).numpy()
        self._count += out.shape[0] * out.shape[2] * out.shape[3]

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self._sum / self._count
        variance = np.maximum(self._squares / self._count - mean**2, 1e-8)
        return torch.from_numpy(mean).float(), torch.from_numpy(variance).float()


@torch.no_grad()
def _set(parameter: Tensor | nn.Module, array: np.ndarray) -> None:
    assert isinstance(parameter, Tensor)
    if tuple(parameter.shape) != array.shape:
        raise RuntimeError(f"{tuple(parameter.shape)} != {array.shape}")
    parameter.copy_(torch.from_numpy(np.array(array)))


@torch.no_grad()
def _stand_still(unit: ConvUnit) -> None:
    norm = unit.norm
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean.zero_()  # type: ignore[union-attr]
    norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
    norm.weight.fill_(1.0)
