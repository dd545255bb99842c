"""Two processes learn what one would, and each is continued where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

from tests.unit.training import two_processes
from tests.unit.training.small_tasks import same

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    done = subprocess.run(
        [*start, "--nproc-per-node", "2", two_processes.__file__, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", range(len(two_processes.CELLS)), ids=["5-and-1", "4-and-0"])
def test_unequal_numbers_of_cells_give_the_loss_and_gradient_of_one_process(
    ranks: list[dict[str, Any]], case: int
) -> None:
    first, second = (rank["cases"][case] for rank in ranks)
    assert first["positives"] > 2 * second["positives"]
    net = two_processes.detector()
    loss = two_processes.loss_of(net, *two_processes.fields(two_processes.CELLS[case]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert (first["loss"] + second["loss"]) / 2 == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(first["gradients"][name], second["gradients"][name])
        assert torch.allclose(parameter.grad, first["gradients"][name], rtol=1e-4, atol=1e-6), name


def test_each_process_is_continued_with_its_own_random_state(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["parts"]["drawn"] == rank["whole"]["drawn"]
        assert same(rank["parts"]["weights"], rank["whole"]["weights"])
    drawn = [rank["whole"]["drawn"] for rank in ranks]
    assert all(a != b for a, b in zip(*drawn, strict=True))
