"""The loop: resumes to the same state, stops on a bad loss, runs on several processes."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from torch import Tensor, nn

from training.checkpoint import load_checkpoint
from training.config import DetectorConfig
from training.distributed import Place, pick_device
from training.errors import CheckpointError, ConfigError, NonFiniteLossError
from training.loop import Rate, RunState, Trainer
from training.tracking import open_trackers

pytestmark = pytest.mark.torch


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


def test_a_resumed_run_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Line())
    train(tmp_path / "parts", Line(), until_epoch=1)
    torch.rand(77)  # Whatever another program drew meanwhile must not matter.
    parts = train(tmp_path / "parts", Line(), resume=True)
    assert parts.next_epoch == 2
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert same(whole.averaged.model.state_dict(), parts.averaged.model.state_dict())
    assert whole.optimiser.param_groups[0]["lr"] == parts.optimiser.param_groups[0]["lr"]
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2


def test_without_resuming_the_run_would_differ(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Line())
    half = train(tmp_path / "half", Line(), until_epoch=1)
    assert not same(whole.model.state_dict(), half.model.state_dict())


def test_the_best_checkpoint_is_that_of_the_best_score(tmp_path: Path) -> None:
    state = train(tmp_path, Line(), settings(stages=[{"epochs": 4, "input_px": 64}]))
    scores = [figures["score"] for figures in state.history]
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["figures"]["score"] == max(scores)
    assert best["next_epoch"] == scores.index(max(scores)) + 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"bad_batch\.pt"):
        train(tmp_path, Line(poison_epoch=1))
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=False)
    assert torch.isnan(kept["batch"].x).all()
    weights = load_checkpoint(tmp_path / "last.pt")["model"]
    assert all(torch.isfinite(v).all() for v in weights.values())


def test_another_configuration_cannot_be_continued(tmp_path: Path) -> None:
    train(tmp_path, Line(), until_epoch=1)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(tmp_path, Line(), settings(seed=8), resume=True)


def test_a_checkpoint_that_is_absent_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(tmp_path, Line(), resume=True)
    (tmp_path / "last.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="damaged"):
        train(tmp_path, Line(), resume=True)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            pick_device("cuda:0")
    with pytest.raises(ConfigError, match="no such device"):
        pick_device("toaster")


def test_the_learning_rate_warms_up_then_falls_over_epochs_of_any_length() -> None:
    config = settings(optimiser={"warmup_steps": 4, "final_ratio": 0.01})
    rate = Rate([10, 40], config.optimiser)
    values = [rate(step) for step in range(50)]
    assert values[0] < values[3] < values[4]
    assert values[10] == pytest.approx(0.01 + 0.99 * 0.5)
    assert values[-1] < 0.02
    assert all(a >= b for a, b in itertools.pairwise(values[5:]))


def test_a_run_without_progress_ends_early_and_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    class Stuck(Line):
        def validate(self, model: nn.Module, epoch: int) -> dict[str, float]:
            return {"score": [0.5, 0.6, 0.6005, 0.55, 0.9][epoch]}

    config = settings(stages=[{"epochs": 5, "input_px": 64}], early_stop={"patience": 2, "least_gain": 0.01})
    state = train(tmp_path, Stuck(), config)
    assert state.next_epoch == 4
    again = train(tmp_path, Stuck(), config, resume=True)
    assert again.next_epoch == 4
    assert again.history == []


def test_a_finished_run_keeps_its_pictures(tmp_path: Path) -> None:
    train(tmp_path, Line(), until_epoch=1)
    assert not (tmp_path / "samples").exists()
    train(tmp_path, Line(), resume=True)
    assert (tmp_path / "samples" / "line.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))["data line"] == "0" * 64


def test_half_precision_without_a_gpu_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use fp32 or bf16"):
        train(tmp_path, Line(), settings(precision="fp16"))


def test_bfloat16_learns_on_the_cpu_too(tmp_path: Path) -> None:
    state = train(tmp_path, Line(), settings(precision="bf16", stages=[{"epochs": 6, "input_px": 64}]))
    scores = [figures["score"] for figures in state.history]
    assert scores[-1] > scores[0]
    assert not same(state.model.state_dict(), train(tmp_path / "fp32", Line()).model.state_dict())


@pytest.mark.parametrize(("schedule", "half"), [("cosine", 0.505), ("linear", 0.505), ("constant", 1.0)])
def test_a_schedule_falls_as_it_says(schedule: str, half: float) -> None:
    config = settings(optimiser={"warmup_steps": 0, "final_ratio": 0.01, "schedule": schedule})
    rate = Rate([10, 10], config.optimiser)
    assert rate(0) == 1.0
    assert rate(10) == pytest.approx(half)


WORKER = """
import sys, torch
from pathlib import Path
from test_training_loop import WATCHED, Plain, settings
from training.distributed import joined
from training.loop import Trainer
from training.tracking import Trackers
folder = Path(sys.argv[1])
torch.set_num_threads(1)
with joined("cpu") as place:
    task = Plain(place)
    state = Trainer(settings(**WATCHED), task, folder, place=place, tracker=Trackers([])).run()
    torch.save({"weights": state.model.state_dict(), "losses": task.said}, folder / f"rank{place.rank}.pt")
"""


def test_two_processes_give_the_loss_of_one_and_only_the_first_writes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = f"{Path(__file__).parent}{os.pathsep}{Path.cwd()}"
    base = {**os.environ, "PYTHONPATH": paths, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)], env={**base, "RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]
    assert same(ranks[0]["weights"], ranks[1]["weights"])
    assert load_checkpoint(tmp_path / "last.pt")["world"] == 2
    alone = Plain(Place(torch.device("cpu")))
    state = train(tmp_path / "alone", alone, settings(**WATCHED))
    together = [(a + b) / 2 for a, b in zip(ranks[0]["losses"], ranks[1]["losses"], strict=True)]
    assert together == pytest.approx(alone.said, rel=1e-5)
    for name, value in state.model.state_dict().items():
        assert torch.allclose(value, ranks[0]["weights"][name], atol=1e-5)
