"""One process or many: what torchrun's environment says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
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
    if world == 1:
        yield Place(device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Place(device, rank, world)
    finally:
        dist.destroy_process_group()
