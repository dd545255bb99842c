"""Checkpoints: everything a run needs to continue as if it had never stopped."""

from __future__ import annotations

import copy
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.config import AnyConfig
from training.errors import CheckpointError

FORMAT = "ahs.checkpoint/1"


class AveragedModel:
    """Exponential moving average of a model's weights and statistics; this is what is exported."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; the first steps move faster, so that the start is forgotten."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        current: dict[str, Tensor] = model.state_dict()
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], share)
            else:
                value.copy_(current[name])


def config_fingerprint(config: AnyConfig) -> str:
    """Hash of the configuration without what may change between resumptions."""
    return hashlib.sha256(config.model_dump_json(exclude={"validate_every"}).encode()).hexdigest()


def random_states(device: torch.device) -> dict[str, Any]:
    """States of every generator that this process draws from while it trains on the device."""
    states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(legacy=False), "python": random.getstate()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put every generator of this process back."""
    # A checkpoint is read onto the training device; torch takes states from the CPU alone.
    torch.set_rng_state(states["torch"].cpu())
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random, and have torch compute the same again."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    compute_repeatably(cuda=torch.cuda.is_available())


def compute_repeatably(*, cuda: bool) -> None:
    """Choose operations that give the same every time; torch warns of one that it has no such form of."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Memory that is not yet written is never read here; filling it each time would only cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if cuda:
        # cuBLAS reads it when it begins.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write, flush to the disk, then rename: a crash leaves the old checkpoint or the new one."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        torch.save({"format": FORMAT, **content}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ours. It is a pickle: read only what you wrote yourself.

    Raises:
        CheckpointError: absent, damaged or not ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location=device, weights_only=False)
    except Exception as exc:
        raise CheckpointError(f"{path}: is damaged or no checkpoint: {exc}") from exc
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no {FORMAT}")
    return content
