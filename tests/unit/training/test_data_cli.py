"""`ahs-train data` from the outside, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.runtime.imaging import encode_png
from tests.unit.training.annotated_sets import CLASSES, annotated, picture_file
from training.cli import app
from training.data.formats.annotated import AnnotatedSet, Faults
from training.data.formats.registry import Format, read_set, write_set
from training.data.generated import generated_example
from training.data.places import cache_folder, data_root, find_set, set_root
from training.errors import DataError

runner = CliRunner()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six generated fields as COCO; the last is a mirrored copy of the first and stands in another split."""
    pictures = []
    for number in range(6):
        example = generated_example(800 + number % 5, width_px=320, height_px=240)
        path = tmp_path / "made" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(example.image[:, ::-1].copy() if number == 5 else example.image))
        boxes = [tuple(b) for b in example.boxes.tolist()]
        names = [CLASSES[label] for label in example.labels.tolist()]
        split = "val" if number > 3 else "train"
        pictures.append(annotated(path, boxes, names, size=(320, 240), split=split))
    write_set(AnnotatedSet(CLASSES, tuple(pictures)), tmp_path / "set", Format.COCO, Faults())
    return tmp_path / "set"


def test_check_lists_all_faults_and_says_so_by_its_exit_code(dataset: Path) -> None:
    sound = runner.invoke(app, ["data", "check", str(dataset)])
    assert sound.exit_code == 0, sound.output
    assert "6 pictures" in sound.output
    (dataset / "images" / "train" / "1.png").write_bytes(b"")
    (dataset / "images" / "val" / "4.png").unlink()
    said = runner.invoke(app, ["data", "check", str(dataset)])
    assert said.exit_code == 1
    assert "the picture is empty" in said.output
    assert "named in val.json but not there" in said.output
    assert "5 pictures" in said.output
    assert "2 faults" in said.output


def test_a_class_can_be_allowed(tmp_path: Path) -> None:
    picture_file(tmp_path / "erythroblast" / "a.png")
    assert runner.invoke(app, ["data", "check", str(tmp_path)]).exit_code == 1
    assert runner.invoke(app, ["data", "check", str(tmp_path), "--allow", "erythroblast"]).exit_code == 0


def test_convert_renames_repairs_and_refuses_without_being_asked_to(dataset: Path, tmp_path: Path) -> None:
    text = (dataset / "train.json").read_text(encoding="utf-8").replace('"WBC"', '"leucocyte"')
    (dataset / "train.json").write_text(text, encoding="utf-8")
    (dataset / "val.json").unlink()
    picture = read_set(dataset, Faults()).pictures[0]
    wide = annotated(picture.path, [(-40, 10, 40, 40)], ["leucocyte"], size=(320, 240))
    write_set(AnnotatedSet(CLASSES, (wide,)), tmp_path / "wide", Format.COCO, Faults())
    ask = ["data", "convert", str(tmp_path / "wide"), "--to", "yolo", "--rename", "leucocyte=WBC"]
    refused = runner.invoke(app, [*ask, "--out", str(tmp_path / "no")])
    assert refused.exit_code == 1
    assert "let --repair cut it" in refused.output
    done = runner.invoke(app, [*ask, "--out", str(tmp_path / "yes"), "--repair"])
    assert done.exit_code == 0, done.output
    assert "cut to the frame" in done.output
    assert read_set(tmp_path / "yes", Faults()).pictures[0].names == ("WBC",)


def test_leaks_are_found_reported_and_gone_after_a_split(dataset: Path, tmp_path: Path) -> None:
    said = runner.invoke(app, ["data", "leaks", str(dataset), "--out", str(tmp_path / "report")])
    assert said.exit_code == 0, said.output
    assert "1 of 5 groups have pictures in more than one split" in said.output
    assert "train: 0.png; val: 5.png" in (tmp_path / "report" / "leaks.md").read_text(encoding="utf-8")
    done = runner.invoke(
        app, ["data", "split", str(dataset), "--out", str(tmp_path / "new"), "--shares", "train=.5,val=.5"]
    )
    assert done.exit_code == 0, done.output
    assert "No near-copy crosses the splits" in done.output
    after = read_set(tmp_path / "new", Faults())
    assert len(after.pictures) == 6
    assert len({p.group for p in after.pictures}) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "absent"], "no such set"),
        (["convert", "absent", "--to", "coco", "--out", "x"], "no such set"),
        (["split", "absent", "--out", "x", "--shares", "train=2"], "is no share"),
    ],
)
def test_wrong_input_is_answered_with_one_clear_message(arguments: list[str], words: str) -> None:
    said = runner.invoke(app, ["data", *arguments])
    assert said.exit_code == 1
    assert words in said.output
    assert "Traceback" not in said.output


def test_data_is_looked_for_where_the_variable_says_and_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    assert cache_folder() == tmp_path / "cache" / "ahs"
    with pytest.raises(DataError, match="AHS_DATA_DIR is not set, and nothing was fetched"):
        data_root()
    fetched = tmp_path / "cache" / "ahs" / "data"
    (fetched / "det_bccd").mkdir(parents=True)
    (fetched / "det_txl").mkdir()
    assert data_root() == fetched
    mine = tmp_path / "mine"
    (mine / "det_txl").mkdir(parents=True)
    monkeypatch.setenv("AHS_DATA_DIR", str(mine))
    assert data_root() == mine
    assert find_set("det_txl") == mine / "det_txl"
    assert find_set("det_bccd") == fetched / "det_bccd"
    assert set_root("det_txl") == mine / "det_txl"
    assert set_root("det_bccd") == fetched / "det_bccd"
    assert set_root("absent") == mine / "absent"
    monkeypatch.setenv("AHS_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="is no folder"):
        find_set("det_txl")


def test_the_commands_run_where_torch_cannot_be_imported(dataset: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'albumentations', 'mlflow', 'scipy', 'matplotlib']));"
        "from training.cli import app; app(['data', 'check', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(dataset)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 pictures" in done.stdout
