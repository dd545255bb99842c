"""The same files judged by the daemon, by `infer`, by a replay and beside a new model: the same decisions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.composition import compose, open_store
from edge_agent.config import Settings, load_settings
from edge_agent.exit_codes import ExitCode
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import StoredField
from edge_agent.updating import judge_of
from models.runtime.imaging import read_image

PICTURES = 3


def run_agent(settings: Settings) -> list[StoredField]:
    """Reads the source to its end; what the store holds then."""
    with closing(open_store(settings)) as store, closing(Switch(open_engine(settings.inference.bundle, threads=1,
                                                                            self_test=False))) as switch:  # fmt: skip
        assert compose(settings, switch, store).agent.run(threading.Event()) == ExitCode.OK
        return list(Reads(store.database).fields())


@pytest.mark.parametrize("um_per_px", [None, 0.1, 0.5])
def test_daemon_files_replay_and_shadow_agree_whatever_the_scale(
    um_per_px: float | None, tmp_path: Path, disc_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    folder = disc_pictures(PICTURES)
    config = tmp_path / "edge.yaml"
    config.write_text(
        json.dumps(
            {
                "data_dir": str(tmp_path / "data"),
                "source": {"spec": str(folder), "um_per_px": um_per_px},
                "slide": {"name": "S-1"},
                "inference": {"bundle": str(disc_bundle), "threads": 1},
                "console": {"enabled": False},
                "store": {"min_free_bytes": 0},
                "run": {"self_test": False, "exit_when_drained": True},
            }
        )
    )
    settings = load_settings(config, environment={})
    by_daemon = run_agent(settings)
    assert len(by_daemon) == PICTURES

    out = tmp_path / "results.json"
    done = CliRunner().invoke(app, ["infer", "--config", str(config), "--images", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    by_infer = json.loads(out.read_text())["images"]
    assert [(f.decision.value, list(f.reasons), f.counts.model_dump(mode="json")) for f in by_daemon] == [
        (image["decision"], image["reasons"], image["counts"]) for image in by_infer
    ]

    changes = tmp_path / "changes.json"
    done = CliRunner().invoke(app, ["infer", "--config", str(config), "--replay", "S-1", "--out", str(changes)])
    assert done.exit_code == 0, done.output
    again = json.loads(changes.read_text())
    assert (again["fields"]["replayed"], again["changes"]) == (PICTURES, [])

    judge = judge_of(settings)
    with closing(open_engine(disc_bundle, threads=1, self_test=False)) as engine:
        for stored, path in zip(by_daemon, sorted(folder.iterdir()), strict=True):
            image = read_image(path)
            analysis = engine.analyse(image, min_score=settings.triage.weak_white_cell_score)
            assert judge(image, (analysis, analysis)) == (stored.decision, stored.decision)
    assert ("red_cell_size" in by_daemon[0].reasons) is (um_per_px == 0.5), "the scale does matter"


def test_a_simulated_microscope_has_its_scale_in_every_judgement() -> None:
    assert load_settings(environment={}).source.frame_um_per_px == 0.083
    given = load_settings(overrides={"source": "sim:seed=2,um_per_px=0.1"}, environment={})
    assert given.source.frame_um_per_px == 0.1
    assert load_settings(overrides={"source": "0"}, environment={}).source.frame_um_per_px is None
