"""The model at work: bundle, self-test, threads chosen by measurement, pipeline kept warm."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Protocol

import numpy as np

from edge_agent.errors import BadArtefact
from fleet.contract.cells import ModelRef
from models.bundle import Bundle, BundleError, BundleManifest, read_bundle
from models.bundle.manifest import GOLDEN_NAME
from models.runtime import ModelRuntimeError, Pipeline, SelfTestReport, decode_image, run_self_test
from models.runtime.results import FieldAnalysis, ImageRGB
from models.zoo import ZooError, shipped

MAX_THREADS = 8
ROUNDS = 3
WORTH_RATIO = 0.9
"""More threads are taken only where they bring the time of a field below this share of it."""


class Engine(Protocol):
    """Something that finds and names cells."""

    @property
    def model(self) -> ModelRef:
        """Which model."""
        ...

    def for_field(self) -> Engine:
        """For one field: its `model` is the one whose analysis it gave, whatever is exchanged meanwhile."""
        ...

    def analyse(self, image: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        """See `models.runtime.Pipeline.analyse`."""
        ...


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known of the running model.

    Attributes:
        manifest: what the bundle says of itself.
        threads: ONNX Runtime's threads.
        loaded_at: UTC.
        self_test: the last one; None when it was switched off.
    """

    manifest: BundleManifest
    threads: int
    loaded_at: datetime
    self_test: SelfTestReport | None


class BundleEngine:
    """See `Engine`; over one verified bundle."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, facts: EngineFacts) -> None:
        self._pipeline = pipeline
        self.facts = facts
        self._model = ModelRef(name=bundle.manifest.name, version=bundle.manifest.version, digest=bundle.digest)

    @property
    def model(self) -> ModelRef:
        """Name, version and digest."""
        return self._model

    def for_field(self) -> BundleEngine:
        """Itself: it never changes."""
        return self

    def analyse(self, image: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        """One field."""
        return self._pipeline.analyse(image, min_score=min_score)

    def close(self) -> None:
        """Lets go of the networks."""
        self._pipeline.close()


def open_engine(
    path: Path | None,
    *,
    threads: int | None = None,
    self_test: bool = True,
    digest: str | None = None,
    proven: SelfTestReport | None = None,
) -> BundleEngine:
    """Reads, verifies, opens, proves and warms up a bundle.

    Args:
        path: folder or zip; None takes the shipped edge bundle.
        threads: ONNX Runtime's threads; None measures.
        self_test: prove the model on its golden inputs first.
        digest: what the bundle must be; None takes any.
        proven: report of a self-test that it has passed on this workstation, where none is run now.

    Raises:
        BadArtefact: missing, corrupt, incompatible, or fails its self-test; the message says what to do.
    """
    try:
        bundle = read_bundle(path if path is not None else shipped("edge"))
        if digest is not None and bundle.digest != digest:
            raise BadArtefact(f"{bundle.path} is {bundle.digest}, not {digest}; it was changed after it was installed")
        chosen = threads if threads is not None else measured_threads(bundle)
        # The sampling asks how new a cell is.
        pipeline = Pipeline(bundle, threads=chosen, keep_embeddings=True)
        pipeline.warm_up()
    except (BundleError, ZooError, ModelRuntimeError) as exc:
        raise BadArtefact(f"the model cannot be used: {exc}") from exc
    report = run_self_test(pipeline) if self_test else proven
    if report is not None and not report.passed:
        failed = "; ".join(f"{check.name} ({check.detail})" for check in report.failures)
        raise BadArtefact(
            f"the model {bundle.manifest.name} {bundle.manifest.version} fails its self-test on this workstation: "
            f"{failed}; install another bundle"
        )
    return BundleEngine(pipeline, bundle, EngineFacts(bundle.manifest, chosen, datetime.now(UTC), report))


def measured_threads(bundle: Bundle) -> int:
    """Number of threads at which one field takes least time; the smaller number where it hardly matters."""
    picture = _probe(bundle)
    found: list[tuple[int, float]] = []
    for threads in candidates(_cores()):
        pipeline = Pipeline(bundle, threads=threads)
        pipeline.warm_up()
        found.append((threads, _time_ms(lambda p=pipeline: p.analyse(picture))))  # type: ignore[misc]
        pipeline.close()
    return fewest_worth(found)


def candidates(cores: int) -> list[int]:
    """1, 2, 4, ... up to the cores."""
    return [n for n in (1, 2, 4, 8) if n <= min(max(cores, 1), MAX_THREADS)]


def fewest_worth(measured: Sequence[tuple[int, float]]) -> int:
    """From (threads, milliseconds), fewest threads first: a step up must bring a tenth. ValueError without any."""
    if not measured:
        raise ValueError("nothing was measured")
    chosen, best_ms = measured[0]
    for threads, took_ms in measured[1:]:
        if took_ms < best_ms * WORTH_RATIO:
            chosen, best_ms = threads, took_ms
    return chosen


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _time_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start_s = perf_counter()
        call()
        times.append((perf_counter() - start_s) * 1000.0)
    return median(times)


def _probe(bundle: Bundle) -> ImageRGB:
    """A golden field where there is one (white cells take time as well), else noise."""
    for name in sorted(bundle.files):
        if name.startswith(f"{Path(GOLDEN_NAME).parent}/") and name.endswith(".png"):
            return decode_image(bundle.files[name])
    return np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
