"""Whether a candidate may take the place of the current model, judged on cells that neither learned from. Pure.

1. on each slice of the frozen set: balanced accuracy, each type's recall, share named, error among the named,
   negative log-likelihood and share in the domain may be worse by no more than the declared tolerances;
2. cells that are none of the types may not be named more often;
3. on held-out labels of the new site, where there are enough: the same with tolerances of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.bundle.manifest import UNIDENTIFIED, HeadSpec
from models.runtime.head import Head
from models.runtime.results import FloatArray
from training.config import Part

LEAST_CHANCE = 1e-6
"""A probability below this counts as this, so that one cell cannot decide the likelihood of a slice."""


class Tolerances(Part):
    """How much worse the candidate may be; shares and probabilities, not percent."""

    balanced_accuracy: float = Field(ge=0, le=1, description="fall of the balanced accuracy")
    recall: float = Field(ge=0, le=1, description="fall of any type's recall")
    named: float = Field(ge=0, le=1, description="fall of the share of cells that get a name")
    named_error: float = Field(ge=0, le=1, description="rise of the error among the named")
    nll: float = Field(ge=0, le=10, description="rise of the mean negative log-likelihood, nats")
    in_domain: float = Field(ge=0, le=1, description="fall of the share in the domain")


class GateRules(Part):
    """`training/configs/gate.yaml`: every tolerance is written there, none is a default."""

    frozen: Tolerances
    outsiders_named: float = Field(ge=0, le=1, description="rise of the share of outsiders that get a name")
    site: Tolerances
    site_least_cells: int = Field(ge=1, description="held-out labels of the new site needed to judge on them")


@dataclass(frozen=True, slots=True, eq=False)
class JudgedCells:
    """Cells of one slice. Labels below 0 are outsiders.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) int64, index into the head's classes.
    """

    embeddings: FloatArray
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model makes of one slice; None where a figure has nothing to be measured on.

    Attributes:
        cells: number of cells.
        named: share that gets a name.
        in_domain: share in the domain.
        balanced_accuracy: mean recall of the most probable type.
        recall: by type, of the most probable type.
        named_error: share of the named whose name is wrong.
        nll: mean negative log-likelihood of the true type, nats.
        coverage: share whose prediction set holds the true type.
    """

    cells: int
    named: float
    in_domain: float
    balanced_accuracy: float | None = None
    recall: dict[str, float] | None = None
    named_error: float | None = None
    nll: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word, with every reason against the candidate."""

    accepted: bool
    reasons: tuple[str, ...]


def figures_of(head: Head, spec: HeadSpec, cells: JudgedCells) -> Figures:
    """What a head makes of a slice."""
    said = head.read_types(cells.embeddings, spec)
    named = np.array([cell.label != UNIDENTIFIED for cell in said], bool)
    at_home = np.array([cell.in_domain for cell in said], bool)
    count = len(said)
    if not count:
        return Figures(0, 0.0, 0.0)
    inside = Figures(count, float(named.mean()), float(at_home.mean()))
    if (cells.labels < 0).any():
        return inside
    names = [str(cls) for cls in spec.classes]
    chances = head.probabilities(cells.embeddings)
    right = chances.argmax(axis=1) == cells.labels
    of_truth = chances[np.arange(count), cells.labels]
    recall = {name: float(right[cells.labels == i].mean()) for i, name in enumerate(names) if (cells.labels == i).any()}
    held = [names[label] in cell.prediction_set for label, cell in zip(cells.labels, said, strict=True)]
    return Figures(
        cells=count,
        named=inside.named,
        in_domain=inside.in_domain,
        balanced_accuracy=float(np.mean(list(recall.values()))),
        recall=recall,
        named_error=float((~right[named]).mean()) if named.any() else 0.0,
        nll=float(-np.log(np.maximum(of_truth, LEAST_CHANCE)).mean()),
        coverage=float(np.mean(held)),
    )


def judge(
    champion: Mapping[str, Figures],
    candidate: Mapping[str, Figures],
    rules: GateRules,
    *,
    site: tuple[Figures, Figures] | None = None,
) -> Verdict:
    """Compare both models.

    Args:
        champion, candidate: slice of the frozen set -> figures of the current model, and of the new one.
        rules: tolerances.
        site: held-out labels of the new site, as the current model and as the new one reads them.
    """
    reasons = [] if champion else ["there is no frozen cell to judge on"]
    if champion.keys() != candidate.keys():
        reasons.append("the two models were not judged on the same slices")
    for name in sorted(champion.keys() & candidate.keys()):
        before, after = champion[name], candidate[name]
        if before.balanced_accuracy is None:
            reasons += _worse(name, "share of outsiders named", after.named - before.named, rules.outsiders_named)
        else:
            reasons += _compared(name, before, after, rules.frozen)
    if site is not None and site[0].cells >= rules.site_least_cells:
        reasons += _compared("held-out labels", *site, rules.site)
    return Verdict(not reasons, tuple(reasons))


def _compared(name: str, before: Figures, after: Figures, allowed: Tolerances) -> list[str]:
    found = []
    found += _worse(
        name, "balanced accuracy", _fall(before.balanced_accuracy, after.balanced_accuracy), allowed.balanced_accuracy
    )
    for kind, recall in (before.recall or {}).items():
        found += _worse(name, f"recall of {kind}", recall - (after.recall or {}).get(kind, 0.0), allowed.recall)
    found += _worse(name, "share named", before.named - after.named, allowed.named)
    found += _worse(name, "error among the named", _fall(after.named_error, before.named_error), allowed.named_error)
    found += _worse(name, "negative log-likelihood", _fall(after.nll, before.nll), allowed.nll)
    found += _worse(name, "share in the domain", before.in_domain - after.in_domain, allowed.in_domain)
    return found


def _fall(larger: float | None, smaller: float | None) -> float:
    """Difference of two figures; what could not be measured counts as infinitely worse."""
    return float("inf") if larger is None or smaller is None else larger - smaller


def _worse(name: str, figure: str, by: float, allowed: float) -> list[str]:
    """One reason where the loss exceeds what is allowed; a loss that is no number is a reason too."""
    if by <= allowed + 1e-9:
        return []
    return [f"{name}: {figure} is worse by {by:.4f}, allowed {allowed:g}"]


def as_json(figures: Figures) -> dict[str, Any]:
    """Plain data, rounded to what the figures can bear."""
    return {key: _rounded(value) for key, value in asdict(figures).items() if value is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 5) if isinstance(value, float) else value
