"""The loop: resumes to the same state, stops on a bad loss, runs on several processes."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from torch import nn

from models.nets.hema_net import HemaNet
from tests.unit.training.small_tasks import WATCHED, Line, Plain, same, settings, train
from training.checkpoint import AveragedModel, compute_repeatably, load_checkpoint, save_checkpoint, seed_everything
from training.config import DetectorNet
from training.detector_task import build_detector
from training.distributed import Place, pick_device, with_shared_statistics
from training.errors import CheckpointError, ConfigError, NonFiniteLossError
from training.loop import Rate

pytestmark = pytest.mark.torch


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
from models.nets.hema_net import HemaNet
from tests.unit.training.small_tasks import WATCHED, Plain, settings
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
    base = {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
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


def test_the_average_moves_by_its_decay_and_faster_at_first() -> None:
    model = nn.BatchNorm1d(3)
    averaged = AveragedModel(model, decay=0.3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 5.0, -1.0]))
        model.state_dict()["num_batches_tracked"].fill_(7)
    for _ in range(5):
        averaged.update(model)
    left = (2 / 11) * (3 / 12) * 0.3**3
    want = left * torch.ones(3) + (1 - left) * torch.tensor([2.0, 5.0, -1.0])
    kept = averaged.model.state_dict()
    assert torch.allclose(kept["weight"], want, atol=1e-6)
    assert int(kept["num_batches_tracked"]) == 7
    assert not averaged.model.training
    assert not any(p.requires_grad for p in averaged.model.parameters())


def test_the_gradient_of_a_step_is_no_longer_than_the_clip(tmp_path: Path) -> None:
    def length(clip_norm: float) -> float:
        config = settings(optimiser={"warmup_steps": 1, "clip_norm": clip_norm})
        state = train(tmp_path / str(clip_norm), Line(), config)
        return float(torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None]).norm())

    assert length(1e6) > 0.05
    assert length(0.01) == pytest.approx(0.01, rel=1e-3)


def test_a_checkpoint_of_before_states_were_kept_by_rank_is_continued(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Line())
    train(tmp_path / "parts", Line(), until_epoch=1)
    content = load_checkpoint(tmp_path / "parts" / "last.pt")
    (alone,) = content["random"]
    save_checkpoint(tmp_path / "parts" / "last.pt", content | {"random": alone})
    assert same(whole.model.state_dict(), train(tmp_path / "parts", Line(), resume=True).model.state_dict())


def test_states_of_too_few_processes_are_refused(tmp_path: Path) -> None:
    train(tmp_path, Line(), until_epoch=1)
    save_checkpoint(tmp_path / "last.pt", load_checkpoint(tmp_path / "last.pt") | {"random": []})
    with pytest.raises(CheckpointError, match="random states"):
        train(tmp_path, Line(), resume=True)


def test_torch_is_told_to_compute_the_same_again() -> None:
    def told() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn.deterministic,
            not cudnn.benchmark,
        )

    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
            compute_repeatably(cuda=False)
            assert told() == (True, True, False, False)
            assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
            compute_repeatably(cuda=True)
            assert told() == (True, True, True, True)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            torch.use_deterministic_algorithms(False)
            seed_everything(1)
            assert told()[:2] == (True, True)
    finally:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False


@pytest.mark.parametrize(("device", "world", "shared"), [("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)])
def test_several_gpus_normalise_over_all_their_pictures(device: str, world: int, shared: bool) -> None:
    plain = build_detector(DetectorNet())
    names = list(plain.state_dict())
    model = with_shared_statistics(plain, Place(torch.device(device), 0, world))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) is shared for m in norms)
    assert isinstance(model, HemaNet)
    assert list(model.state_dict()) == names
