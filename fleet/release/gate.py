"""Whether a candidate may take the place of the current model, by the figures of both. Pure.

Training judges with it what it has measured, and whoever takes a release judges the figures in its evidence again.

1. on each slice of the frozen set: balanced accuracy, each type's recall, share named, error among the named,
   negative log-likelihood and share in the domain may be worse by no more than the plan allows;
2. cells that are none of the types may not be named more often;
3. on held-out labels of the new site, where there are enough: the same with limits of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fleet.contract.base import Sha256, WireModel

HELD_OUT_SLICE, LEARNED_SLICE = "labels, held out", "labels, learned from"
"""Slices of a site's own labels: the first is judged by the plan's `site`, the second judges nothing."""

OF_LABELS = frozenset({HELD_OUT_SLICE, LEARNED_SLICE})
DECIMALS = 5
"""What the figures can bear; they are rounded before they are judged, so that a reader comes to the same verdict."""

ROUNDING = 1e-9
MEAN_SLACK = 2 * 10**-DECIMALS

REPEATED_CELLS = 1
"""A model that is measured again on the same cells may decide so many of a slice otherwise: the embeddings are stored,
but processors do not add up alike, and a cell may lie on the line."""

REPEATED_NATS = 0.003
"""The same of the negative log-likelihood; a tenth of what the shipped gate lets a model lose."""

OF_TYPES = ("balanced_accuracy", "named_error", "nll", "coverage")
"""Figures that only cells of the types can have."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Nats = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False, strict=True)]
Cells = Annotated[int, Field(ge=0, strict=True)]


class Tolerances(BaseModel):
    """How much worse the candidate may be; shares and probabilities, not percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balanced_accuracy: Share = Field(description="fall of the balanced accuracy")
    recall: Share = Field(description="fall of any type's recall")
    named: Share = Field(description="fall of the share of cells that get a name")
    named_error: Share = Field(description="rise of the error among the named")
    nll: Nats = Field(description="rise of the mean negative log-likelihood, nats")
    in_domain: Share = Field(description="fall of the share in the domain")


class GatePlan(BaseModel):
    """`gate.yaml`: every limit is written there, none is a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frozen: Tolerances
    outsiders_named: Share = Field(description="rise of the share of outsiders that get a name")
    site: Tolerances
    site_least_cells: int = Field(
        ge=1, strict=True, description="held-out labels of the new site needed to judge on them"
    )


class Figures(WireModel):
    """What one model makes of one slice; None where a figure has nothing to be measured on."""

    cells: Cells = Field(description="number of cells")
    named: Share = Field(description="share that gets a name")
    in_domain: Share = Field(description="share in the domain")
    balanced_accuracy: Share | None = Field(None, description="mean recall of the most probable type")
    recall: dict[str, Share] | None = Field(None, description="by type, of the most probable type")
    named_error: Share | None = Field(None, description="share of the named whose name is wrong")
    nll: Nats | None = Field(None, description="mean negative log-likelihood of the true type, nats")
    coverage: Share | None = Field(None, description="share whose prediction set holds the true type")


BySlice = Mapping[str, Figures]


class FrozenSlice(BaseModel):
    """What a slice of the frozen set holds; no types: cells that are none of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: int = Field(ge=1)
    types: tuple[str, ...] = ()


class PinnedSet(BaseModel):
    """A frozen set that counts as evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256 = Field(description="of its cells, whatever embedder has read them")
    about: str = Field(max_length=200)
    slices: dict[str, FrozenSlice] = Field(min_length=1)
    embedded: dict[Sha256, Sha256] = Field(description="embedder -> file that holds the cells as it embeds them")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word, with every reason against the candidate."""

    accepted: bool
    reasons: tuple[str, ...]


def judge(champion: BySlice, candidate: BySlice, plan: GatePlan) -> Verdict:
    """Compare both models.

    Args:
        champion, candidate: slice -> figures of the current model, and of the new one.
        plan: limits.
    """
    frozen = sorted((champion.keys() & candidate.keys()) - OF_LABELS)
    reasons = [] if champion.keys() - OF_LABELS else ["there is no frozen cell to judge on"]
    if champion.keys() != candidate.keys():
        reasons.append("the two models were not judged on the same slices")
    for name in frozen:
        before, after = champion[name], candidate[name]
        if not before.recall:
            reasons += _worse(name, "share of outsiders named", after.named - before.named, plan.outsiders_named)
        else:
            reasons += _compared(name, before, after, plan.frozen)
    held_out = champion.get(HELD_OUT_SLICE), candidate.get(HELD_OUT_SLICE)
    if held_out[0] and held_out[1] and max(held_out[0].cells, held_out[1].cells) >= plan.site_least_cells:
        reasons += _compared("held-out labels", held_out[0], held_out[1], plan.site)
    return Verdict(not reasons, tuple(reasons))


def missing_of(pinned: PinnedSet, figures: BySlice) -> list[str]:
    """What a model's figures lack, or cannot be, to be those of a frozen set; none when they can."""
    found = []
    for name, wanted in sorted(pinned.slices.items()):
        said = figures.get(name)
        if said is None:
            found.append(f"slice {name} is missing")
            continue
        if said.cells != wanted.cells:
            found.append(f"slice {name} has {said.cells} cells, the frozen set {wanted.cells}")
        if set(said.recall or ()) != set(wanted.types):
            found.append(f"slice {name} names other types than the frozen set")
        else:
            found += _incomplete(name, said) if wanted.types else _beyond(name, said)
    if strangers := sorted(figures.keys() - pinned.slices.keys() - OF_LABELS):
        found.append(f"slices that the frozen set does not have: {', '.join(strangers)}")
    return found


