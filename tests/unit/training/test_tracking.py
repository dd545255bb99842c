"""What a run leaves in MLflow: a real store in a SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlflow")

import torch

from tests.unit.training.small_tasks import Line, settings
from training.distributed import Place
from training.loop import RunState, Trainer
from training.tracking import artifact_location, flat_parameters, open_trackers

pytestmark = pytest.mark.torch


def test_nested_settings_get_dotted_keys_and_nothing_is_cut() -> None:
    long = "x" * 2000
    said = flat_parameters(
        {
            "seed": 7,
            "early_stop": None,
            "optimiser": {"schedule": "cosine", "batch": 16, "inner": {"deep": True}},
            "stages": [{"epochs": 2, "input_px": 64}, {"epochs": 1, "input_px": 96}],
            "net": {"stages": [32, 80], "look": {}},
            "splits": ("val", "test"),
            "data set/train": long,
        }
    )
    assert said == {
        "seed": "7",
        "early_stop": "null",
        "optimiser.schedule": "cosine",
        "optimiser.batch": "16",
        "optimiser.inner.deep": "true",
        "stages.0.epochs": "2",
        "stages.0.input_px": "64",
        "stages.1.epochs": "1",
        "stages.1.input_px": "96",
        "net.stages": "[32, 80]",
        "net.look": "{}",
        "splits": '["val", "test"]',
        "data set_train": long,
    }


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("sqlite:////srv/runs/mlflow/mlflow.db", "file:///srv/runs/mlflow/artifacts"),
        ("postgresql+psycopg://user@host/figures", "file:///srv/store/artifacts"),
        ("https://mlflow.example.org", None),
        ("file:///srv/mlruns", None),
    ],
)
def test_files_lie_beside_a_database_and_where_a_server_says(uri: str, place: str | None) -> None:
    assert artifact_location(uri, Path("/srv/store")) == place


def trained(folder: Path, *, resume: bool = False, until_epoch: int | None = None, **changes: object) -> RunState:
    tracker = open_trackers(folder, fresh=not resume)
    trainer = Trainer(settings(**changes), Line(), folder, place=Place(torch.device("cpu")), tracker=tracker)
    return trainer.run(resume=resume, until_epoch=until_epoch)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which nothing may appear."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def runs_in(store: Path, name: str = "line") -> tuple[Any, list[Any]]:
    """A client of the store, and the runs of its experiment, the oldest first."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


@pytest.mark.slow
def test_a_run_that_is_resumed_is_one_run_with_everything_of_it(tmp_path: Path, elsewhere: Path) -> None:
    folder = tmp_path / "runs" / "line"
    trained(folder, until_epoch=1)
    client, (half,) = runs_in(tmp_path / "runs" / "mlflow")
    assert [file.path for file in client.list_artifacts(half.info.run_id)] == []
    # What may change between resumptions is told beside what the run began with.
    trained(folder, resume=True, validate_every=2)
    client, (run,) = runs_in(tmp_path / "runs" / "mlflow")
    assert run.info.run_id == half.info.run_id == (folder / "mlflow_run_id").read_text(encoding="utf-8").strip()
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["data line"] == "0" * 64
    assert params["seed"] == "7"
    assert params["optimiser.warmup_steps"] == "1"
    assert params["stages.0.input_px"] == "64"
    assert params["loss.class_weights"] == "[1.0, 1.3, 4.0]"
    assert params["validate_every"] == "1"
    assert run.data.tags["resumed.validate_every"] == "2"
    for name in ("loss", "score"):
        assert [figure.step for figure in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    kept = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    assert kept == {name: (folder / path).stat().st_size for name, path in FILES.items()}
    assert run.info.artifact_uri.startswith((tmp_path / "runs" / "mlflow" / "artifacts").as_uri())
    assert list(elsewhere.iterdir()) == []

    trained(folder, until_epoch=1)
    client, runs = runs_in(tmp_path / "runs" / "mlflow")
    assert len(runs) == 2, "a run that is begun anew is a run of its own"
    client.delete_run((folder / "mlflow_run_id").read_text(encoding="utf-8").strip())
    trained(folder, resume=True)
    _, runs = runs_in(tmp_path / "runs" / "mlflow")
    assert len(runs) == 2, "a run that was deleted in the store is continued as a new one"
    assert runs[1].info.run_id == (folder / "mlflow_run_id").read_text(encoding="utf-8").strip()


FILES = {"line.png": "samples/line.png", "best.pt": "best.pt"}
