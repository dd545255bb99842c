from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason, SourceState


def write_picture(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def watched(folder: Path, settle_s: float = 0.05) -> SourceSettings:
    return SourceSettings(spec=str(folder), watch=True, settle_s=settle_s, poll_s=0.02)


def test_an_unreadable_picture_is_told_counted_and_skipped(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"this is no picture")
    write_picture(tmp_path / "c.png")
    told: list[DroppedFrame] = []
    with open_source(SourceSettings(spec=str(tmp_path)), on_drop=told.append) as source:
        names = [source.read(1.0).source_ref.rsplit("/", 1)[1] for _ in range(2)]
        with pytest.raises(SourceEnded, match="2 frames"):
            source.read(1.0)
        status = source.status()
    assert names == ["a.png", "c.png"]
    assert status.dropped == {DropReason.UNREADABLE: 1}
    assert [(d.reason, "b.png" in d.text) for d in told] == [(DropReason.UNREADABLE, True)]


def test_an_empty_folder_an_absent_path_and_a_single_picture_are_refused_with_advice(tmp_path: Path) -> None:
    write_picture(tmp_path / "one.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, says in ((empty, "holds no picture"), (tmp_path / "no", "no such"), (tmp_path / "one.png", "folder")):
        with pytest.raises(SourceNotFound, match=says), open_source(SourceSettings(spec=str(path))):
            pass


def test_a_file_that_is_still_being_written_waits_until_it_is_complete(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_picture(tmp_path / "made.png")
    data = (tmp_path / "made.png").read_bytes()
    whole.mkdir()
    with open_source(watched(whole, settle_s=0.3)) as source:
        with (whole / "new.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                with pytest.raises(SourceTimeout):
                    source.read(0.1)
        assert source.read(2.0).source_ref.endswith("/new.png")
        assert source.status().dropped == {}
        with pytest.raises(SourceTimeout):
            source.read(0.5)


def test_a_watched_share_that_goes_away_is_lost_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    write_picture(folder / "a.png")
    with open_source(watched(folder)) as source:
        assert source.read(2.0).frame == 1
        shutil.rmtree(folder)
        with pytest.raises(SourceLost):
            source.read(0.3)
        assert source.status().state is SourceState.RECONNECTING
        folder.mkdir()
        write_picture(folder / "b.png", 1)
        for _ in range(40):
            try:
                assert source.read(0.05).source_ref.endswith("/b.png")
                break
            except (SourceLost, SourceTimeout):
                continue
        assert source.status().reconnects == 1


def test_folders_of_one_name_in_two_places_have_different_references(tmp_path: Path) -> None:
    refs = set()
    for place in ("x", "y"):
        folder = tmp_path / place / "slides"
        folder.mkdir(parents=True)
        write_picture(folder / "a.png")
        with open_source(SourceSettings(spec=str(folder))) as source:
            refs.add(source.read(1.0).source_ref)
    assert len(refs) == 2


def test_the_simulators_journal_holds_each_frame_once_also_after_a_kill(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    wanted = SourceSettings.model_validate(
        {"spec": "sim:seed=5,fields=4,width_px=160,height_px=120", "simulated": {"journal": journal}}
    )
    with open_source(wanted) as source:
        frames = [source.read(5.0) for _ in range(3)]
    with journal.open("ab") as file:
        file.write(b'{"source_ref": "cut o')
    again = open_source(wanted)
    again.resume_after(frames[1].source_ref)
    with again:
        assert np.array_equal(again.read(5.0).image, frames[2].image)
        last = again.read(5.0)
        with pytest.raises(SourceEnded):
            again.read(5.0)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["source_ref"] for line in lines] == [f.source_ref for f in [*frames, last]]
    assert lines[0]["truth"] == json.loads(json.dumps([{**_cell(c)} for c in frames[0].truth or ()]))


def _cell(cell: object) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(cell)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", "camera"),
        ("http://10.0.0.5/video", "stream"),
        ("rtsp://camera/1", "stream"),
        ("sim", "simulated"),
        ("sim:seed=7,fields_per_s=2", "simulated"),
        ("slide.mp4", "video"),
        (".", "folder"),
    ],
)
def test_a_plain_text_says_what_to_read(text: str, kind: str) -> None:
    assert SourceSettings.model_validate(text).kind == kind


def test_options_of_the_simulation_stand_in_the_text_and_wrong_ones_are_refused() -> None:
    made = SourceSettings.model_validate("sim:seed=9,fields_per_s=2.5,bad_field_ratio=0.1")
    assert (made.simulated.seed, made.fields_per_s, made.simulated.bad_field_ratio) == (9, 2.5, 0.1)
    for wrong in ("sim:sed=9", "sim:seed", "sim:seed=x"):
        with pytest.raises(ValidationError):
            SourceSettings.model_validate(wrong)