def unlike(said: BySlice, known: BySlice) -> list[str]:
    """Where a model's figures on a frozen set are not those that it had there before; none when they are.

    Shares may differ by `REPEATED_CELLS` of the slice (a type's recall by so many of an evenly filled type), the
    likelihood by `REPEATED_NATS`.
    """
    found = []
    for name in sorted(known.keys() - OF_LABELS):
        now, then = said.get(name), known[name]
        if now is None or now.cells != then.cells or set(now.recall or ()) != set(then.recall or ()):
            found.append(f"slice {name} is another one")
            continue
        for figure, a, b, allowed in _repeated(now, then):
            if (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > allowed):
                found.append(f"{name}: {figure} is {_shown(a)}, and was {_shown(b)}")
    return found


def laxer(plan: GatePlan, known: GatePlan) -> list[str]:
    """Where a plan allows more than the known one."""
    limits, bounds = dict(_limits(plan)), dict(_limits(known))
    return [f"{name} {limits[name]:g}, at most {bounds[name]:g}" for name in bounds if limits[name] > bounds[name]]


def rounded(figures: Figures) -> Figures:
    """To what the figures can bear."""
    return Figures.model_validate(_rounded(figures.model_dump()))


def as_json(figures: Figures) -> dict[str, Any]:
    """Plain data, rounded, without what was not measured."""
    found: dict[str, Any] = _rounded(figures.model_dump(exclude_none=True))
    return found


def _incomplete(name: str, said: Figures) -> list[str]:
    lacking = [key for key in ("balanced_accuracy", "named_error", "nll") if getattr(said, key) is None]
    if lacking:
        return [f"slice {name} has no {', '.join(lacking)}"]
    assert said.recall is not None
    assert said.balanced_accuracy is not None
    mean = sum(said.recall.values()) / len(said.recall)
    if abs(mean - said.balanced_accuracy) > MEAN_SLACK:
        return [f"slice {name}: the balanced accuracy {said.balanced_accuracy:g} is not the mean recall {mean:g}"]
    return []


def _beyond(name: str, said: Figures) -> list[str]:
    """Of a slice without types: nothing to be right about, so a figure of it is invented."""
    odd = [key for key in OF_TYPES if getattr(said, key) is not None]
    return [f"slice {name} has no types, and yet {', '.join(odd)}"] if odd else []


def _repeated(now: Figures, then: Figures) -> Iterator[tuple[str, float | None, float | None, float]]:
    """What is measured again: name, both figures, and by how much they may differ."""
    cell = REPEATED_CELLS / max(now.cells, 1) + MEAN_SLACK
    for figure in ("named", "in_domain", "balanced_accuracy"):
        yield figure, getattr(now, figure), getattr(then, figure), cell
    least_named = max(min(now.named, then.named) * now.cells, 1)
    yield "named_error", now.named_error, then.named_error, REPEATED_CELLS / least_named + MEAN_SLACK
    yield "nll", now.nll, then.nll, REPEATED_NATS
    recall = now.recall or {}
    for kind, value in recall.items():
        yield f"recall of {kind}", value, (then.recall or {})[kind], cell * len(recall)


def _shown(figure: float | None) -> str:
    return "none" if figure is None else f"{figure:g}"


def _limits(plan: GatePlan) -> Iterator[tuple[str, float]]:
    for part, limits in (("frozen", plan.frozen), ("site", plan.site)):
        yield from ((f"{part} {name}", getattr(limits, name)) for name in Tolerances.model_fields)
    yield "outsiders_named", plan.outsiders_named
    yield "site_least_cells", float(plan.site_least_cells)


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
    if by <= allowed + ROUNDING:
        return []
    return [f"{name}: {figure} is worse by {by:.4f}, allowed {allowed:g}"]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value
