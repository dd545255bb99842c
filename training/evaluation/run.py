"""One evaluation of one bundle: what was asked for, measured in order, as one versioned document.

The document's schema is `training/evaluation/evaluation_schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.bundle import Bundle
from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME
from models.runtime.imaging import read_image
from models.runtime.pipeline import Pipeline
from training.config import GeneratedFields
from training.data.coco import FieldRecord, read_split, without_groups
from training.data.generated import generated_examples
from training.data.places import data_root
from training.errors import DataError
from training.evaluation.fields import Step, field_set, read_examples, read_records, shifted_sets
from training.evaluation.outcomes import outcomes
from training.evaluation.outsiders import Judgement, outsider_pictures, read_judgements, referral
from training.evaluation.scale import DENSE_SIZES, dense_fields, scale_consistency
from training.evaluation.speed import machine, speed
from training.evaluation.white import ReadCell, cell_pictures, cell_set, read_pictures, read_site
from training.intervals import CONFIDENCE_RATIO, RESAMPLES
from training.shifts import SHIFTS

SCHEMA = "ahs.evaluation/1"
INTENDED_USE = "research use only"
UNSEEN = ("train", "val")
"""Splits of the detector's data whose pictures are left out of the single cells."""
SHIFT_SPLIT = "val"
SPEED_FIELDS = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        dataset: detection set below the data folder.
        splits: of it; a split brings its `_clean` part along.
        generated: number of generated fields, from `generated_seed` on.
        cells_dataset, cells: single-cell set and its split, None for none.
        site: set of another laboratory's fields with typed white cells, None for none.
        outsiders: set of cells that are none of the types, None for none; needs `cells`.
        shifts, scale, speed: measure these too, on val.
        resamples, seed: of the bootstrap.
        limit: at most so many pictures of a set, for a quick look; the document says so.
        threads: of ONNX Runtime.
    """

    dataset: str = "det_txl"
    splits: tuple[str, ...] = ()
    generated: int = 0
    generated_seed: int = 920_000
    cells_dataset: str = "wbc_pbc"
    cells: str | None = None
    site: str | None = None
    outsiders: str | None = None
    shifts: bool = False
    scale: bool = False
    speed: bool = False
    resamples: int = RESAMPLES
    seed: int = 0
    limit: int | None = None
    threads: int = 2

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        asked = (self.splits, self.generated, self.cells, self.site, self.outsiders)
        return not any(asked) and not (self.shifts or self.scale or self.speed)


def everything_of(plan: Plan) -> Plan:
    """The plan with every set and every check."""
    return replace(
        plan,
        splits=("val", "test"),
        generated=plan.generated or 60,
        cells=plan.cells or "test",
        site=plan.site or "wbc_site_b",
        outsiders=plan.outsiders or "wbc_ood_dev",
        shifts=True,
        scale=True,
        speed=True,
    )


@dataclass(slots=True)
class Evaluation:
    """Measures one bundle, part after part.

    Attributes:
        bundle: to measure.
        plan: what to measure.
        cache: of generated fields.
        stage: opens a progress line: (words, number of steps) -> a context that gives the step to call.
    """

    bundle: Bundle
    plan: Plan
    cache: Path
    stage: Callable[[str, int], Any]
    _pipeline: Pipeline = field(init=False)
    _single: list[ReadCell] = field(init=False, default_factory=list)

    def run(self) -> dict[str, Any]:
        """The whole document.

        Raises:
            DataError: a set is absent or damaged.
        """
        self._pipeline = Pipeline(self.bundle, threads=self.plan.threads)
        self._pipeline.warm_up()
        plan = self.plan
        fields: dict[str, Any] = {}
        for split in plan.splits:
            fields |= self._split(split)
        if plan.generated:
            fields["generated"] = self._generated()
        document = head(self.bundle, plan)
        document["fields"] = fields
        document["white_cells"] = self._white_cells()
        document["outsiders"] = self._outsiders() if plan.outsiders else None
        document["shifts"] = self._shifts() if plan.shifts else None
        document["scale"] = self._scale() if plan.scale else None
        document["speed"] = self._speed() if plan.speed else None
        return document

    def _records(self, split: str) -> list[FieldRecord]:
        return thinned(read_split(data_root() / self.plan.dataset, split), self.plan.limit)

    def _split(self, split: str) -> dict[str, Any]:
        records = self._records(split)
        with self.stage(f"fields of {split}", len(records)) as step:
            read = read_records(self._pipeline, records, data_root(), step)
        spec, plan = self.bundle.manifest.detector, self.plan
        sets = {split: field_set(read, spec, resamples=plan.resamples, seed=plan.seed)}
        if split in ("val", "test"):
            clean = self._clean_paths(split, records)
            kept = [r for r, record in zip(read, records, strict=True) if record.path in clean]
            sets[f"{split}_clean"] = field_set(kept, spec, resamples=plan.resamples, seed=plan.seed)
        return sets

    def _clean_paths(self, split: str, records: Sequence[FieldRecord]) -> set[Path]:
        """Pictures without a near-copy in train."""
        root = data_root() / self.plan.dataset
        if (root / f"{split}_clean.json").is_file():
            return {r.path for r in read_split(root, f"{split}_clean")}
        return {r.path for r in without_groups(records, read_split(root, "train"))}

    def _generated(self) -> dict[str, Any]:
        plan = self.plan
        examples = generated_examples(GeneratedFields(count=plan.generated, first_seed=plan.generated_seed), self.cache)
        with self.stage("generated fields", len(examples)) as step:
            read = read_examples(self._pipeline, examples, step)
        return field_set(read, self.bundle.manifest.detector, resamples=plan.resamples, seed=plan.seed)

    def _white_cells(self) -> dict[str, Any]:
        plan, sets = self.plan, {}
        if plan.cells is not None:
            cells = self._ordinary(plan.cells)
            sets[f"{plan.cells_dataset} {plan.cells}"] = self._cells(cells, "near-duplicate group")
        if plan.site is not None:
            with self.stage(f"fields of {plan.site}", 0) as step:
                found, boxed = read_site(self._pipeline, data_root(), plan.site, step, limit=plan.limit)
            sets[plan.site] = self._cells(found, "slide") | {"outcomes": outcomes(found)}
            sets[f"{plan.site}, true boxes"] = self._cells(boxed, "slide") | {"outcomes": outcomes(boxed)}
        return sets

    def _cells(self, cells: Sequence[ReadCell], by: str) -> dict[str, Any]:
        if not cells:
            raise DataError("a set of white cells is empty; is the data set complete?")
        return cell_set(cells, self._pipeline, resamples=self.plan.resamples, seed=self.plan.seed, by=by)

    def _outsiders(self) -> dict[str, Any]:
        plan = self.plan
        assert plan.outsiders is not None
        strangers = outsider_pictures(data_root(), plan.outsiders)
        with self.stage("cells that are none of the types", len(strangers)) as step:
            said = read_judgements(self._pipeline, strangers, step)
        ordinary = self._ordinary(plan.cells or "test")
        return {"dataset": plan.outsiders, **referral(said, [Judgement(cell.file, cell.said) for cell in ordinary])}

    def _ordinary(self, split: str) -> list[ReadCell]:
        """Cells of the single-cell set, read once."""
        if not self._single:
            pictures = cell_pictures(data_root(), self.plan.cells_dataset, split)
            pictures = thinned([p for p in pictures if p.seen_by_detector not in UNSEEN], self.plan.limit)
            with self.stage(f"white cells of {self.plan.cells_dataset} {split}", len(pictures)) as step:
                self._single = read_pictures(self._pipeline, pictures, step)
        return self._single

    def _shifts(self) -> dict[str, Any]:
        plan, records = self.plan, self._records(SHIFT_SPLIT)
        with self.stage("fields under shifts", len(records) * (len(SHIFTS) + 1)) as step:
            rows = shifted_sets(
                self._pipeline, records, data_root(), step, resamples=plan.resamples, seed=plan.seed, shifts=SHIFTS
            )
        return {"split": SHIFT_SPLIT, "fields": len(records), "rows": rows}

    def _scale(self) -> dict[str, Any]:
        records = self._records(SHIFT_SPLIT)
        with self.stage("fields at three sizes", len(records) + len(DENSE_SIZES)) as step:
            return {
                "split": SHIFT_SPLIT,
                "consistency": scale_consistency(self._pipeline, records, step),
                "dense": dense_fields(self._pipeline, step),
            }

    def _speed(self) -> dict[str, Any]:
        records = thinned(self._records(SHIFT_SPLIT), SPEED_FIELDS)
        images = [read_image(r.path) for r in records]
        with self.stage("speed", len(images)) as step:
            return {"threads": self.plan.threads, **speed(self._pipeline, images, step)}


def thinned(items: Sequence[Any], limit: int | None) -> list[Any]:
    """At most `limit` of the items, evenly spread over their order: files stand in order of their types."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def head(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """What was measured, of what, on what."""
    parts = {e.path: e.sha256 for e in bundle.manifest.files if e.path in (DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME)}
    manifest = bundle.manifest
    return {
        "schema": SCHEMA,
        "intended_use": INTENDED_USE,
        "bundle": {
            "name": manifest.name,
            "version": manifest.version,
            "role": str(manifest.role),
            "digest": bundle.digest,
            "parts": parts,
            "thresholds": {str(k): v for k, v in manifest.detector.thresholds.items()},
            "accept_probability": manifest.head.accept_probability,
        },
        "machine": machine(),
        "method": {
            "confidence": CONFIDENCE_RATIO,
            "resamples": plan.resamples,
            "seed": plan.seed,
            "threads": plan.threads,
            "limit": plan.limit,
        },
    }


def write_evaluation(document: dict[str, Any], target: Path) -> None:
    """Write a document in one piece.

    Raises:
        DataError: it cannot be written there.
    """
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    except OSError as exc:
        raise DataError(f"{target} cannot be written: {exc.strerror}") from exc


def read_evaluation(path: Path) -> dict[str, Any]:
    """A document that `ahs-train evaluate --out` has written.

    Raises:
        DataError: absent, damaged, or of another version.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise DataError(f"{path}: there is no such file; make it with `ahs-train evaluate --out`") from exc
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read as JSON: {exc}") from exc
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{path}: is no document of {SCHEMA}; make it anew with `ahs-train evaluate --out`")
    return document


@contextmanager
def progress_stages(console: Console) -> Iterator[Callable[[str, int], Any]]:
    """Progress lines on a terminal; each stage gives the step to call."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:

        @contextmanager
        def stage(words: str, steps: int) -> Iterator[Step]:
            task = progress.add_task(words, total=steps or None)
            try:
                yield lambda: progress.advance(task)
            finally:
                progress.remove_task(task)

        yield stage
