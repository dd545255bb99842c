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
from models.runtime.imaging import encode_png
from models.runtime.results import ImageRGB
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
from training.distributed import Place, gathered, with_shared_statistics
from training.errors import CheckpointError, ConfigError, NonFiniteLossError
from training.from_bundle import load_folded, unfold
from training.tracking import Tracker

LAST_NAME, BEST_NAME, BAD_BATCH_NAME = "last.pt", "best.pt", "bad_batch.pt"
SAMPLES_NAME = "samples"
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

    def data_hashes(self) -> dict[str, str]:
        """SHA-256 of each set that the run learns from or is measured on."""

    def samples(self, model: nn.Module) -> dict[str, ImageRGB]:
        """Pictures of what the averaged model says, by name."""


@dataclass(slots=True)
class RunState:
    """Everything that moves while a run goes on."""

    model: nn.Module
    wrapped: nn.Module
    averaged: AveragedModel
    optimiser: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    next_epoch: int = 0
    best_score: float = -math.inf
    since_best: int = 0
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
            hashes = {f"data {name}": digest for name, digest in self._task.data_hashes().items()}
            self._tracker.start(self._config.name, self._config.model_dump(mode="json") | hashes)
        try:
            last = min(self._config.epochs, until_epoch or self._config.epochs)
            while state.next_epoch < last and not self._gave_up(state):
                self._epoch(state, state.next_epoch)
            if self._place.leads and (self._gave_up(state) or state.next_epoch == self._config.epochs):
                self._keep(state)
        finally:
            if self._place.leads:
                self._tracker.finish()
        return state

    def _start(self) -> RunState:
        seed_everything(self._config.seed)
        model = self._task.build()
        if self._config.init_from is not None:
            self._begin_from(model, self._config.init_from)
        model = with_shared_statistics(model, self._place)
        model = model.to(self._place.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seed_everything(self._config.seed + 1 + self._place.rank)
        wrapped: nn.Module = DistributedDataParallel(model) if self._place.world > 1 else model
        options = self._config.optimiser
        optimiser = torch.optim.AdamW(_groups(model, options), lr=options.learning_rate)
        steps = [self._task.steps(epoch) for epoch in range(self._config.epochs)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, Rate(steps, options))
        averaged = AveragedModel(model, options.ema_decay)
        return RunState(model, wrapped, averaged, optimiser, schedule, self._scaler())

    def _scaler(self) -> torch.amp.GradScaler:
        """Scales the loss so that small gradients survive fp16; does nothing in other precisions."""
        half = self._config.precision == "fp16"
        if half and self._place.device.type != "cuda":
            raise ConfigError(f"precision fp16 needs a CUDA device, this is {self._place.device}; use fp32 or bf16")
        return torch.amp.GradScaler(self._place.device.type, enabled=half)

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
        # A checkpoint of before states were kept by rank holds those of the first process alone.
        states = content["random"] if isinstance(content["random"], list) else [content["random"]]
        if len(states) != self._place.world:
            raise CheckpointError(f"{path}: lacks the random states of some processes; begin the run anew")
        state.model.load_state_dict(content["model"])
        state.averaged.model.load_state_dict(content["averaged"])
        state.averaged.updates = content["averaged_updates"]
        state.optimiser.load_state_dict(content["optimiser"])
        state.scheduler.load_state_dict(content["scheduler"])
        state.scaler.load_state_dict(content["scaler"])
        state.next_epoch, state.best_score = content["next_epoch"], content["best_score"]
        state.since_best = content["since_best"]
        restore_random_states(states[self._place.rank], self._place.device)

    def _epoch(self, state: RunState, epoch: int) -> None:
        began_s = time.monotonic()
        figures = self._steps(state, epoch)
        figures["train_s"] = time.monotonic() - began_s
        last = epoch + 1 == self._config.epochs
        validated = (epoch + 1) % self._config.validate_every == 0 or last
        if self._place.leads and validated:
            figures |= self._task.validate(state.averaged.model, epoch)
        state.next_epoch = epoch + 1
        if validated:
            state.since_best = self._agreed(self._count(state, figures))
        state.history.append(figures)
        states = gathered(random_states(self._place.device))
        if self._place.leads:
            self._write(state, figures, states)
            self._tracker.record(epoch + 1, figures)
            shown = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
            size = f"{self._config.stage_at(epoch).input_px} px"
            self._console.print(f"epoch {epoch + 1}/{self._config.epochs} ({size})  {shown}", soft_wrap=True)

    def _count(self, state: RunState, figures: dict[str, float]) -> int:
        """Validations since the score last rose by enough, this one included."""
        gain = self._config.early_stop.least_gain if self._config.early_stop else 0.0
        return 0 if figures.get("score", -math.inf) > state.best_score + gain else state.since_best + 1

    def _agreed(self, count: int) -> int:
        """What the first process counted: only it validates, and all must stop at the same epoch."""
        if self._place.world == 1:
            return count
        said = torch.tensor([count], device=self._place.device)
        torch.distributed.broadcast(said, src=0)
        return int(said.item())

    def _gave_up(self, state: RunState) -> bool:
        stop = self._config.early_stop
        return stop is not None and state.since_best >= stop.patience

    def _keep(self, state: RunState) -> None:
        """Give the trackers the pictures and the best weights of a run that is over."""
        folder = self._folder / SAMPLES_NAME
        folder.mkdir(exist_ok=True)
        for name, image in self._task.samples(state.averaged.model).items():
            path = folder / f"{name}.png"
            path.write_bytes(encode_png(image))
            self._tracker.keep(path)
        if (self._folder / BEST_NAME).exists():
            self._tracker.keep(self._folder / BEST_NAME)

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
        kind = torch.float16 if self._config.precision == "fp16" else torch.bfloat16
        with torch.autocast(self._place.device.type, kind, enabled=self._config.precision != "fp32"):
            loss, parts = self._task.loss(state.wrapped, batch)
        if not torch.isfinite(loss):
            path = self._folder / (BAD_BATCH_NAME if self._place.leads else f"bad_batch.{self._place.rank}.pt")
            torch.save({"batch": batch, "model": state.model.state_dict(), "parts": parts}, path)
            raise NonFiniteLossError(f"the loss is {loss.item()} ({parts}); batch and weights are in {path}")
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        state.scaler.unscale_(state.optimiser)
        nn.utils.clip_grad_norm_(state.model.parameters(), self._config.optimiser.clip_norm)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.scheduler.step()
        state.averaged.update(state.model)
        return {"loss": loss.item(), **parts}

    def _write(self, state: RunState, figures: dict[str, float], random: list[dict[str, Any]]) -> None:
        content = {
            "config": self._config.model_dump(mode="json"),
            "config_fingerprint": config_fingerprint(self._config),
            "world": self._place.world,
            "model": state.model.state_dict(),
            "averaged": state.averaged.model.state_dict(),
            "averaged_updates": state.averaged.updates,
            "optimiser": state.optimiser.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "scaler": state.scaler.state_dict(),
            "since_best": state.since_best,
            "next_epoch": state.next_epoch,
            "best_score": max(state.best_score, figures.get("score", -math.inf)),
            "random": random,
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
    """Share of the learning rate at a step: a linear warm-up, then one schedule over the epochs.

    The schedule follows epochs, not steps, so that an epoch counts the same in a stage with more pictures.
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
        return warm * (self._options.final_ratio + (1 - self._options.final_ratio) * self._left(min(1.0, done)))

    def _left(self, done: float) -> float:
        """What is left of the rate's fall after a share of the run."""
        if self._options.schedule == "constant":
            return 1.0
        return 1 - done if self._options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
