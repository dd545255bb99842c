"""What the detector's loss rewards."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from models.nets.hema_net import HemaNet, HemaNetShape  # noqa: E402
from training.config import DetectorLoss  # noqa: E402
from training.detection_loss import assign, decode_maps, detection_loss, giou, pairwise_iou  # noqa: E402

pytestmark = pytest.mark.torch

BINS = 8
SHAPE = HemaNetShape(stem=8, stages=(12, 16, 24), depths=(1, 1, 1), neck=16, reg_bins=BINS)
BOXES = torch.tensor([[[8.0, 8.0, 40.0, 40.0], [50.0, 44.0, 90.0, 92.0], [0.0, 0.0, 0.0, 0.0]]])
LABELS = torch.tensor([[0, 1, -1]])


def loss_of(maps: tuple[Any, ...], boxes: Any, labels: Any) -> Any:
    return detection_loss(maps, boxes, labels, strides=(8, 16), bins=BINS, config=DetectorLoss())[0]


def maps_that_say(boxes: Any, labels: Any, side_px: int = 96) -> tuple[Any, ...]:
    """Maps in which every anchor inside a box answers exactly for it."""
    maps = []
    for stride in (8, 16):
        n = side_px // stride
        raw = torch.zeros(1, 4 * BINS + 3, n, n)
        raw[:, 4 * BINS :] = -12.0
        for box, label in zip(boxes[0], labels[0], strict=True):
            for row in range(n):
                for column in range(n):
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    sides = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y]) / stride
                    if label >= 0 and bool((sides > 0).all()) and float(sides.max()) <= BINS - 1:
                        raw[0, 4 * BINS + int(label), row, column] = 12.0
                        for i, side in enumerate(sides.tolist()):
                            low = int(side)
                            share = torch.full((BINS,), -30.0)
                            share[low] = torch.log(torch.tensor(1 - (side - low) + 1e-9))
                            share[min(low + 1, BINS - 1)] = torch.log(torch.tensor(side - low + 1e-9))
                            raw[0, i * BINS : (i + 1) * BINS, row, column] = share
        maps.append(raw)
    return tuple(maps)


def test_a_perfect_answer_costs_less_than_a_wrong_class_or_a_shifted_box() -> None:
    right = maps_that_say(BOXES, LABELS)
    perfect = loss_of(right, BOXES, LABELS)
    swapped = loss_of(right, BOXES, torch.tensor([[1, 0, -1]]))
    shifted = loss_of(right, BOXES + 7.0, LABELS)
    assert perfect < 0.5 * swapped
    assert perfect < 0.8 * shifted


def test_decoding_gives_back_the_boxes_that_the_maps_say() -> None:
    out = decode_maps(maps_that_say(BOXES, LABELS), (8, 16), BINS)
    sure = out.logits[0].sigmoid().amax(-1) > 0.5
    overlap = pairwise_iou(BOXES[0, :2], out.boxes[0, sure]).amax(0)
    assert int(sure.sum()) > 20
    assert float(overlap.min()) > 0.99


def test_only_anchors_inside_a_box_answer_for_it_and_each_for_one_box() -> None:
    torch.manual_seed(0)
    out = decode_maps(HemaNet(SHAPE)(torch.rand(1, 3, 96, 96)), (8, 16), BINS)
    found = assign(out, BOXES, LABELS, DetectorLoss())
    assert found.positive.any()
    for anchor in found.positive[0].nonzero().flatten().tolist():
        x1, y1, x2, y2 = BOXES[0, int(found.box_index[0, anchor])].tolist()
        x, y = out.centres[anchor].tolist()
        assert x1 < x < x2
        assert y1 < y < y2
    per_box = [int((found.box_index[0][found.positive[0]] == b).sum()) for b in range(3)]
    assert per_box[0] <= 10
    assert per_box[2] == 0


def test_the_soft_target_of_a_positive_is_never_below_its_floor() -> None:
    torch.manual_seed(0)
    out = decode_maps(HemaNet(SHAPE)(torch.rand(1, 3, 96, 96)), (8, 16), BINS)
    found = assign(out, BOXES, LABELS, DetectorLoss(soft_target_floor=0.35))
    assert float(found.quality[found.positive].min()) == pytest.approx(0.35)
    assert float(found.quality[~found.positive].max()) == 0.0


def test_a_field_without_cells_has_a_finite_loss_and_a_gradient() -> None:
    net = HemaNet(SHAPE)
    loss = loss_of(net(torch.rand(2, 3, 96, 96)), torch.zeros(2, 1, 4), torch.full((2, 1), -1))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_platelets_weigh_more_than_red_cells() -> None:
    wrong = maps_that_say(BOXES, torch.tensor([[1, 1, -1]]))
    one = BOXES[:, :1]
    as_red = loss_of(wrong, one, torch.tensor([[0]]))
    as_platelet = loss_of(wrong, one, torch.tensor([[2]]))
    red_share = DetectorLoss().class_weights
    assert red_share[2] > red_share[0]
    assert torch.isfinite(as_red)
    assert torch.isfinite(as_platelet)
    assert not torch.isclose(as_red, as_platelet)


def test_generalised_iou_is_one_for_the_same_box_and_negative_far_away() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert float(giou(box, box)[0]) == pytest.approx(1.0, abs=1e-5)
    assert float(giou(box, box + 100)[0]) < -0.9


def test_the_loss_falls_when_one_batch_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    net = HemaNet(SHAPE).train()
    x = torch.full((2, 3, 96, 96), 0.9)
    x[:, :, 8:40, 8:40], x[:, 0, 44:92, 50:90] = 0.4, 0.2
    boxes, labels = BOXES.repeat(2, 1, 1), LABELS.repeat(2, 1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(net(x), boxes, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
