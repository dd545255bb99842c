"""A stored slide under another bundle: from the source's own pictures, from copies that wait, or said to be gone."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import edge_agent
from edge_agent.cli import app
from edge_agent.composition import compose, open_store
from edge_agent.config import load_settings
from edge_agent.exit_codes import ExitCode
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.replay import NOT_KEPT
from models.bundle import read_bundle, write_bundle
from models.runtime.imaging import encode_png, read_image

SCHEMA = json.loads((Path(edge_agent.__file__).parent / "replay_schema.json").read_text())
SLIDE = "S-1"


def run_agent(data: Path, source: str, bundle: Path, *, fields: int, copies: bool) -> None:
    """Reads a slide to its end into a store; with `copies` every picture waits to be sent."""
    overrides: dict[str, Any] = {"data_dir": data, "source": source, "slide.name": SLIDE, "console.enabled": False}
    overrides |= {"run.exit_when_drained": True, "run.stop_after_fields": fields}
    overrides["sampling.audit_ratio"] = 1.0 if copies else 0.0
    settings = load_settings(overrides=overrides, environment={})
    with closing(open_store(settings)) as store:
        switch = Switch(open_engine(bundle, threads=1, self_test=False))
        agent = compose(settings, switch, store).agent
        assert agent.run(threading.Event()) == ExitCode.OK
        switch.close()


def replay(data: Path, source: str, bundle: Path, out: Path, *, slide: str = SLIDE) -> tuple[int, str]:
    arguments = ["infer", "--replay", slide, "--data-dir", str(data), "--source", source, "--out", str(out)]
    arguments += ["--bundle", str(bundle), "--threads", "1", "--set", "run.self_test=false"]
    done = CliRunner().invoke(app, arguments)
    if out.is_file():
        Draft202012Validator(SCHEMA).validate(json.loads(out.read_text()))
    return done.exit_code, done.output


@pytest.fixture
def stricter_bundle(disc_bundle: Path, tmp_path: Path) -> Path:
    """The same networks, but no white cell reaches its threshold."""
    bundle = read_bundle(disc_bundle)
    fields = bundle.manifest.model_dump(mode="json", by_alias=True) | {"version": "9.0.0"}
    fields["detector"]["thresholds"]["WBC"] = 1.0
    target = tmp_path / "stricter"
    write_bundle(target, {k: v for k, v in fields.items() if k not in ("files", "schema")}, bundle.files)
    return target


def test_the_same_bundle_over_the_same_pictures_changes_nothing(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    pictures, out = str(disc_pictures(3)), tmp_path / "changes.json"
    run_agent(tmp_path / "data", pictures, disc_bundle, fields=3, copies=False)
    code, said = replay(tmp_path / "data", pictures, disc_bundle, out)
    assert code == ExitCode.OK, said
    document = json.loads(out.read_text())
    assert document["fields"] == {"stored": 3, "replayed": 3, "source": 3, "sent_copy": 0, "not_replayed": 0}
    assert document["changes"] == []
    assert document["before"] == document["after"]
    assert document["models_before"] == [document["model_after"]["digest"]]
    assert "3 of 3 fields" in said


def test_another_bundle_shows_the_cells_that_it_loses(
    tmp_path: Path, disc_bundle: Path, stricter_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    pictures, out = str(disc_pictures(2)), tmp_path / "changes.json"
    run_agent(tmp_path / "data", pictures, disc_bundle, fields=2, copies=False)
    code, said = replay(tmp_path / "data", pictures, stricter_bundle, out)
    assert code == ExitCode.OK, said
    document = json.loads(out.read_text())
    assert (document["before"]["wbc"], document["after"]["wbc"]) == (8, 0)
    assert document["before"]["rbc"] == document["after"]["rbc"]
    assert document["cells"] == {"lost": 8}
    first = document["changes"][0]
    assert first["boxes"]["WBC"] == {"lost": 4, "new": 0}
    assert all(cell["before"] and cell["after"] is None for cell in first["white_cells"])
    assert "white cells: 8 -> 0" in said


def test_without_its_source_a_field_is_read_from_the_copy_that_waits_and_otherwise_said_to_be_gone(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    folder, out = disc_pictures(3), tmp_path / "changes.json"
    run_agent(tmp_path / "data", str(folder), disc_bundle, fields=3, copies=True)
    shutil.rmtree(folder)
    code, said = replay(tmp_path / "data", str(folder), disc_bundle, out)
    assert code == ExitCode.OK, said
    assert json.loads(out.read_text())["fields"]["sent_copy"] == 3
    run_agent(tmp_path / "gone", str(disc_pictures(2)), disc_bundle, fields=2, copies=False)
    code, said = replay(tmp_path / "gone", "sim:seed=1", disc_bundle, out)
    assert code == ExitCode.NOTHING_READ
    document = json.loads(out.read_text())
    assert [row["reason"] for row in document["not_replayed"]] == [NOT_KEPT, NOT_KEPT]
    assert f"2 x {NOT_KEPT}" in said


def test_a_picture_that_became_another_one_is_not_compared(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    folder, out = disc_pictures(2), tmp_path / "changes.json"
    run_agent(tmp_path / "data", str(folder), disc_bundle, fields=2, copies=False)
    smaller = read_image(folder / "field-000.png")[:200, :300]
    (folder / "field-000.png").write_bytes(encode_png(smaller.copy()))
    (folder / "field-001.png").write_bytes(b"no picture any more")
    code, _ = replay(tmp_path / "data", str(folder), disc_bundle, out)
    assert code == ExitCode.NOTHING_READ
    reasons = [row["reason"] for row in json.loads(out.read_text())["not_replayed"]]
    assert "another picture" in reasons[0]
    assert "field-001.png" in reasons[1]


def test_fields_of_a_simulated_slide_are_drawn_again(tmp_path: Path, disc_bundle: Path) -> None:
    out, source = tmp_path / "changes.json", "sim:seed=3"
    run_agent(tmp_path / "data", source, disc_bundle, fields=2, copies=False)
    code, said = replay(tmp_path / "data", source, disc_bundle, out)
    assert code == ExitCode.OK, said
    document = json.loads(out.read_text())
    assert document["fields"]["source"] == 2
    assert document["changes"] == []


def test_an_unknown_slide_names_those_that_there_are_and_both_ways_at_once_are_refused(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Callable[[int], Path]
) -> None:
    pictures, out = str(disc_pictures(1)), tmp_path / "changes.json"
    run_agent(tmp_path / "data", pictures, disc_bundle, fields=1, copies=False)
    code, said = replay(tmp_path / "data", pictures, disc_bundle, out, slide="S-9")
    assert code == ExitCode.CONFIGURATION
    assert SLIDE in said
    for arguments in (["--images", pictures, "--replay", SLIDE], []):
        done = CliRunner().invoke(app, ["infer", "--out", str(out), *arguments])
        assert done.exit_code == ExitCode.CONFIGURATION
        assert "either --images" in done.output
    assert not out.exists()
