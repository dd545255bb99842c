"""Where a run's figures go: a JSON lines file always, an MLflow store where MLflow is installed. The door to MLflow."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

RUN_ID_NAME = "mlflow_run_id"
"""File of a run's folder: the run's id in MLflow."""
ARTIFACTS_NAME = "artifacts"
_NOT_IN_KEYS = re.compile(r"[^\w.\- ]")


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
    """Writes to the store named by `MLFLOW_TRACKING_URI`, by default a SQLite file in a folder of its own.

    The run's id lies in the run's folder, so that a run that is continued is one run in the store too.

    Args:
        store: folder of the default store.
        folder: of the run.
        fresh: begin a new run; False continues the one that the folder names.
    """

    def __init__(self, store: Path, folder: Path, *, fresh: bool) -> None:
        # An upload of usage figures is not ours to make.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
        self._mlflow = mlflow
        self._id_path, self._fresh, self._run_id = folder / RUN_ID_NAME, fresh, ""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            store.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{store.resolve()}/mlflow.db"
        self._artifacts = artifact_location(uri, store)
        # A client, not `mlflow.start_run`: that one chooses the store for the whole process and its children.
        self._client = mlflow.MlflowClient(tracking_uri=uri)

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        """Opens a run under the experiment of that name, or the run that is continued."""
        said = flat_parameters(parameters)
        known = None if self._fresh else self._before()
        if known is None:
            tags = self._mlflow.tracking.context.registry.resolve_tags()
            run = self._client.create_run(self._experiment(name), run_name=name, tags=tags)
            self._run_id, before = run.info.run_id, {}
            self._id_path.parent.mkdir(parents=True, exist_ok=True)
            self._id_path.write_text(self._run_id + "\n", encoding="utf-8")
        else:
            self._run_id, before = known.info.run_id, known.data.params
            self._client.update_run(self._run_id, status="RUNNING")
        entities = self._mlflow.entities
        # The store keeps a parameter for good: what is another value since is told beside it.
        changed = {key: value for key, value in said.items() if before.get(key, value) != value}
        self._client.log_batch(
            self._run_id,
            params=[entities.Param(key, value) for key, value in said.items() if key not in before],
            tags=[entities.RunTag(f"resumed.{key}", value) for key, value in changed.items()],
        )

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Figures of an epoch."""
        now_ms = int(time.time() * 1000)
        said = [self._mlflow.entities.Metric(key, value, now_ms, step) for key, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=said)

    def keep(self, path: Path) -> None:
        """An artifact of the run."""
        self._client.log_artifact(self._run_id, str(path))

    def finish(self) -> None:
        """Closes the run."""
        self._client.set_terminated(self._run_id)

    def _before(self) -> Any:
        """The run that the folder names; None, with a word on why, where the store has it no longer."""
        if not self._id_path.is_file():
            log.warning("%s is absent: the run is continued as a new one in MLflow", self._id_path)
            return None
        run_id = self._id_path.read_text(encoding="utf-8").strip()
        try:
            run = self._client.get_run(run_id)
        except self._mlflow.exceptions.MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            log.warning("MLflow has no run %s any longer: the run is continued as a new one there", run_id)
            return None
        return run

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=self._artifacts))


def artifact_location(uri: str, store: Path) -> str | None:
    """Where the files of a store's runs go: beside its database. MLflow would take `mlruns` of the current folder.

    Args:
        uri: of the store.
        store: folder of the default store; holds the files of a database that is no file.

    Returns:
        A file URI; None where the store knows itself: a server, or a folder.
    """
    scheme, _, rest = uri.partition("://")
    dialect = scheme.split("+")[0]
    if dialect == "sqlite":
        return (Path(rest.removeprefix("/").split("?")[0]).resolve().parent / ARTIFACTS_NAME).as_uri()
    if dialect in ("postgresql", "mysql", "mssql"):
        return (store.resolve() / ARTIFACTS_NAME).as_uri()
    return None


def flat_parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings under dotted keys: `optimiser.batch`, `stages.0.input_px`. Lists of plain values stay whole."""
    flat: dict[str, str] = {}

    def put(key: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                put(f"{key}.{name}" if key else str(name), inner)
        elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
            for number, inner in enumerate(value):
                put(f"{key}.{number}", inner)
        else:
            flat[_NOT_IN_KEYS.sub("_", key)] = value if isinstance(value, str) else json.dumps(value, default=str)

    put("", parameters)
    return flat


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
            members.append(MlflowTracker(folder.parent / "mlflow", folder, fresh=fresh))
        except ImportError:
            log.warning("MLflow is not installed: figures go to %s only", folder / "metrics.jsonl")
    return Trackers(members)


class TrackerOpener(Protocol):
    """Opens the trackers of a run's folder."""

    def __call__(self, folder: Path, *, fresh: bool) -> Trackers:
        """As `open_trackers`."""
