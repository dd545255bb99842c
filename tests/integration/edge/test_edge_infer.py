"""File mode and the running agent in one process, over a tiny real bundle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import edge_agent
from edge_agent.cli import app
from edge_agent.composition import compose, open_store
from edge_agent.config import load_settings
from edge_agent.console.view import PartState
from edge_agent.exit_codes import ExitCode
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.store.reads_sqlite import Reads
from models.runtime.imaging import encode_png, read_image

SCHEMA = json.loads((Path(edge_agent.__file__).parent / "infer_schema.json").read_text())
Pictures = Callable[[int], Path]


def infer(images: Path, out: Path, bundle: Path, *more: str) -> int:
    arguments = ["infer", "--images", str(images), "--out", str(out), "--bundle", str(bundle), "--threads", "1"]
    return CliRunner().invoke(app, [*arguments, "--set", "run.self_test=false", *more]).exit_code


def test_the_document_follows_its_schema_and_says_everything(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Pictures
) -> None:
    folder, out, annotated = disc_pictures(2), tmp_path / "out" / "results.json", tmp_path / "annotated"
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "grey.png").write_bytes(encode_png(np.full((480, 640, 3), 200, np.uint8)))
    assert infer(folder, out, disc_bundle, "--annotated", str(annotated)) == 0
    document = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(document)
    images = {image["file"]: image for image in document["images"]}
    first = images["field-000.png"]
    assert (first["width"], first["height"], first["decision"]) == (640, 480, "accept")
    assert first["counts"]["wbc"] == 4
    white = [cell for cell in first["detections"] if cell["class"] == "WBC"]
    assert all(cell["cell_type"]["label"] in cell["cell_type"]["probabilities"] for cell in white)
    assert not any("cell_type" in cell for cell in first["detections"] if cell["class"] != "WBC")
    assert all(0 <= x <= 640 and 0 <= y <= 480 and w > 0 and h > 0 for x, y, w, h in (c["bbox"] for c in white))
    assert images["grey.png"]["decision"] == "withheld"
    assert "too_few_cells" in images["grey.png"]["reasons"]
    (error,) = document["errors"]
    assert (error["file"], "not a picture" in error["reason"]) == ("broken.png", True)
    assert document["summary"]["decisions"] == {"accept": 2, "uncertain": 0, "withheld": 1}
    assert document["summary"]["wbc"] == 8
    drawn = read_image(annotated / "field-000.png.jpg")
    assert drawn.shape[0] > 480
    assert drawn.shape[1] == 640


def test_a_withheld_picture_keeps_its_detections_and_weaker_ones_are_listed_on_request(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Pictures
) -> None:
    out, folder = tmp_path / "results.json", disc_pictures(1)
    assert infer(folder, out, disc_bundle, "--min-score", "0.05", "--set", "quality.cells_min=9999") == 0
    (image,) = json.loads(out.read_text())["images"]
    assert (image["decision"], image["reasons"]) == ("withheld", ["too_few_cells"])
    assert sum(cell["counted"] for cell in image["detections"]) == sum(
        image["counts"][name] for name in ("rbc", "wbc", "platelets")
    )


def test_only_when_no_picture_at_all_could_be_read_the_command_fails(tmp_path: Path, disc_bundle: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "results.json"
    folder.mkdir()
    assert infer(folder, out, disc_bundle) == ExitCode.CONFIGURATION
    (folder / "a.jpg").write_bytes(b"")
    assert infer(folder, out, disc_bundle) == ExitCode.NOTHING_READ
    document = json.loads(out.read_text())
    Draft202012Validator(SCHEMA).validate(document)
    assert len(document["errors"]) == 1
    assert infer(tmp_path / "absent", out, disc_bundle) == ExitCode.CONFIGURATION
    assert infer(folder, out, tmp_path / "no-bundle") == ExitCode.BUNDLE


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.05)


def test_on_a_full_disk_the_agent_takes_no_field_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path, disc_bundle: Path, disc_pictures: Pictures
) -> None:
    overrides = {
        "data_dir": tmp_path / "data",
        "source": str(disc_pictures(6)),
        "store.min_free_bytes": 0,
        "store.full_retry_s": 0.1,
        "run.exit_when_drained": True,
        "sampling.audit_ratio": 1.0,
    }
    settings = load_settings(overrides=overrides, environment={})
    engine = open_engine(disc_bundle, threads=1, self_test=False)
    with closing(open_store(settings)) as store:
        composed = compose(settings, Switch(engine), store)
        with store.database.reading() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        store.database.limit_pages(pages + 30)
        stop, codes = threading.Event(), []
        thread = threading.Thread(target=lambda: codes.append(composed.agent.run(stop)))
        thread.start()
        try:
            until(lambda: any(p.code == "disk_full" for p in composed.parts.problems.now()), "the disk is full")
            (problem,) = composed.console.snapshot().problems
            assert "no field is taken" in problem.text
            assert not composed.console.health().alive
            before = len(list(Reads(store.database).fields()))
            assert before < 6
            store.database.limit_pages(pages + 10_000)
            until(lambda: not thread.is_alive(), "the run ends")
        finally:
            stop.set()
            thread.join(10)
        assert codes == [ExitCode.OK]
        fields = list(Reads(store.database).fields())
        assert len(fields) == len({field.source_ref for field in fields}) == 6
        health = composed.console.health()
        assert health.alive
        assert {part.name: part.state for part in health.parts}["Cloud"] is PartState.OFF
        live = composed.console.live_field()
        assert live is not None
        assert live is composed.console.live_field()
        assert live.jpeg.startswith(b"\xff\xd8")
        assert sum(box.cls == "WBC" for box in live.boxes) == 4
        snapshot = composed.console.snapshot()
        assert snapshot.slide is not None
        assert snapshot.slide.white_cells_seen == 24
        cards = composed.console.cells(None, 50)
        assert len(cards) == 24
        assert (composed.console.cell_jpeg(cards[0].cell_id) or b"").startswith(b"\xff\xd8")
        assert b"ahs_edge_store_retries_total" in composed.console.metrics_text()


@pytest.mark.parametrize(("threads", "chosen"), [([(1, 100.0), (2, 95.0)], 1), ([(1, 100.0), (2, 55.0), (4, 54.0)], 2)])
def test_more_threads_are_taken_only_where_they_help(threads: list[tuple[int, float]], chosen: int) -> None:
    from edge_agent.inference.engine import fewest_worth

    assert fewest_worth(threads) == chosen
