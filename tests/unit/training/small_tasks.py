"""Tasks of the training loop that are small enough to follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.config import DetectorConfig
from training.distributed import Place
from training.loop import RunState, Trainer
from training.tracking import open_trackers


@dataclass(frozen=True)
class Pair:
    """Inputs and targets."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Pair:
        return Pair(self.x.to(device), self.y.to(device))


class Line:
    """A task small enough to follow: a noisy line, with dropout, so that the generators matter."""

    def __init__(self, *, poison_epoch: int | None = None) -> None:
        self._poison = poison_epoch

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 1))

    def steps(self, epoch: int) -> int:
        return 3 + epoch % 2

    def batches(self, epoch: int) -> Iterable[Pair]:
        for step in range(self.steps(epoch)):
            source = torch.Generator().manual_seed(100 * epoch + step)
            x = torch.rand(8, 1, 2, 2, generator=source)
            yield Pair(x * float("nan") if epoch == self._poison else x, 2 * x + 1)

    def loss(self, model: nn.Module, batch: Pair) -> tuple[Tensor, dict[str, float]]:
        return (model(batch.x) - batch.y).square().mean(), {}

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        with torch.inference_mode():
            x = torch.linspace(0, 1, 16).reshape(4, 1, 2, 2)
            return {"score": -float((model(x) - 2 * x - 1).square().mean())}

    def data_hashes(self) -> dict[str, str]:
        return {"line": "0" * 64}

    def samples(self, model: nn.Module) -> dict[str, np.ndarray]:
        return {"line": np.zeros((16, 16, 3), np.uint8)}


class Plain(Line):
    """Without normalisation and dropout, which depend on who shares a batch; the same samples on 1 or 2 processes."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self.said: list[float] = []

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.Conv2d(4, 1, 1))

    def batches(self, epoch: int) -> Iterable[Pair]:
        for whole in super().batches(epoch):
            yield Pair(whole.x[self._place.rank :: self._place.world], whole.y[self._place.rank :: self._place.world])

    def loss(self, model: nn.Module, batch: Pair) -> tuple[Tensor, dict[str, float]]:
        loss, parts = super().loss(model, batch)
        self.said.append(float(loss.detach()))
        return loss, parts

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"score": float(epoch)}


WATCHED = {"early_stop": {"patience": 1}}
"""Only the first process sees a score: the second would give up after one validation if it counted for itself."""


def settings(**changes: object) -> DetectorConfig:
    plain = {"kind": "detector", "name": "line", "stages": [{"epochs": 2, "input_px": 64}], "validate_every": 1}
    return DetectorConfig.model_validate({**plain, "optimiser": {"warmup_steps": 1}, **changes})


def train(folder: Path, task: Line, config: DetectorConfig | None = None, **how: object) -> RunState:
    place = Place(torch.device("cpu"))
    tracker = open_trackers(folder, use_mlflow=False, fresh=not how.get("resume"))
    return Trainer(config or settings(), task, folder, place=place, tracker=tracker).run(**how)  # type: ignore[arg-type]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)
