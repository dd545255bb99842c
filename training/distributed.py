"""One process or many: what torchrun's environment says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from training.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """This process among its fellows.

    Attributes:
        device: where its tensors live.
        rank: 0 writes checkpoints and logs.
        world: number of processes.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0


def pick_device(wish: str, local_rank: int = 0) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; else the named device.

    Raises:
        ConfigError: the named device is not there.
    """
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wish.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {wish}: torch finds no CUDA device here; use --device auto or cpu")
    if wish == "cuda":
        wish = f"cuda:{local_rank}"
    try:
        return torch.device(wish)
    except RuntimeError as exc:
        raise ConfigError(f"--device {wish}: torch knows no such device; use auto, cpu, cuda, cuda:N or mps") from exc


@contextmanager
def joined(device_wish: str) -> Iterator[Place]:
    """Join the process group when torchrun started several processes; leave it at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = pick_device(device_wish, local_rank)
    if device.type == "cuda":
        # What is exchanged as objects goes over the current device: each process needs its own.
        torch.cuda.set_device(device)
    if world == 1:
        yield Place(device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Place(device, rank, world)
    finally:
        dist.destroy_process_group()


def processes() -> int:
    """How many processes train together; 1 where no group was joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def summed(value: Tensor) -> Tensor:
    """Sum of a value over all processes, without a gradient. Every process must ask."""
    if processes() == 1:
        return value.detach()
    whole = value.detach().clone()
    dist.all_reduce(whole)
    return whole


def gathered(mine: Any) -> list[Any]:
    """What every process says, by rank. Every process must ask."""
    said: list[Any] = [mine] * processes()
    if len(said) > 1:
        dist.all_gather_object(said, mine)
    return said


def with_shared_statistics(model: nn.Module, place: Place) -> nn.Module:
    """The model with normalisations that take their statistics over all processes, where several GPUs train it.

    On the CPU torch has no such layer: there each process normalises by its own batch.
    """
    if place.world == 1 or place.device.type != "cuda":
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
