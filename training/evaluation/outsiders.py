"""Cells that are none of the five types: how many are referred to a person when few ordinary cells are.

Half of the outsiders and of the ordinary cells is for choosing (which score, which threshold), half for judging; a hash
of the file's name says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import UNIDENTIFIED
from models.runtime.imaging import read_image
from models.runtime.pipeline import Pipeline
from models.runtime.results import CellType
from training.errors import DataError
from training.evaluation.fields import Step
from training.evaluation.white import CellPicture, nearest_white
from training.intervals import share_interval

REFERRED_ORDINARY = 0.05
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the bundle made of the cell in the middle of a picture; None where it found none."""

    file: str
    said: CellType | None


def for_judging(file: str) -> bool:
    """Whether a picture is judged on; the others are for choosing. By its name alone, wherever it lies."""
    return hashlib.sha256(Path(file).name.encode()).digest()[0] % 2 == 1


def outsider_pictures(root: Path, dataset: str) -> list[CellPicture]:
    """All pictures below a folder of cells that are none of the types.

    Raises:
        DataError: none there.
    """
    folder = root / dataset
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if not paths:
        raise DataError(f"{folder}: no picture in it; is the data set complete?")
    return [CellPicture(p, p.relative_to(root).as_posix(), p.name, -1) for p in paths]


def read_judgements(pipeline: Pipeline, pictures: Sequence[CellPicture], step: Step) -> list[Judgement]:
    """Read pictures with one cell in their middle."""
    said = []
    for picture in pictures:
        found = nearest_white(pipeline.analyse(read_image(picture.path)))
        said.append(Judgement(picture.file, None if found is None else found.cell_type))
        step()
    return said


def referral(outsiders: Sequence[Judgement], ordinary: Sequence[Judgement]) -> dict[str, Any]:
    """How many outsiders are referred at `REFERRED_ORDINARY` referral of ordinary cells, by each score.

    A picture without a white cell found is not referred: nobody would look at it.

    Args:
        outsiders: cells that are none of the types.
        ordinary: cells of the five types, of the same laboratory.

    Returns:
        `scores` by name, each with its threshold (chosen on the choosing halves), the shares referred on the judging
        halves with exact limits; `chosen`, the score that referred most on the choosing half; `as_shipped`, the shares
        that the bundle itself leaves without a name.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in SCORES:
        tune_out, judge_out = _halves(outsiders, name)
        tune_in, judge_in = _halves(ordinary, name)
        threshold = (
            float(np.quantile(tune_in, 1 - REFERRED_ORDINARY, method="higher")) if len(tune_in) else float("inf")
        )
        rows[name] = {
            "threshold": threshold if np.isfinite(threshold) else None,
            "chosen_on": float((tune_out > threshold).mean()) if len(tune_out) else 0.0,
            "referred": _share(judge_out > threshold),
            "referred_ordinary": _share(judge_in > threshold),
        }
    return {
        "at_referral": REFERRED_ORDINARY,
        "outsiders": len(outsiders),
        "judged": sum(for_judging(j.file) for j in outsiders),
        "found": float(np.mean([j.said is not None for j in outsiders])) if outsiders else 0.0,
        "ordinary_judged": sum(for_judging(j.file) for j in ordinary),
        "scores": rows,
        "chosen": max(rows, key=lambda name: float(rows[name]["chosen_on"])),
        "as_shipped": {
            "outsiders": _share(np.array([_withheld(j) for j in outsiders if for_judging(j.file)], bool)),
            "ordinary": _share(np.array([_withheld(j) for j in ordinary if for_judging(j.file)], bool)),
        },
    }


def _withheld(judgement: Judgement) -> bool:
    return judgement.said is not None and judgement.said.label == UNIDENTIFIED


def _domain(said: CellType) -> float:
    return said.ood_score


def _doubt(said: CellType) -> float:
    return 1.0 - max(said.probabilities.values())


def _either(said: CellType) -> float:
    """The larger of both, the distance on a scale where the bundle's own threshold is as bad as no certainty at all."""
    return max(_doubt(said), said.ood_score / (1.0 + said.ood_score))


SCORES = {"domain": _domain, "doubt": _doubt, "either": _either}
"""Larger means more foreign."""


def _halves(cells: Sequence[Judgement], score: str) -> tuple[Array, Array]:
    """Scores of the choosing half and of the judging half; minus infinity where no cell was found."""
    values = np.array([-np.inf if j.said is None else SCORES[score](j.said) for j in cells], np.float64)
    judging = np.array([for_judging(j.file) for j in cells], bool)
    return values[~judging], values[judging]


def _share(referred: NDArray[np.bool_]) -> dict[str, float | None]:
    return share_interval(int(referred.sum()), len(referred)).as_json()
