"""How the detector learns: task-aligned assignment, then classification, GIoU and distribution losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as fn

from training.config import DetectorLoss
from training.distributed import processes, summed

BOX_EPSILON = 1e-7


@dataclass(frozen=True, slots=True)
class Decoded:
    """The detector's maps as one list of anchors.

    Attributes:
        logits: (N, A, classes).
        distributions: (N, A, 4, bins), raw.
        boxes: (N, A, 4), x1 y1 x2 y2, pixels of the input.
        centres: (A, 2), x y, pixels of the input.
        strides: (A,), pixels.
    """

    logits: Tensor
    distributions: Tensor
    boxes: Tensor
    centres: Tensor
    strides: Tensor


def decode_maps(maps: tuple[Tensor, ...], strides: tuple[int, ...], bins: int) -> Decoded:
    """Flatten the maps (N, 4 * bins + classes, H, W), one a stride, into anchors."""
    flat, centres, steps = [], [], []
    for raw, stride in zip(maps, strides, strict=True):
        n, channels, height, width = raw.shape
        flat.append(raw.permute(0, 2, 3, 1).reshape(n, height * width, channels))
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack([xs, ys], -1).reshape(-1, 2).to(raw.device) + 0.5) * stride)
        steps.append(torch.full((height * width,), float(stride), device=raw.device))
    joined, centre, step = torch.cat(flat, 1), torch.cat(centres), torch.cat(steps)
    distributions = joined[..., : 4 * bins].reshape(*joined.shape[:2], 4, bins)
    expected = distributions.softmax(-1) @ torch.arange(bins, dtype=joined.dtype, device=joined.device)
    sides = expected * step[:, None]
    boxes = torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], -1)
    return Decoded(joined[..., 4 * bins :], distributions, boxes, centre, step)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of (..., M, 4) with (..., A, 4) -> (..., M, A)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inner = (high - low).clamp_min(0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return inner / (area_a[..., :, None] + area_b[..., None, :] - inner + BOX_EPSILON)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of (P, 4) with (P, 4) -> (P,) in -1..1."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - inner + BOX_EPSILON
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1) + BOX_EPSILON
    return inner / union - (hull - union) / hull


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which anchor answers for which box.

    Attributes:
        positive: (N, A) bool.
        box_index: (N, A) int64, index of the box; meaningful where positive.
        quality: (N, A) target score of positives in 0..1, else 0.
    """

    positive: Tensor
    box_index: Tensor
    quality: Tensor


@torch.no_grad()
def assign(out: Decoded, boxes: Tensor, labels: Tensor, config: DetectorLoss) -> Assignment:
    """Task-aligned assignment: the `top_k` anchors inside a box that score and overlap best answer for it.

    Args:
        out: the detector's answer.
        boxes: (N, M, 4), pixels of the input.
        labels: (N, M) int64, -1 where there is no box.
        config: alpha, beta, top_k and the floor of the soft target.
    """
    real = labels >= 0
    iou = pairwise_iou(boxes, out.boxes).clamp(0, 1) * real[..., None]
    scores = out.logits.sigmoid().transpose(1, 2)
    own = scores.gather(1, labels.clamp_min(0)[..., None].expand(-1, -1, scores.shape[-1]))
    inside = (out.centres > boxes[..., None, :2]).all(-1) & (out.centres < boxes[..., None, 2:]).all(-1)
    align = own.pow(config.alpha) * iou.pow(config.beta) * (inside & real[..., None])
    best, chosen = align.topk(min(config.top_k, align.shape[-1]), dim=-1)
    mask = torch.zeros_like(align, dtype=torch.bool).scatter_(-1, chosen, best > 0)
    contested = torch.where(mask, iou, iou.new_full((), -1.0))
    top_iou, box_index = contested.max(1)
    positive = top_iou >= 0
    winner = torch.zeros_like(mask).scatter_(1, box_index[:, None], True) & mask
    kept = align * winner
    per_box = kept.amax(-1, keepdim=True).clamp_min(1e-9)
    best_iou = (iou * winner).amax(-1, keepdim=True)
    quality = (kept / per_box * best_iou).amax(1)
    quality = torch.where(positive, quality.clamp_min(config.soft_target_floor), quality.new_zeros(()))
    return Assignment(positive, box_index, quality)


def detection_loss(
    maps: tuple[Tensor, ...],
    boxes: Tensor,
    labels: Tensor,
    *,
    strides: tuple[int, ...],
    bins: int,
    config: DetectorLoss,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch.

    With several processes it is divided by the mean of their positives, not by a process's own: the mean of their
    losses, and so of their gradients, is then that of one process with all their pictures. Every process must ask.

    Args:
        maps: raw maps of the detector.
        boxes: (N, M, 4), pixels of the input.
        labels: (N, M) int64, -1 where there is no box.
        strides: stride of each map.
        bins: bins of each side's distribution.
        config: weights of the parts.

    Returns:
        The weighted sum, and its parts for the log.
    """
    out = decode_maps(tuple(m.float() for m in maps), strides, bins)
    found = assign(out, boxes, labels, config)
    of_class = labels.clamp_min(0).gather(1, found.box_index)
    weight = out.logits.new_tensor(config.class_weights)[of_class] * found.positive
    target = fn.one_hot(of_class, out.logits.shape[-1]) * found.quality[..., None]
    emphasis = 1 + fn.one_hot(of_class, out.logits.shape[-1]) * (weight - 1)[..., None] * found.positive[..., None]
    total = summed((found.quality * weight).sum()).clamp_min(1.0) / processes()
    bce = (fn.binary_cross_entropy_with_logits(out.logits, target, reduction="none") * emphasis).sum() / total
    box_loss, dfl = _box_losses(out, found, boxes, weight, bins=bins)
    box_loss, dfl = box_loss / total, dfl / total
    loss = config.bce * bce + config.giou * box_loss + config.dfl * dfl
    return loss, {"bce": float(bce.detach()), "giou": float(box_loss.detach()), "dfl": float(dfl.detach())}


def _box_losses(out: Decoded, found: Assignment, boxes: Tensor, weight: Tensor, *, bins: int) -> tuple[Tensor, Tensor]:
    """Sums of GIoU and distribution loss over the positives, each weighted by its target score."""
    positive = found.positive
    share = (found.quality * weight)[positive]
    wanted = boxes.gather(1, found.box_index[..., None].expand(-1, -1, 4))[positive]
    if not len(share):
        nothing = out.distributions.sum() * 0
        return nothing, nothing
    box_loss = ((1 - giou(out.boxes[positive], wanted)) * share).sum()
    image_index, anchor_index = positive.nonzero(as_tuple=True)
    centre, step = out.centres[anchor_index], out.strides[anchor_index, None]
    sides = torch.cat([centre - wanted[:, :2], wanted[:, 2:] - centre], -1) / step
    sides = sides.clamp(0, bins - 1 - 0.01)
    low = sides.floor()
    share_low = 1 - (sides - low)
    raw = out.distributions[image_index, anchor_index].reshape(-1, bins)
    low_index = low.long().reshape(-1)
    near = fn.cross_entropy(raw, low_index, reduction="none") * share_low.reshape(-1)
    far = fn.cross_entropy(raw, low_index + 1, reduction="none") * (1 - share_low).reshape(-1)
    dfl = ((near + far).reshape(-1, 4).mean(-1) * share).sum()
    return box_loss, dfl
