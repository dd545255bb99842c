"""A watched folder beside a vendor's program: whole pictures only, each once, however the program writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import QualityGate
from edge_agent.capture.opening import open_source
from edge_agent.capture.selection import FieldSelector
from edge_agent.capture.settings import QualitySettings, SelectionSettings, SourceSettings
from edge_agent.capture.source import DroppedFrame, DropReason, FrameSource, SourceState, SourceStatus
from edge_agent.capture.watching import Patience, Stamp, Trouble, Watcher
from edge_agent.capturing import ABSENT, CaptureLoop, Frames, Tickets
from edge_agent.live_fields import LiveFields
from edge_agent.metrics import Metrics
from edge_agent.problems import Problems
from edge_agent.supervision import Worker
from models.runtime.imaging import decode_image

SETTLE_S = 0.05


def picture(suffix: str = ".jpg", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(60, 255, (48, 64, 3), dtype=np.uint8)
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def watched(folder: Path, told: list[DroppedFrame] | None = None, **more: object) -> FrameSource:
    base = {"spec": str(folder), "watch": True, "settle_s": SETTLE_S, "poll_s": 0.02}
    settings = SourceSettings.model_validate(base | more)
    return open_source(settings, on_drop=None if told is None else told.append)


def read_within(source: FrameSource, seconds: float) -> Frame | None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        try:
            return source.read(0.05)
        except (SourceTimeout, SourceLost):
            continue
        except SourceEnded:
            return None
    return None


def nothing_for(source: FrameSource, seconds: float) -> None:
    assert read_within(source, seconds) is None


def appended_slowly(path: Path, data: bytes, pause: Callable[[], None]) -> None:
    half = len(data) // 2
    path.write_bytes(data[:half])
    pause()
    with path.open("ab") as file:
        file.write(data[half:])


def reserved_first(path: Path, data: bytes, pause: Callable[[], None]) -> None:
    half = len(data) // 2
    with path.open("wb") as file:
        file.truncate(len(data))
        file.write(data[:half])
        file.flush()
        pause()
        file.write(data[half:])


def renamed_into_place(path: Path, data: bytes, pause: Callable[[], None]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data[: len(data) // 2])
    pause()
    temporary.write_bytes(data)
    temporary.rename(path)


def empty_first(path: Path, data: bytes, pause: Callable[[], None]) -> None:
    path.touch()
    pause()
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("write", [appended_slowly, reserved_first, renamed_into_place, empty_first])
def test_a_picture_is_read_whole_and_once_however_it_is_written(
    tmp_path: Path, suffix: str, write: Callable[[Path, bytes, Callable[[], None]], None]
) -> None:
    told: list[DroppedFrame] = []
    data = picture(suffix)
    with watched(tmp_path, told) as source:
        write(tmp_path / f"field{suffix}", data, lambda: nothing_for(source, 8 * SETTLE_S))
        frame = read_within(source, 20.0)
        assert frame is not None
        assert np.array_equal(frame.image, decode_image(data))
        nothing_for(source, 4 * SETTLE_S)
    assert told == []


def test_a_picture_that_another_program_has_locked_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[DroppedFrame] = []
    locked = threading.Event()
    opened = Path.open

    def guarded(path: Path, *args: object, **more: object) -> object:
        if locked.is_set() and path.name == "a.jpg":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **more)  # type: ignore[call-overload]

    locked.set()
    (tmp_path / "a.jpg").write_bytes(picture())
    monkeypatch.setattr(Path, "open", guarded)
    with watched(tmp_path, told, incomplete_s=0.1) as source:
        nothing_for(source, 0.5)
        assert "1 not complete yet" in source.status().text
        locked.clear()
        assert read_within(source, 20.0) is not None
    assert told == []


def test_what_never_becomes_a_picture_is_dropped_once_and_has_another_chance_when_it_changes(tmp_path: Path) -> None:
    told: list[DroppedFrame] = []
    with watched(tmp_path, told, incomplete_s=0.2) as source:
        (tmp_path / "a.jpg").write_bytes(b"no picture at all")
        (tmp_path / "b.jpg").write_bytes(picture(seed=1))
        first = read_within(source, 20.0)
        assert first is not None
        assert first.source_ref.endswith("b.jpg"), "one that waits holds up no other"
        nothing_for(source, 1.5)
        assert [(d.reason, "a.jpg" in d.source_ref) for d in told] == [(DropReason.UNREADABLE, True)]
        (tmp_path / "a.jpg").write_bytes(picture(seed=2))
        second = read_within(source, 20.0)
        assert second is not None
        assert second.source_ref.endswith("a.jpg")
    assert len(told) == 1


def test_a_picture_that_really_ends_in_zeros_is_read_all_the_same(tmp_path: Path) -> None:
    told: list[DroppedFrame] = []
    done, data = cv2.imencode(".bmp", np.zeros((48, 64, 3), np.uint8))
    assert done
    (tmp_path / "a.bmp").write_bytes(data.tobytes())
    with watched(tmp_path, told, incomplete_s=0.3) as source:
        assert read_within(source, 20.0) is not None
    assert told == []


def test_a_picture_that_is_moved_away_before_it_was_read_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[DroppedFrame] = []
    (tmp_path / "a.jpg").write_bytes(picture())
    opened = Path.open

    def moved(path: Path, *args: object, **more: object) -> object:
        if path.name == "a.jpg":
            path.rename(tmp_path / "b.jpg")
        return opened(path, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", moved)
    with watched(tmp_path, told, incomplete_s=0.0, locked_s=0.0) as source:
        frame = read_within(source, 20.0)
        assert frame is not None
        assert frame.source_ref.endswith("b.jpg")
    assert told == []


def test_a_share_that_is_absent_at_the_start_is_waited_for(tmp_path: Path) -> None:
    share = tmp_path / "share"
    frames: Frames = Frames(4)
    problems, stop = Problems(), threading.Event()
    fields = LiveFields(FieldSelector(SelectionSettings()), QualityGate(QualitySettings()))
    loop = CaptureLoop(
        lambda: watched(share), frames, fields=fields, tickets=Tickets(None), enough=threading.Event(), strict=False,
        metrics=Metrics(), problems=problems,
    )  # fmt: skip
    worker = Worker("capture", loop.run, stop=stop, metrics=Metrics(), fatal=(SourceNotFound,))
    worker.start()
    try:
        until_s = time.monotonic() + 20
        while not problems.now() and worker.failure is None and time.monotonic() < until_s:
            time.sleep(0.01)
        assert worker.failure is None
        (problem,) = problems.now()
        assert (problem.code, "share" in problem.what_to_do) == (ABSENT, True)
        share.mkdir()
        (share / "a.jpg").write_bytes(picture())
        frame = frames.get(timeout=30)
        assert frame is not None
        assert frame.source_ref.endswith("a.jpg")
        assert problems.now() == ()
    finally:
        stop.set()
        assert worker.join(20)


@pytest.mark.parametrize("watch", [True, False])
def test_a_folder_asks_which_of_its_pictures_are_stored_instead_of_being_told_of_all(
    tmp_path: Path, watch: bool
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(picture())
    asked: list[str] = []

    def known(refs: Collection[str]) -> Collection[str]:
        asked.extend(refs)
        return [ref for ref in refs if ref.endswith("b.jpg")]

    settings = SourceSettings(spec=str(tmp_path), watch=watch, settle_s=SETTLE_S, poll_s=0.02)
    with open_source(settings, known=known) as source:
        frames = [read_within(source, 20.0), read_within(source, 20.0)]
        assert [frame is not None and frame.source_ref[-5:] for frame in frames] == ["a.jpg", "c.jpg"]
        nothing_for(source, 0.2)
    assert {ref.rsplit("/", 1)[1] for ref in asked} == {"a.jpg", "b.jpg", "c.jpg"}


@pytest.mark.parametrize("state", list(SourceState))
def test_a_source_is_blind_only_where_no_picture_can_be_believed(state: SourceState) -> None:
    sighted = {SourceState.UP, SourceState.WAITING, SourceState.ENDED, SourceState.TRICKLING}
    assert SourceStatus(state, "", 0.0).sighted is (state in sighted)


def test_a_file_is_tried_ever_more_rarely_and_given_up_once() -> None:
    watcher = Watcher(Patience(settle_s=1.0, incomplete_s=30.0, locked_s=600.0))
    found = {"a": Stamp(10, 1)}
    tried, given_up = [], []
    for second in range(120):
        for name in watcher.look(found, float(second)):
            tried.append(second)
            if watcher.failed(name, Trouble.INCOMPLETE, float(second)):
                given_up.append(second)
    assert len(given_up) == 1
    assert given_up[0] in range(30, 36)
    assert len(tried) < 25
    assert watcher.look({"a": Stamp(11, 2)}, 200.0) == []
    assert watcher.look({"a": Stamp(11, 2)}, 201.0) == ["a"]


def test_a_locked_file_has_more_patience_than_a_broken_one() -> None:
    watcher = Watcher(Patience(settle_s=1.0, incomplete_s=30.0, locked_s=600.0))
    found = {"a": Stamp(10, 1)}
    watcher.look(found, 0.0)
    assert not watcher.failed("a", Trouble.LOCKED, 599.0)
    assert watcher.failed("a", Trouble.LOCKED, 600.0)
