"""A site's labelled cells: where the device finds them, how the embedder sees them, and which are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from models.bundle.manifest import CellClass, WhiteCellType
from models.runtime import Pipeline, read_image
from models.runtime.matching import iou_matrix
from models.runtime.results import FieldAnalysis, FloatArray, ImageRGB
from training.config import Part
from training.data.white_cells import SITE
from training.errors import LabelsError
from training.head import LabelledEmbeddings
from training.label_folder import LabelFolder, LabelledImage

ALIGNED_IOU = 0.5
"""A label takes the box of the device's own detection that overlaps it at least so much."""


class RefitSettings(Part):
    """`training/configs/refit.yaml`."""

    site_weight: float = Field(gt=0, le=1000, description="base cells that one labelled cell counts as, in its type")
    site_share: float = Field(gt=0, lt=1, description="largest share of a type's weight that the site may have")
    held_out_ratio: float = Field(ge=0, le=0.9, description="share of the labelled pictures held out")
    least_held_out: int = Field(ge=1, description="labels needed before any is held out")
    least_for_mean: int = Field(ge=1, description="cells of a type that give the site a mean of its own")


@dataclass(frozen=True, slots=True, eq=False)
class SiteCells:
    """A site's labelled cells as the embedder sees them.

    Attributes:
        learned: cells that the head learns from.
        held_out: cells of other pictures; may be empty.
        by_type: labels of each type, both parts together.
    """

    learned: LabelledEmbeddings
    held_out: LabelledEmbeddings
    by_type: Mapping[str, int]


def embed_labels(pipeline: Pipeline, folder: LabelFolder, settings: RefitSettings, *, seed: int) -> SiteCells:
    """Embed every labelled cell as the device would.

    The cell is cut with the box of the device's own detection where there is one at the label's place, so that the
    head learns what the device will show it; a missed cell is cut with the label's box.

    Raises:
        LabelsError: not one cell to learn from.
        ImageError: a picture that cannot be decoded.
    """
    rows: list[FloatArray] = []
    labels: list[int] = []
    pictures: list[int] = []
    for number, image in enumerate(folder.images):
        found = locate_labels(pipeline, image)
        rows.append(pipeline.embed(found.picture, found.boxes, found.rbc_diameter_px))
        labels += [cell.label for cell in image.cells]
        pictures += [number] * len(image.cells)
    if not labels:
        left = ", ".join(f"{count} {reason}" for reason, count in folder.left_out.items()) or "none at all"
        raise LabelsError(f"there is no label of one of the five types to learn from ({left} left out)")
    cells = LabelledEmbeddings(np.concatenate(rows), np.array(labels, np.int64), np.full(len(labels), SITE, np.int64))
    held_out = np.isin(np.array(pictures), sorted(held_out_images(folder, settings, seed=seed)))
    names = [str(kind) for kind in WhiteCellType]
    return SiteCells(cells.where(~held_out), cells.where(held_out), Counter(names[label] for label in labels))


@dataclass(frozen=True, slots=True, eq=False)
class LocatedLabels:
    """The labels of one picture, as the device would cut them.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32, x1 y1 x2 y2, pixels of the picture, in the order of the labels.
        rbc_diameter_px: the device's own red-cell diameter, or the export's, or None.
    """

    picture: ImageRGB
    boxes: FloatArray
    rbc_diameter_px: float | None


def locate_labels(pipeline: Pipeline, image: LabelledImage) -> LocatedLabels:
    """Read a labelled picture as the device would."""
    picture = read_image(image.path)
    analysis = pipeline.analyse(picture)
    diameter = analysis.rbc_diameter_px if analysis.rbc_diameter_px is not None else image.rbc_diameter_px
    return LocatedLabels(picture, np.array([_aligned(c.box, analysis) for c in image.cells], np.float32), diameter)


def _aligned(box: tuple[float, float, float, float], analysis: FieldAnalysis) -> tuple[float, float, float, float]:
    own = [d.box for d in analysis.counted(CellClass.WBC)]
    overlap = iou_matrix([box], own)[0]
    best = int(overlap.argmax()) if own else -1
    return own[best] if best >= 0 and overlap[best] >= ALIGNED_IOU else box


def held_out_images(folder: LabelFolder, settings: RefitSettings, *, seed: int) -> frozenset[int]:
    """Places of the held-out pictures in `folder.images`: by chance from the seed; none with too few labels.

    Args:
        folder: labels.
        settings: shares and least numbers.
        seed: the same seed and labels hold the same pictures out.
    """
    count = len(folder.images)
    wanted = round(count * settings.held_out_ratio)
    if folder.cells < settings.least_held_out or not 1 <= wanted < count:
        return frozenset()
    return frozenset(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())
