"""The white-cell embedder: a 64 px crop becomes a vector that a linear head can read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from models.nets.hema_net import ConvUnit


@dataclass(frozen=True, slots=True)
class EmbedderShape:
    """Widths of the embedder.

    Attributes:
        widths: channels of the four resolutions; each has two 3x3 convolutions.
        dimensions: length of the embedding.
        standardise: subtract each crop's own mean and divide by its deviation, channel by channel; otherwise a fixed
            shift and scale. Standardised crops keep their class under another stain and light.
    """

    widths: tuple[int, int, int, int] = (24, 48, 80, 128)
    dimensions: int = 128
    standardise: bool = True


class Normalise(nn.Module):
    """The first step of the graph: RGB in 0..1 to roughly unit deviation."""

    def __init__(self, *, standardise: bool) -> None:
        super().__init__()
        self.standardise = standardise

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in 0..1 -> the same shape."""
        if not self.standardise:
            return (x - 0.7) / 0.2
        mean = x.mean(dim=(2, 3), keepdim=True)
        centred = x - mean
        deviation = (centred * centred).mean(dim=(2, 3), keepdim=True).sqrt()
        return centred / (deviation + 0.02)


class CellEmbedder(nn.Module):
    """Eight dense 3x3 convolutions and a linear layer.

    Input (N, 3, C, C) float32 RGB in 0..1; output (N, dimensions) float32. Normalisation is inside.
    """

    def __init__(self, shape: EmbedderShape | None = None) -> None:
        super().__init__()
        self.shape = s = shape or EmbedderShape()
        self.normalise = Normalise(standardise=s.standardise)
        layers: list[nn.Module] = []
        previous = 3
        for index, width in enumerate(s.widths):
            layers.append(ConvUnit(previous, width, stride=2 if index else 1))
            layers.append(ConvUnit(width, width, stride=2 if index == 0 else 1))
            previous = width
        self.body = nn.Sequential(*layers)
        self.project = nn.Linear(previous, s.dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Crops to embeddings, see the class."""
        features = self.body(self.normalise(x))
        return self.project(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def fuse(self) -> CellEmbedder:
        """Folds every batch normalisation into its convolution; call on a copy in eval mode."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fuse()
        return self


class CellClassifier(nn.Module):
    """An embedder with the linear layer that it is trained under."""

    def __init__(self, embedder: CellEmbedder, classes: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = nn.Linear(embedder.shape.dimensions, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Crops (N, 3, C, C) to class logits (N, classes)."""
        return self.head(fn.dropout(self.embedder(x), 0.1, self.training))  # type: ignore[no-any-return]


class PairEmbedder(nn.Module):
    """Several embedders side by side in one graph: their vectors, concatenated."""

    def __init__(self, members: list[CellEmbedder]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, C, C) -> (N, sum of dimensions)."""
        return torch.cat([member(x) for member in self.members], dim=1)
