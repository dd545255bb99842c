"""Where the time of a field goes, and what the domain score costs: figures of a machine, not of the bundle alone."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from models.bundle.manifest import CellClass
from models.runtime.pipeline import Pipeline
from models.runtime.results import FloatArray, ImageRGB
from training.evaluation.fields import Step
from training.evaluation.white import head_of

REPEATS = 5
ALLOWED_DOMAIN_SHARE = 0.05
STAGES = ("preprocess", "detect", "decode", "type")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "numpy": version("numpy"),
    }


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        for line in cpus.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def speed(pipeline: Pipeline, images: Sequence[ImageRGB], step: Step) -> dict[str, Any]:
    """Time of the pipeline and of the domain score over pictures in memory, one call after the other.

    The domain score of the same cells is computed `REPEATS` times beside each field and its median taken, so that both
    see the machine in the same state.
    """
    head = head_of(pipeline)
    totals, domain, rows = [], [], []
    for image in images:
        analysis = pipeline.analyse(image)
        white = np.array([d.box for d in analysis.counted(CellClass.WBC)], np.float32).reshape(-1, 4)
        embeddings = pipeline.embed(image, white, analysis.rbc_diameter_px)
        domain.append(_median_ms(head.distances, embeddings) if len(white) else 0.0)
        totals.append(analysis.latency_ms)
        rows.append([analysis.stage_ms.get(stage, 0.0) for stage in STAGES])
        step()
    stages = np.array(rows, np.float64).reshape(-1, len(STAGES))
    share = sum(domain) / max(1e-9, sum(totals))
    return {
        "fields": len(images),
        "median_ms": float(np.median(totals)),
        "p95_ms": float(np.quantile(totals, 0.95)),
        "stage_ms": {name: float(np.median(stages[:, i])) for i, name in enumerate(STAGES)},
        "domain_score_ms": float(np.mean(domain)),
        "domain_score_share": float(share),
        "within": share <= ALLOWED_DOMAIN_SHARE,
    }


def _median_ms(measured: Any, embeddings: FloatArray) -> float:
    times = []
    for _ in range(REPEATS):
        start_s = perf_counter()
        measured(embeddings)
        times.append((perf_counter() - start_s) * 1000.0)
    return float(np.median(times))
