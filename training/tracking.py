"""Where a run's figures go: a JSON lines file always, an MLflow store where MLflow is installed. The door to MLflow."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the figures of a run."""

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        """A run begins."""

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Figures of an epoch."""

    def keep(self, path: Path) -> None:
        """A file that belongs to the run."""

    def finish(self) -> None:
        """The run is over."""


class FileTracker:
    """Appends each epoch's figures to a JSON lines file."""

    def __init__(self, path: Path, *, fresh: bool = True) -> None:
        self._path = path
        if fresh:
            path.unlink(missing_ok=True)

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        """Writes the parameters beside the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        said = json.dumps({"name": name, **parameters}, indent=1, default=str)
        self._path.with_name("parameters.json").write_text(said + "\n", encoding="utf-8")

    def record(self, step: int, figures: dict[str, float]) -> None:
        """One line."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"epoch": step, **figures}) + "\n")

    def keep(self, path: Path) -> None:
        """It lies in the run's folder already."""

    def finish(self) -> None:
        """Nothing is held open."""


class MlflowTracker:
    """Writes to the store named by `MLFLOW_TRACKING_URI`, by default a SQLite file in the run's folder."""

    def __init__(self, folder: Path) -> None:
        # An upload of usage figures is not ours to make.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
        self._mlflow = mlflow
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db")

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        """Opens a run under the experiment of that name."""
        self._mlflow.set_experiment(name)
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params({k: str(v)[:500] for k, v in parameters.items()})

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Figures of an epoch."""
        self._mlflow.log_metrics(figures, step=step)

    def keep(self, path: Path) -> None:
        """An artifact of the run."""
        self._mlflow.log_artifact(str(path))

    def finish(self) -> None:
        """Closes the run."""
        self._mlflow.end_run()


class Trackers:
    """Several trackers as one."""

    def __init__(self, members: list[Tracker]) -> None:
        self._members = members

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        """A run begins."""
        for member in self._members:
            member.start(name, parameters)

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Figures of an epoch."""
        for member in self._members:
            member.record(step, figures)

    def keep(self, path: Path) -> None:
        """A file that belongs to the run."""
        for member in self._members:
            member.keep(path)

    def finish(self) -> None:
        """The run is over."""
        for member in self._members:
            member.finish()


def open_trackers(folder: Path, *, use_mlflow: bool = True, fresh: bool = True) -> Trackers:
    """The trackers of a run; says so where MLflow is wanted and not installed.

    Args:
        folder: of the run.
        use_mlflow: log to MLflow's store as well.
        fresh: a new run; False continues the figures of one that stopped.
    """
    members: list[Tracker] = [FileTracker(folder / "metrics.jsonl", fresh=fresh)]
    if use_mlflow:
        try:
            members.append(MlflowTracker(folder.parent / "mlflow"))
        except ImportError:
            log.warning("MLflow is not installed: figures go to %s only", folder / "metrics.jsonl")
    return Trackers(members)
