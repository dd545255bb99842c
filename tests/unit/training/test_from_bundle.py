"""A shipped detector becomes a trainable net again, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")

import models.zoo
from models.bundle import read_bundle
from models.bundle.manifest import DETECTOR_NAME
from models.nets.hema_net import FlipEnsemble, HemaNet, HemaNetShape
from models.runtime.session import Session
from training.errors import CheckpointError
from training.from_bundle import load_folded, unfold

pytestmark = pytest.mark.torch

ZOO = Path(models.zoo.__file__).parent
FP32 = ZOO / "second-opinion-1.0.0"
INT8 = ZOO / "edge-1.0.0"


def pictures(count: int) -> torch.Tensor:
    """Smooth noise: any picture does, as long as each channel of each layer varies."""
    noise = torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(noise, size=(320, 320), mode="bilinear")


@pytest.fixture(scope="module")
def net() -> HemaNet:
    fresh = HemaNet()
    load_folded(fresh, FP32)
    unfold(fresh, [pictures(2)])
    return fresh


def test_it_answers_as_the_shipped_network_does(net: HemaNet) -> None:
    image = pictures(1)
    shipped = Session(read_bundle(FP32).files[DETECTOR_NAME], name=DETECTOR_NAME).run(image.numpy())
    with torch.no_grad():
        ours = FlipEnsemble(net.eval(), ("h", "v", "hv"))(image)
    for a, b in zip(ours, shipped, strict=True):
        assert (a - torch.from_numpy(b)).abs().max() < 2e-3


def test_it_answers_alike_with_the_statistics_of_the_batch(net: HemaNet) -> None:
    images = pictures(2)
    with torch.no_grad():
        still = net.eval()(images)
        moving = net.train()(images)
    for a, b in zip(still, moving, strict=True):
        assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_a_quantised_bundle_is_refused_with_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="quantised; start from a bundle that was exported in fp32"):
        load_folded(HemaNet(), INT8)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another shape"):
        load_folded(HemaNet(HemaNetShape(stem=8)), FP32)
