"""The detector: a small plain convolutional net with two output strides and distribution regression.

Dense 3x3 convolutions, batch normalisation and ReLU6 only: they quantise to int8 without loss and run at full speed on
CPUs, where depthwise layers and wide stems eat the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass(frozen=True, slots=True)
class HemaNetShape:
    """Widths and depths of the detector.

    Attributes:
        stem: channels at stride 2.
        stages: channels at strides 4, 8 and 16.
        depths: further 3x3 convolutions at each of the three strides.
        neck: channels of the pyramid.
        head_depth: 3x3 convolutions before each output convolution.
        reg_bins: bins of each side's distribution.
        classes: number of cell classes.
        residual: adds each pair of further convolutions to its input (helps deeper nets to train).
    """

    stem: int = 16
    stages: tuple[int, int, int] = (32, 80, 128)
    depths: tuple[int, int, int] = (1, 2, 2)
    neck: int = 48
    head_depth: int = 0
    reg_bins: int = 16
    classes: int = 3
    residual: bool = False


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, ReLU6."""

    def __init__(self, n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.03)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) -> (N, n_out, H / stride, W / stride)."""
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]

    def fuse(self) -> None:
        """Folds the normalisation into the convolution, for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvUnit(channels, channels), ConvUnit(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


def _stage(n_in: int, n_out: int, depth: int, *, residual: bool) -> nn.Sequential:
    """A stride-2 convolution and `depth` more; pairs become residual where asked for."""
    layers: list[nn.Module] = [ConvUnit(n_in, n_out, stride=2)]
    pairs = depth // 2 if residual else 0
    layers += [Residual(n_out) for _ in range(pairs)]
    layers += [ConvUnit(n_out, n_out) for _ in range(depth - 2 * pairs)]
    return nn.Sequential(*layers)


def _head(n_in: int, n_out: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[ConvUnit(n_in, n_in) for _ in range(depth)], nn.Conv2d(n_in, n_out, 3, padding=1))


class HemaNet(nn.Module):
    """Finds red cells, white cells and platelets.

    Input (N, 3, S, S) float32 RGB in 0..1, S a multiple of 16. Output: for strides 8 and 16 one map
    (N, 4 * reg_bins + classes, S / stride, S / stride) of raw logits: the distributions of the distances to the left,
    top, right and bottom side in units of the stride, then the class logits.
    """

    strides: tuple[int, ...] = (8, 16)

    def __init__(self, shape: HemaNetShape | None = None) -> None:
        super().__init__()
        self.shape = s = shape or HemaNetShape()
        c4, c8, c16 = s.stages
        self.stem = ConvUnit(3, s.stem, stride=2)
        self.stage4 = _stage(s.stem, c4, s.depths[0], residual=s.residual)
        self.stage8 = _stage(c4, c8, s.depths[1], residual=s.residual)
        self.stage16 = _stage(c8, c16, s.depths[2], residual=s.residual)
        self.lateral8 = ConvUnit(c8, s.neck, kernel=1)
        self.lateral16 = ConvUnit(c16, s.neck, kernel=1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.smooth8 = ConvUnit(s.neck, s.neck)
        self.down16 = ConvUnit(s.neck, s.neck, stride=2)
        self.smooth16 = ConvUnit(s.neck, s.neck)
        outputs = 4 * s.reg_bins + s.classes
        self.head8 = _head(s.neck, outputs, s.head_depth)
        self.head16 = _head(s.neck, outputs, s.head_depth)
        self._start_quiet()

    def _start_quiet(self) -> None:
        """Class biases start at a score of .01, so that the first steps are not drowned by the background."""
        for head in (self.head8, self.head16):
            last = head[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            with torch.no_grad():
                last.bias[4 * self.shape.reg_bins :] = -4.6

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps at strides 8 and 16, see the class."""
        x8 = self.stage8(self.stage4(self.stem(x)))
        x16 = self.lateral16(self.stage16(x8))
        p8 = self.smooth8(self.lateral8(x8) + self.up(x16))
        p16 = self.smooth16(x16 + self.down16(p8))
        return self.head8(p8), self.head16(p16)

    def fuse(self) -> Self:
        """Folds every batch normalisation into its convolution; call on a copy in eval mode."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fuse()
        return self


class FlipEnsemble(nn.Module):
    """A detector averaged over mirror images, as one graph with the same input and outputs.

    Each mirrored pass is mirrored back: the map is flipped and the two sides that changed places are swapped.

    Args:
        net: the detector.
        flips: for each further pass the mirrored axes, `h`, `v` or `hv`.
    """

    def __init__(self, net: HemaNet, flips: Sequence[str] = ("h",)) -> None:
        super().__init__()
        self.net = net
        self.flips = tuple(flips)

    def _restore(self, raw: Tensor, flip: str) -> Tensor:
        """Maps a mirrored pass back to the frame of the input."""
        bins = self.net.shape.reg_bins
        left, top, right, bottom = (raw[:, i * bins : (i + 1) * bins] for i in range(4))
        if "h" in flip:
            left, right = right, left
        if "v" in flip:
            top, bottom = bottom, top
        joined = torch.cat([left, top, right, bottom, raw[:, 4 * bins :]], dim=1)
        return torch.flip(joined, dims=_axes(flip))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Mean of the raw logits over the input and its mirror images."""
        maps = list(self.net(x))
        for flip in self.flips:
            mirrored = self.net(torch.flip(x, dims=_axes(flip)))
            maps = [a + self._restore(b, flip) for a, b in zip(maps, mirrored, strict=True)]
        return tuple(m / (1 + len(self.flips)) for m in maps)


def _axes(flip: str) -> list[int]:
    return [axis for letter, axis in (("v", 2), ("h", 3)) if letter in flip]
