"""The curves of training runs, from their JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from models.bundle.manifest import CellClass
from training.errors import DataError
from training.report.charts import Axes, Series, around, line_chart

CLASSES = frozenset(str(c) for c in CellClass)
METRICS_NAME, PARAMETERS_NAME = "metrics.jsonl", "parameters.json"


@dataclass(frozen=True, slots=True)
class Run:
    """A training run.

    Attributes:
        name: of its configuration.
        epochs: figures by epoch, in order.
    """

    name: str
    epochs: Sequence[Mapping[str, float]]


def read_run(folder: Path) -> Run:
    """A run's folder.

    Raises:
        DataError: no figures in it, or damaged ones.
    """
    file = folder / METRICS_NAME
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines if line.strip()]
        parameters = folder / PARAMETERS_NAME
        said: dict[str, Any] = json.loads(parameters.read_text(encoding="utf-8")) if parameters.is_file() else {}
    except FileNotFoundError as exc:
        raise DataError(f"{file}: there is no such file; --run names the folder of `ahs-train train`") from exc
    except (OSError, ValueError) as exc:
        raise DataError(f"{file}: cannot be read as JSON lines: {exc}") from exc
    if not epochs or not all(isinstance(e, dict) and "epoch" in e for e in epochs):
        raise DataError(f"{file}: holds no epochs")
    return Run(str(said.get("name", folder.name)), epochs)


def run_charts(run: Run) -> list[Markup]:
    """One small chart a figure; the same figure of each class shares one."""
    x = [float(e["epoch"]) for e in run.epochs]
    families: dict[str, list[str]] = {}
    for key in _figures(run):
        families.setdefault(_family(key), []).append(key)
    return [_chart(f"{run.name}: {name}", keys, run, x) for name, keys in families.items()]


def _family(key: str) -> str:
    """What shares a chart: the same figure of each class."""
    parts = [part for part in key.split("_") if part not in CLASSES]
    return " ".join(parts)


def _figures(run: Run) -> list[str]:
    keys: dict[str, None] = {}
    for epoch in run.epochs:
        keys |= dict.fromkeys(k for k, v in epoch.items() if k != "epoch" and isinstance(v, int | float))
    return list(keys)


def _chart(title: str, keys: Sequence[str], run: Run, x: Sequence[float]) -> Markup:
    series = []
    for number, key in enumerate(keys):
        points = [(float(e["epoch"]), float(e[key])) for e in run.epochs if key in e]
        series.append(Series(key.replace("_", " "), points, 1 + number % 6, dashed=number > 2))
    values = [y for s in series for _, y in s.points]
    axes = Axes("epoch", "", x_range=(min(x), max(max(x), min(x) + 1)), y_range=around(values))
    return line_chart(title, series, axes)
