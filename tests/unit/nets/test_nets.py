"""Shapes and invariances of the torch networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from models.nets.embedder import CellClassifier, CellEmbedder, EmbedderShape, PairEmbedder  # noqa: E402
from models.nets.hema_net import ConvUnit, FlipEnsemble, HemaNet, HemaNetShape  # noqa: E402

pytestmark = pytest.mark.torch

TINY = HemaNetShape(stem=4, stages=(8, 12, 16), depths=(1, 2, 1), neck=8, reg_bins=8, residual=True)
TINY_CELLS = EmbedderShape(widths=(4, 6, 8, 8), dimensions=10)


def settled(net: Any) -> Any:
    """A net whose normalisations have statistics of their own, in eval mode."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            module.weight.data.normal_(0, 0.2)
    return net.eval()


def test_the_shipped_detector_is_small_and_its_maps_have_the_promised_shape() -> None:
    net = HemaNet().eval()
    assert sum(p.numel() for p in net.parameters()) < 700_000
    with torch.inference_mode():
        fine, coarse = net(torch.rand(2, 3, 320, 320))
    assert fine.shape == (2, 4 * 16 + 3, 40, 40)
    assert coarse.shape == (2, 4 * 16 + 3, 20, 20)


def test_a_new_detector_starts_with_low_scores() -> None:
    net = HemaNet(TINY).eval()
    with torch.inference_mode():
        maps = net(torch.rand(1, 3, 64, 64))
    assert max(float(m[:, 32:].sigmoid().max()) for m in maps) < 0.05


def test_folding_the_normalisations_changes_nothing() -> None:
    net = settled(HemaNet(TINY))
    fused = copy.deepcopy(net).fuse()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for a, b in zip(net(x), fused(x), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("flips", "axis", "swap"), [(("h",), 3, (2, 1, 0, 3)), (("v",), 2, (0, 3, 2, 1))])
def test_the_flip_ensemble_reads_a_mirror_image_as_the_mirror_of_the_image(
    flips: tuple[str, ...], axis: int, swap: tuple[int, ...]
) -> None:
    ensemble = FlipEnsemble(settled(HemaNet(TINY)), flips).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        plain, mirrored = ensemble(x)[0], ensemble(torch.flip(x, dims=[axis]))[0]
    back = torch.flip(mirrored, dims=[axis])
    sides = [back[:, i * 8 : (i + 1) * 8] for i in swap]
    assert torch.allclose(plain, torch.cat([*sides, back[:, 32:]], 1), atol=1e-4)


def test_a_standardised_embedder_does_not_see_gain_and_offset() -> None:
    net = settled(CellEmbedder(TINY_CELLS))
    x = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        plain, dimmed = net(x), net(0.9 * x + 0.05)
        fixed = settled(CellEmbedder(EmbedderShape(widths=(4, 6, 8, 8), dimensions=10, standardise=False)))
        moved = (fixed(x) - fixed(0.9 * x + 0.05)).norm()
    assert plain.shape == (3, 10)
    assert (plain - dimmed).norm() < 0.1 * plain.norm()
    assert moved > (plain - dimmed).norm()


def test_a_pair_gives_both_vectors_side_by_side() -> None:
    members = [settled(CellEmbedder(TINY_CELLS)), settled(CellEmbedder(TINY_CELLS))]
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        joint = PairEmbedder(members).eval()(x)
        assert torch.equal(joint[:, 10:], members[1](x))
    assert joint.shape == (2, 20)


def test_a_classifier_gives_one_logit_a_type() -> None:
    assert CellClassifier(CellEmbedder(TINY_CELLS), 5).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_a_unit_can_be_folded_twice_without_harm() -> None:
    unit = settled(ConvUnit(3, 4))
    unit.fuse()
    x = torch.rand(1, 3, 8, 8)
    once = unit(x)
    unit.fuse()
    assert torch.equal(once, unit(x))
