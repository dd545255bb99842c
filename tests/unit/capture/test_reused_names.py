"""A watched folder that begins its file names anew: each picture is a field, none is counted twice."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from edge_agent.capture.errors import SourceLost, SourceTimeout
from edge_agent.capture.folder import FolderSource
from edge_agent.capture.frame import Frame
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason
from edge_agent.capture.watching import LOOKED_AT_AGAIN, Patience, Stamp, Taken, Watcher

PATIENCE = Patience(settle_s=1.0, incomplete_s=30.0, locked_s=600.0)
QUIET_S = 1.0


def write(path: Path, seed: int, *, age_s: int = 0) -> None:
    """A picture; `age_s` sets its time apart from that of others, however coarse the disk's clock is."""
    pixels = np.random.default_rng(seed).integers(60, 255, (48, 64, 3), dtype=np.uint8)
    done, data = cv2.imencode(".png", pixels)
    assert done
    path.write_bytes(data.tobytes())
    os.utime(path, (1_700_000_000 - age_s, 1_700_000_000 - age_s))


class Kept:
    """What a store keeps of the frames it is given."""

    def __init__(self, *, with_stamps: bool = True) -> None:
        self.refs: list[str] = []
        self._stamps: dict[str, str] = {}
        self._with_stamps = with_stamps

    def put(self, frame: Frame) -> None:
        self.refs.append(frame.source_ref)
        assert frame.file_stamp is not None
        if self._with_stamps:
            self._stamps[frame.file_stamp.ref] = frame.file_stamp.text

    def known(self, refs: Collection[str]) -> Collection[str]:
        return set(refs) & set(self.refs)

    def stamps(self, refs: Collection[str]) -> dict[str, str]:
        return {ref: text for ref, text in self._stamps.items() if ref in refs}

    def source(self, folder: Path, told: list[DroppedFrame] | None = None) -> FolderSource:
        settings = SourceSettings(spec=str(folder), watch=True, settle_s=0.05, poll_s=0.02, incomplete_s=0.5)
        on_drop = None if told is None else told.append
        return FolderSource(settings, on_drop=on_drop, known=self.known, stamps=self.stamps)

    def read(self, source: FolderSource, *, within_s: float = 20.0) -> Frame | None:
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            try:
                frame = source.read(0.05)
            except (SourceTimeout, SourceLost):
                continue
            self.put(frame)
            return frame
        return None

    def read_all(self, source: FolderSource, count: int) -> list[Frame]:
        frames = [frame for _ in range(count) if (frame := self.read(source)) is not None]
        assert self.read(source, within_s=QUIET_S) is None
        return frames


def test_an_emptied_folder_that_begins_at_the_same_names_loses_no_picture(tmp_path: Path) -> None:
    kept = Kept()
    with kept.source(tmp_path) as source:
        write(tmp_path / "Snap-001.png", 1, age_s=90)
        write(tmp_path / "Snap-002.png", 2, age_s=80)
        assert len(kept.read_all(source, 2)) == 2
        for path in tmp_path.iterdir():
            path.unlink()
        assert kept.read(source, within_s=0.3) is None
        write(tmp_path / "Snap-001.png", 3, age_s=10)
        write(tmp_path / "Snap-002.png", 4)
        again = kept.read_all(source, 2)
    assert [frame.source_ref.split("#")[0][-12:] for frame in again] == ["Snap-001.png", "Snap-002.png"]
    assert len(set(kept.refs)) == 4, "each has a reference of its own"


def test_a_name_that_was_used_again_while_the_agent_stood_still_is_read_at_the_next_start(tmp_path: Path) -> None:
    kept = Kept()
    write(tmp_path / "Snap-001.png", 1, age_s=90)
    with kept.source(tmp_path) as source:
        kept.read_all(source, 1)
    write(tmp_path / "Snap-001.png", 2)
    with kept.source(tmp_path) as source:
        kept.read_all(source, 1)
    with kept.source(tmp_path) as source:
        assert kept.read(source, within_s=QUIET_S) is None, "and once only"
    assert len(set(kept.refs)) == 2


def test_a_file_put_back_or_touched_is_no_second_field(tmp_path: Path) -> None:
    kept = Kept()
    path = tmp_path / "a.png"
    write(path, 1, age_s=90)
    with kept.source(tmp_path) as source:
        kept.read_all(source, 1)
        path.unlink()
        assert kept.read(source, within_s=0.3) is None
        write(path, 1, age_s=50)
        assert kept.read(source, within_s=QUIET_S) is None
    with kept.source(tmp_path) as source:
        assert kept.read(source, within_s=QUIET_S) is None
    assert len(kept.refs) == 1


def test_a_file_that_was_stored_without_its_stamp_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    kept = Kept(with_stamps=False)
    write(tmp_path / "a.png", 1, age_s=90)
    with kept.source(tmp_path) as source:
        kept.read_all(source, 1)
    with kept.source(tmp_path) as source:
        assert kept.read(source, within_s=QUIET_S) is None
        write(tmp_path / "a.png", 2)
        assert kept.read(source) is not None


def test_half_a_picture_under_a_used_name_is_told_of_under_a_reference_of_its_own(tmp_path: Path) -> None:
    kept, told = Kept(), list[DroppedFrame]()
    path = tmp_path / "a.png"
    write(path, 1, age_s=90)
    with kept.source(tmp_path, told) as source:
        kept.read_all(source, 1)
        path.write_bytes(path.read_bytes()[:200])
        until_s = time.monotonic() + 20.0
        while not told and time.monotonic() < until_s:
            assert kept.read(source, within_s=0.1) is None
    (dropped,) = told
    assert dropped.reason is DropReason.UNREADABLE
    assert dropped.source_ref not in kept.refs


def test_of_many_files_that_were_taken_a_few_are_looked_at_again_with_each_listing() -> None:
    watcher = Watcher(PATIENCE)
    names = [f"{n:04d}" for n in range(3 * LOOKED_AT_AGAIN + 1)]
    for name in names:
        watcher.taken(name, Taken(Stamp(1, 1)))
    looks = [watcher.to_look_at(names) for _ in range(4)]
    assert max(len(look) for look in looks) == LOOKED_AT_AGAIN
    assert set().union(*looks) == set(names)
    watcher.to_look_at(names[1:])
    assert names[0] in watcher.to_look_at(names), "one that was gone is looked at at once"


def test_a_file_that_never_is_to_be_taken_is_not_taken_whatever_becomes_of_it() -> None:
    watcher = Watcher(PATIENCE, ["a"])
    assert watcher.to_look_at(["a"]) == set()
    watcher.look({"a": Stamp(1, 1)}, 0.0)
    assert watcher.look({"a": Stamp(1, 1)}, 5.0) == []
