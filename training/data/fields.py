"""Batches of fields for the detector: decoded once, augmented and letterboxed in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from models.runtime.imaging import letterbox, read_image, to_batch
from training.augment_fields import PAD_GREY, FieldAugmenter
from training.config import FieldData
from training.data.coco import FieldRecord, read_split, without_groups
from training.data.generated import FieldExample, generated_examples
from training.data.places import set_root

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class FieldBatch:
    """What the detector learns from in one step.

    Attributes:
        images: (N, 3, S, S) float32 RGB in 0..1.
        boxes: (N, M, 4) float32, x1 y1 x2 y2, pixels of the letterboxed input; M is the most of any image.
        labels: (N, M) int64, -1 where there is no box.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> FieldBatch:
        """The same batch on a device."""
        images = self.images.to(device, memory_format=torch.channels_last)
        return FieldBatch(images, self.boxes.to(device), self.labels.to(device))


def load_example(record: FieldRecord) -> FieldExample:
    """Decode an annotated field as the device would."""
    return FieldExample(read_image(record.path), record.boxes, record.labels, ("",) * len(record.labels), record.group)


def training_records(data: FieldData) -> list[FieldRecord]:
    """Annotated training fields without those whose near-copies are kept for measuring."""
    if data.dataset is None:
        return []
    root = set_root(data.dataset)
    records = read_split(root, data.train_split)
    for split in data.exclude_groups_of:
        records = without_groups(records, read_split(root, split))
    return records


@dataclass(frozen=True, slots=True)
class TrainingFields:
    """Training fields, decoded: annotated ones and generated ones."""

    annotated: list[FieldExample]
    generated: list[FieldExample]


def training_fields(data: FieldData, cache: Path) -> TrainingFields:
    """Every training field of a configuration."""
    annotated = [shrunk(load_example(r), data.cache_px) for r in training_records(data)]
    return TrainingFields(annotated, [shrunk(e, data.cache_px) for e in generated_examples(data.generated, cache)])


def shrunk(example: FieldExample, longest_px: int) -> FieldExample:
    """The field no larger than `longest_px`: augmenting more pixels than the input has only costs time."""
    height, width = example.image.shape[:2]
    ratio = longest_px / max(height, width)
    if ratio >= 1:
        return example
    new_width, new_height = round(width * ratio), round(height * ratio)
    image = np.asarray(cv2.resize(example.image, (new_width, new_height), interpolation=cv2.INTER_AREA), np.uint8)
    scale = np.array([new_width / width, new_height / height] * 2, np.float32)
    return FieldExample(image, example.boxes * scale, example.labels, example.cell_types, example.group)


def collate(fields: Sequence[FieldExample], input_px: int) -> FieldBatch:
    """Letterbox fields with the device's own functions into a batch."""
    boxed = [letterbox(field.image, input_px, PAD_GREY) for field in fields]
    most = max(1, *(len(field.labels) for field in fields))
    boxes = np.zeros((len(fields), most, 4), np.float32)
    labels = np.full((len(fields), most), -1, np.int64)
    for index, (field, box) in enumerate(zip(fields, boxed, strict=True)):
        boxes[index, : len(field.labels)] = box.to_canvas(field.boxes)
        labels[index, : len(field.labels)] = field.labels
    images = torch.from_numpy(to_batch([box.canvas for box in boxed]))
    return FieldBatch(images, torch.from_numpy(boxes), torch.from_numpy(labels))


def sample_seed(run_seed: int, epoch: int, index: int) -> int:
    """Seed of one sample's augmentation: independent of threads, processes and where the run was resumed."""
    return int(np.random.SeedSequence([run_seed, epoch, index]).generate_state(1)[0])


class Shuffled:
    """Which samples this process sees in an epoch, in order; the last incomplete batch is left out."""

    def __init__(self, size: int, *, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        empty: Sequence[int] = range(size)
        self._sampler: DistributedSampler[int] = DistributedSampler(
            empty,  # type: ignore[arg-type]  # Only its length is looked at.
            num_replicas=world,
            rank=rank,
            shuffle=True,
            seed=seed,
            drop_last=False,
        )
        self._batch = min(batch, max(1, -(-size // world)))

    def __len__(self) -> int:
        return len(self._sampler) // self._batch

    def batches(self, epoch: int) -> list[list[int]]:
        """Indices of each batch of an epoch."""
        self._sampler.set_epoch(epoch)
        order = list(self._sampler)
        return [order[i * self._batch : (i + 1) * self._batch] for i in range(len(self))]


class Prefetch(Generic[Batch]):
    """Iterates over made-to-order batches, the next ones being made in a thread meanwhile."""

    def __init__(self, orders: Sequence[list[int]], make: Callable[[list[int]], Batch], *, ahead: int = 3) -> None:
        self._orders, self._make = orders, make
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()

    def _work(self) -> None:
        try:
            for order in self._orders:
                if not self._put(self._make(order)):
                    return
            self._put(None)
        except BaseException as exc:  # noqa: BLE001 - handed over to the consumer, who raises it.
            self._put(exc)

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Batch]:
        worker = threading.Thread(target=self._work, name="prefetch", daemon=True)
        worker.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()
            worker.join()


class FieldLoader:
    """Serves augmented batches of fields, epoch by epoch.

    Args:
        fields: what there is; a stage without generated fields sees the annotated ones alone.
        augmenter: what happens to each.
        shuffle: given a number of samples, which of them this process sees.
        seed: of the run.
    """

    def __init__(
        self, fields: TrainingFields, augmenter: FieldAugmenter, shuffle: Callable[[int], Shuffled], *, seed: int
    ) -> None:
        self._augmenter, self._seed = augmenter, seed
        self._examples = fields.annotated + fields.generated
        self._with, self._without = shuffle(len(self._examples)), shuffle(len(fields.annotated) or len(self._examples))

    def steps(self, *, generated: bool) -> int:
        """Batches of an epoch."""
        return len(self._with if generated else self._without)

    def epoch(self, epoch: int, input_px: int, *, generated: bool) -> Prefetch[FieldBatch]:
        """Batches of an epoch at an input size."""

        def make(order: list[int]) -> FieldBatch:
            return collate([self._augmented(index, epoch) for index in order], input_px)

        return Prefetch((self._with if generated else self._without).batches(epoch), make)

    def _augmented(self, index: int, epoch: int) -> FieldExample:
        raw = self._examples[index]
        seed = sample_seed(self._seed, epoch, index)
        image, boxes, labels = self._augmenter(raw.image, raw.boxes, raw.labels, seed=seed)
        return FieldExample(image, boxes, labels, ("",) * len(labels), raw.group)
