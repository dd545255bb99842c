"""Two bundles over the same sets: each difference with its interval, from a paired bootstrap.

Both read the same field one directly after the other, in turns, so that their times are of the same machine at the same
moment; the same groups are drawn for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.bundle.manifest import UNIDENTIFIED
from models.runtime.imaging import read_image
from models.runtime.pipeline import Pipeline
from models.runtime.results import FieldAnalysis, ImageRGB
from training.config import GeneratedFields
from training.data.coco import FieldRecord, read_split
from training.data.generated import FieldExample, generated_examples
from training.data.places import data_root
from training.evaluate import as_candidates
from training.evaluation.average_precision import average_precisions
from training.evaluation.fields import Step
from training.evaluation.run import UNSEEN, Plan, head, thinned
from training.evaluation.white import TYPES, ReadCell, balanced, cell_pictures, cell_weights, read_pictures, read_site
from training.intervals import CONFIDENCE_RATIO, Interval, group_weights, percentile
from training.metrics import TrueCells

SCHEMA = "ahs.comparison/1"
Array = NDArray[np.float64]
Resampled = tuple[float, Array]
"""A figure and its values over the resamples."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both bundles and how far they are apart.

    Attributes:
        figure: what is compared.
        over: set that it is measured on.
        a, b: of each bundle.
        difference: b less a, with its limits.
        better: "a" or "b" where the interval lies on one side of nought, else "".
    """

    figure: str
    over: str
    a: Interval
    b: Interval
    difference: Interval
    better: str

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "figure": self.figure,
            "over": self.over,
            "a": self.a.as_json(),
            "b": self.b.as_json(),
            "difference": self.difference.as_json(),
            "better": self.better,
        }


def paired(figure: str, over: str, a: Resampled, b: Resampled, *, larger_is_better: bool = True) -> Difference:
    """A difference from figures that were resampled alike."""
    said = percentile(b[0] - a[0], b[1] - a[1])
    better = ""
    if said.low is not None and said.high is not None and (said.low > 0 or said.high < 0):
        better = "b" if (said.low > 0) == larger_is_better else "a"
    return Difference(figure, over, percentile(*a), percentile(*b), said, better)


@dataclass(slots=True)
class FieldPairs:
    """The same fields as both bundles read them."""

    truth: list[TrueCells] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    a: list[FieldAnalysis] = field(default_factory=list)
    b: list[FieldAnalysis] = field(default_factory=list)

    def read(self, pipelines: tuple[Pipeline, Pipeline], image: ImageRGB, truth: TrueCells, group: str) -> None:
        """Read one more field, by the one bundle first or by the other in turns."""
        said: dict[int, FieldAnalysis] = {}
        for which in ((0, 1), (1, 0))[len(self.truth) % 2]:
            floor = pipelines[which].bundle.manifest.detector.floor_score
            said[which] = pipelines[which].analyse(image, min_score=floor)
        self.truth.append(truth)
        self.groups.append(group)
        self.a.append(said[0])
        self.b.append(said[1])


def field_differences(pairs: FieldPairs, over: str, plan: Plan) -> list[Difference]:
    """Average precision and time."""
    weights = group_weights(pairs.groups, resamples=plan.resamples, seed=plan.seed)
    both = [
        average_precisions(pairs.truth, [as_candidates(said) for said in read], weights) for read in (pairs.a, pairs.b)
    ]
    found = [
        paired(name, over, (both[0].point[key], both[0].resampled[key]), (both[1].point[key], both[1].resampled[key]))
        for key, name in (("map", "mAP50-95"), ("map50", "mAP50"), ("map50_Platelets", "Platelets AP50"))
        if key in both[0].point
    ]
    a, b = (_geometric_mean([said.latency_ms for said in read], weights) for read in (pairs.a, pairs.b))
    return [*found, paired("time of a field, ms", over, a, b, larger_is_better=False)]


def _geometric_mean(times_ms: Sequence[float], weights: NDArray[np.int32]) -> Resampled:
    """Of times: a field that was held up counts no more than it must."""
    logs = np.log(np.maximum(np.array(times_ms, np.float64), 1e-3))
    return float(np.exp(logs.mean())), np.asarray(np.exp((weights @ logs) / weights.sum(axis=1)), np.float64)


def cell_differences(a: Sequence[ReadCell], b: Sequence[ReadCell], over: str, plan: Plan) -> list[Difference]:
    """Balanced accuracy in use, share named and error among the named of the same cells."""
    weights = cell_weights(a, resamples=plan.resamples, seed=plan.seed)
    labels = np.array([cell.label for cell in a], np.int64)
    right = [np.array([_top(cell) == cell.label for cell in cells], bool) for cells in (a, b)]
    named = [np.array([_named(cell) for cell in cells], bool) for cells in (a, b)]
    accuracy = [balanced(labels, r, weights) for r in right]
    accepted = [_ratio(n.astype(float), np.ones(len(n)), weights) for n in named]
    errors = [_ratio((n & ~r).astype(float), n.astype(float), weights) for n, r in zip(named, right, strict=True)]
    return [
        paired("balanced accuracy in use", over, *accuracy),
        paired("accepted", over, *accepted),
        paired("error among accepted", over, *errors, larger_is_better=False),
    ]


def _top(cell: ReadCell) -> int:
    if cell.said is None:
        return -1
    return TYPES.index(max(cell.said.probabilities, key=cell.said.probabilities.__getitem__))


def _named(cell: ReadCell) -> bool:
    return cell.said is not None and cell.said.label != UNIDENTIFIED


def _ratio(part: Array, whole: Array, weights: NDArray[np.int32]) -> Resampled:
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(part.sum() / whole.sum()) if whole.sum() else float("nan")
        return value, np.asarray((weights @ part) / (weights @ whole), np.float64)


@dataclass(slots=True)
class Comparison:
    """Compares two bundles, set after set.

    Attributes:
        a, b: the bundles; differences are b less a.
        plan: the sets; shifts, scale, outsiders and speed are not compared.
        cache: of generated fields.
        stage: opens a progress line: (words, number of steps) -> a context that gives the step to call.
    """

    a: Bundle
    b: Bundle
    plan: Plan
    cache: Path
    stage: Callable[[str, int], Any]
    _pipelines: tuple[Pipeline, Pipeline] = field(init=False)

    def run(self) -> dict[str, Any]:
        """The whole document.

        Raises:
            DataError: a set is absent or damaged.
        """
        plan = self.plan
        self._pipelines = (Pipeline(self.a, threads=plan.threads), Pipeline(self.b, threads=plan.threads))
        for pipeline in self._pipelines:
            pipeline.warm_up()
        rows: list[Difference] = []
        for split in plan.splits:
            rows += self._split(split)
        if plan.generated:
            rows += self._generated()
        if plan.cells is not None:
            rows += self._cells(plan.cells)
        if plan.site is not None:
            rows += self._site(plan.site)
        of_a, of_b = head(self.a, plan), head(self.b, plan)
        return {
            "schema": SCHEMA,
            "intended_use": of_a["intended_use"],
            "a": of_a["bundle"],
            "b": of_b["bundle"],
            "machine": of_a["machine"],
            "method": of_a["method"] | {"confidence": CONFIDENCE_RATIO},
            "differences": [row.as_json() for row in rows],
        }

    def _split(self, split: str) -> list[Difference]:
        records: list[FieldRecord] = thinned(read_split(data_root() / self.plan.dataset, split), self.plan.limit)
        pairs = FieldPairs()
        with self.stage(f"fields of {split}", len(records)) as step:
            for record in records:
                truth = TrueCells(record.boxes, record.labels)
                pairs.read(self._pipelines, read_image(record.path), truth, record.group)
                step()
        return field_differences(pairs, split, self.plan)

    def _generated(self) -> list[Difference]:
        plan, pairs = self.plan, FieldPairs()
        config = GeneratedFields(count=plan.generated, first_seed=plan.generated_seed)
        examples: list[FieldExample] = generated_examples(config, self.cache)
        with self.stage("generated fields", len(examples)) as step:
            for example in examples:
                pairs.read(self._pipelines, example.image, TrueCells(example.boxes, example.labels), example.group)
                step()
        return field_differences(pairs, "generated", plan)

    def _cells(self, split: str) -> list[Difference]:
        plan = self.plan
        pictures = cell_pictures(data_root(), plan.cells_dataset, split)
        pictures = thinned([p for p in pictures if p.seen_by_detector not in UNSEEN], plan.limit)
        with self.stage(f"white cells of {plan.cells_dataset} {split}", 2 * len(pictures)) as step:
            a, b = (read_pictures(pipeline, pictures, step) for pipeline in self._pipelines)
        return cell_differences(a, b, f"{plan.cells_dataset} {split}", plan)

    def _site(self, site: str) -> list[Difference]:
        with self.stage(f"fields of {site}", 0) as step:
            (a, a_boxed), (b, b_boxed) = (self._at_site(pipeline, site, step) for pipeline in self._pipelines)
        rows = cell_differences(a, b, site, self.plan)
        return rows + cell_differences(a_boxed, b_boxed, f"{site}, true boxes", self.plan)

    def _at_site(self, pipeline: Pipeline, site: str, step: Step) -> tuple[list[ReadCell], list[ReadCell]]:
        return read_site(pipeline, data_root(), site, step, limit=self.plan.limit)
