"""The training loop: one for every kind of model, on one process or many."""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.nets.hema_net import HemaNet
from training.checkpoint import (
    AveragedModel,
    config_fingerprint,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
    seed_everything,
)
from training.config import AnyConfig, Optimiser
from training.distributed import Place
from training.errors import CheckpointError, NonFiniteLossError
from training.from_bundle import load_folded, unfold
from training.tracking import Tracker

LAST_NAME, BEST_NAME, BAD_BATCH_NAME = "last.pt", "best.pt", "bad_batch.pt"
STATISTICS_BATCHES = 12
"""Batches from which a bundle's folded normalisations get their statistics back."""


class Task(Protocol):
    """What the loop does not know: the model, its data, its loss and its measure."""

    def build(self) -> nn.Module:
        """A new model."""

    def steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch in this process."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """Batches of an epoch, on the CPU; each has `.to(device)`."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch and its parts for the log."""

    def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Figures of the averaged model; `score` decides which checkpoint is best."""


@dataclass(slots=True)
class RunState:
    """Everything that moves while a run goes on."""

    model: nn.Module
    wrapped: nn.Module
    averaged: AveragedModel
    optimiser: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    next_epoch: int = 0
    best_score: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a task as its configuration says and keeps its checkpoints in a folder."""

    def __init__(self, config: AnyConfig, task: Task, folder: Path, *, place: Place, tracker: Tracker) -> None:
        self._config, self._task, self._folder = config, task, folder
        self._place, self._tracker = place, tracker
        self._console = Console(quiet=not place.leads)

    def run(self, *, resume: bool = False, until_epoch: int | None = None) -> RunState:
        """Train to the last epoch, or to `until_epoch`.

        Args:
            resume: continue from `last.pt` in the folder.
            until_epoch: stop before this epoch, counted from 0; the schedule stays that of the whole run.

        Raises:
            CheckpointError: nothing to resume, or it belongs to another configuration.
            NonFiniteLossError: the loss became NaN or infinite.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        state = self._start()
        if resume:
            self._continue(state)
        if self._place.leads:
            self._tracker.start(self._config.name, self._config.model_dump(mode="json"))
        try:
            for epoch in range(state.next_epoch, min(self._config.epochs, until_epoch or self._config.epochs)):
                self._epoch(state, epoch)
        finally:
            if self._place.leads:
                self._tracker.finish()
        return state

    def _start(self) -> RunState:
        seed_everything(self._config.seed)
        model = self._task.build()
        if self._config.init_from is not None:
            self._begin_from(model, self._config.init_from)
        model = model.to(self._place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seed_everything(self._config.seed + 1 + self._place.rank)
        wrapped: nn.Module = DistributedDataParallel(model) if self._place.world > 1 else model
        options = self._config.optimiser
        optimiser = torch.optim.AdamW(_groups(model, options), lr=options.learning_rate)
        steps = [self._task.steps(epoch) for epoch in range(self._config.epochs)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, Rate(steps, options))
        return RunState(model, wrapped, AveragedModel(model, options.ema_decay), optimiser, schedule)

    def _begin_from(self, model: nn.Module, source: Path) -> None:
        if not source.is_dir():
            model.load_state_dict(load_checkpoint(source)["averaged"])
            return
        if not isinstance(model, HemaNet):
            raise CheckpointError(f"{source}: only a detector begins from a bundle; name a checkpoint")
        load_folded(model, source)
        unfold(model, (batch.images for batch in itertools.islice(self._task.batches(0), STATISTICS_BATCHES)))

    def _continue(self, state: RunState) -> None:
        path = self._folder / LAST_NAME
        content = load_checkpoint(path, self._place.device)
        if content["config_fingerprint"] != config_fingerprint(self._config):
            raise CheckpointError(f"{path}: belongs to another configuration; use another --out or drop --resume")
        if content["world"] != self._place.world:
            raise CheckpointError(f"{path}: was written by {content['world']} processes; resume with as many")
        state.model.load_state_dict(content["model"])
        state.averaged.model.load_state_dict(content["averaged"])
        state.averaged.updates = content["averaged_updates"]
        state.optimiser.load_state_dict(content["optimiser"])
        state.scheduler.load_state_dict(content["scheduler"])
        state.next_epoch, state.best_score = content["next_epoch"], content["best_score"]
        restore_random_states(content["random"])

    def _epoch(self, state: RunState, epoch: int) -> None:
        began_s = time.monotonic()
        figures = self._steps(state, epoch)
        figures["train_s"] = time.monotonic() - began_s
        last = epoch + 1 == self._config.epochs
        if self._place.leads and ((epoch + 1) % self._config.validate_every == 0 or last):
            figures |= self._task.validate(state.averaged.model, epoch)
        state.next_epoch = epoch + 1
        state.history.append(figures)
        if self._place.leads:
            self._write(state, figures)
            self._tracker.record(epoch + 1, figures)
            shown = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
            size = f"{self._config.stage_at(epoch).input_px} px"
            self._console.print(f"epoch {epoch + 1}/{self._config.epochs} ({size})  {shown}", soft_wrap=True)

    def _steps(self, state: RunState, epoch: int) -> dict[str, float]:
        state.wrapped.train()
        steps = self._task.steps(epoch)
        sums: dict[str, float] = {}
        with self._progress() as bar:
            shown = bar.add_task(f"epoch {epoch + 1}", total=steps, loss=math.nan)
            for batch in self._task.batches(epoch):
                parts = self._step(state, batch.to(self._place.device))
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value
                bar.update(shown, advance=1, loss=parts["loss"])
        return {name: value / max(1, steps) for name, value in sums.items()}

    def _step(self, state: RunState, batch: Any) -> dict[str, float]:
        with torch.autocast(self._place.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            loss, parts = self._task.loss(state.wrapped, batch)
        if not torch.isfinite(loss):
            path = self._folder / BAD_BATCH_NAME
            torch.save({"batch": batch, "model": state.model.state_dict(), "parts": parts}, path)
            raise NonFiniteLossError(f"the loss is {loss.item()} ({parts}); batch and weights are in {path}")
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(state.model.parameters(), self._config.optimiser.clip_norm)
        state.optimiser.step()
        state.scheduler.step()
        state.averaged.update(state.model)
        return {"loss": loss.item(), **parts}

    def _write(self, state: RunState, figures: dict[str, float]) -> None:
        content = {
            "config": self._config.model_dump(mode="json"),
            "config_fingerprint": config_fingerprint(self._config),
            "world": self._place.world,
            "model": state.model.state_dict(),
            "averaged": state.averaged.model.state_dict(),
            "averaged_updates": state.averaged.updates,
            "optimiser": state.optimiser.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "next_epoch": state.next_epoch,
            "best_score": max(state.best_score, figures.get("score", -math.inf)),
            "random": random_states(),
            "figures": figures,
        }
        save_checkpoint(self._folder / LAST_NAME, content)
        if figures.get("score", -math.inf) > state.best_score:
            state.best_score = figures["score"]
            save_checkpoint(self._folder / BEST_NAME, content)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = self._console.is_terminal and self._place.leads
        return Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}"), console=self._console, disable=not shown)


def _groups(model: nn.Module, options: Optimiser) -> list[dict[str, Any]]:
    """Weight decay on convolution and linear weights only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": options.weight_decay}, {"params": free, "weight_decay": 0.0}]


class Rate:
    """Share of the learning rate at a step: a linear warm-up, then one cosine over the epochs.

    The cosine follows epochs, not steps, so that an epoch counts the same in a stage with more pictures.
    """

    def __init__(self, steps: list[int], options: Optimiser) -> None:
        self._ends = list(itertools.accumulate(max(1, n) for n in steps))
        self._options = options

    def __call__(self, step: int) -> float:
        """Share at a step of the whole run, counted from 0."""
        epoch = min(bisect.bisect_right(self._ends, step), len(self._ends) - 1)
        begin = self._ends[epoch - 1] if epoch else 0
        done = (epoch + (step - begin) / (self._ends[epoch] - begin)) / len(self._ends)
        warm = min(1.0, (step + 1) / (self._options.warmup_steps + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return warm * (self._options.final_ratio + (1 - self._options.final_ratio) * cosine)
