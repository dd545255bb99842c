"""What each of two processes says; started by `python -m torch.distributed.run`, writes `rankN.pt` into a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.nets.hema_net import HemaNet, HemaNetShape
from tests.unit.training.small_tasks import Line, settings
from training.config import DetectorLoss
from training.detection_loss import assign, decode_maps, detection_loss
from training.distributed import Place, joined
from training.loop import Trainer
from training.tracking import Trackers

BINS = 8
STRIDES = (8, 16)
CELLS = ((5, 1), (4, 0))
"""Cells of the first process's field and of the second's, case by case."""


def detector() -> HemaNet:
    """A detector with frozen normalisations that are not those of a new one."""
    torch.manual_seed(0)
    net = HemaNet(HemaNetShape(stem=8, stages=(12, 16, 24), depths=(1, 1, 1), neck=16, reg_bins=BINS))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistic, low, high in ((module.running_mean, -0.1, 0.1), (module.running_var, 0.5, 2.0)):
                assert statistic is not None
                nn.init.uniform_(statistic, low, high)
    return net.eval()


def fields(cells: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Two fields: images (2, 3, 96, 96), boxes (2, 5, 4), labels (2, 5)."""
    source = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 96, 96, generator=source)
    corners = torch.rand(2, 5, 2, generator=source) * 50
    boxes = torch.cat([corners, corners + 20 + 20 * torch.rand(2, 5, 2, generator=source)], -1)
    labels = torch.randint(0, 3, (2, 5), generator=source)
    for field, count in enumerate(cells):
        boxes[field, count:], labels[field, count:] = 0.0, -1
    return images, boxes, labels


def loss_of(net: nn.Module, images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Of these fields, through the whole net."""
    return detection_loss(net(images), boxes, labels, strides=STRIDES, bins=BINS, config=DetectorLoss())[0]


def positives(images: Tensor, boxes: Tensor, labels: Tensor) -> int:
    """Anchors that answer for a cell."""
    out = decode_maps(detector()(images), STRIDES, BINS)
    return int(assign(out, boxes, labels, DetectorLoss()).positive.sum())


def learned(place: Place, cells: tuple[int, int]) -> dict[str, Any]:
    """Loss and gradient of this process's own field."""
    net = detector()
    own = [part[place.rank : place.rank + 1] for part in fields(cells)]
    wrapped = DistributedDataParallel(net)
    loss = loss_of(wrapped, *own)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": float(loss.detach()),
        "gradients": {name: p.grad for name, p in net.named_parameters()},
        "positives": positives(*own),
    }


class Drawing(Line):
    """Notes what this process's own generator would draw next, before each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.next: list[float] = []

    def batches(self, epoch: int) -> Any:
        state = torch.get_rng_state()
        self.next.append(float(torch.rand(())))
        torch.set_rng_state(state)
        return super().batches(epoch)


def continued(place: Place, folder: Path) -> dict[str, Any]:
    """A run in one piece, and the same run stopped after its first epoch and resumed."""
    said: dict[str, Any] = {}
    for name, parts in (("whole", [{}]), ("parts", [{"until_epoch": 1}, {"resume": True}])):
        task = Drawing()
        for how in parts:
            trainer = Trainer(settings(), task, folder / name, place=place, tracker=Trackers([]))
            state = trainer.run(**how)  # type: ignore[arg-type]
            torch.rand(77)  # Whatever is drawn between must not matter.
        said[name] = {"weights": state.model.state_dict(), "drawn": task.next}
    return said


def main(folder: Path) -> None:
    """Say everything."""
    torch.set_num_threads(1)
    with joined("cpu") as place:
        said = {"cases": [learned(place, cells) for cells in CELLS], **continued(place, folder)}
        torch.save(said, folder / f"rank{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
