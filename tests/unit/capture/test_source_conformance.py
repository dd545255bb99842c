"""What every source of frames owes its reader, run on every adapter that can be had without hardware.

The camera adapter is not among them: it differs from the stream only in how `cv2.VideoCapture` is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.capture.errors import SourceEnded, SourceError, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import FrameSource, SourceState

FIELDS = 5
FAST_LINK = {
    "open_timeout_ms": 1500,
    "read_timeout_ms": 600,
    "backoff_first_s": 0.05,
    "backoff_last_s": 0.2,
    "abandon_after_s": 5.0,
}


def load_fake(name: str) -> Any:
    path = Path(__file__).parents[2] / "fakes" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(number: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """Noise over a flat field that is much redder than blue; RGB."""
    rng = np.random.default_rng(number)
    base = np.array([200, 120, 40], np.float32)
    return np.clip(base + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(number: int) -> bytes:
    done, data = cv2.imencode(".jpg", picture(number)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return data.tobytes()


@dataclass
class Bench:
    """One adapter with something behind it to read, and something absent."""

    good: dict[str, Any]
    absent: dict[str, Any]
    says: str
    width_px: int = 96
    height_px: int = 64
    red: bool = True
    closing: ExitStack = field(default_factory=ExitStack)

    def open(self, **more: Any) -> FrameSource:
        return open_source(SourceSettings.model_validate({**self.good, **more}))


def folder_bench(tmp_path: Path, *, watch: bool) -> Bench:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(FIELDS):
        (folder / f"field_{number}.jpg").write_bytes(jpeg(number))
    extra = {"watch": watch, "settle_s": 0.05, "poll_s": 0.02}
    return Bench({"spec": str(folder), **extra}, {"spec": str(tmp_path / "nowhere"), **extra}, "there is no such")


def video_bench(tmp_path: Path) -> Bench:
    path = tmp_path / "slide.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for number in range(FIELDS):
        writer.write(np.ascontiguousarray(picture(number)[:, :, ::-1]))
    writer.release()
    return Bench({"spec": str(path)}, {"spec": str(tmp_path / "nowhere.avi")}, "there is no such file")


def simulated_bench(tmp_path: Path) -> Bench:
    good = {"spec": f"sim:seed=3,fields={FIELDS},width_px=160,height_px=120"}
    bad = {"spec": "sim:seed=3,stain=purple_rain"}
    return Bench(good, bad, "unknown stain", width_px=160, height_px=120, red=False)


def stream_bench(tmp_path: Path) -> Bench:
    server = load_fake("mjpeg_server").MjpegServer([jpeg(n) for n in range(50)], fps=30.0)
    bench = Bench({}, {"spec": "http://127.0.0.1:9/video", "link": FAST_LINK}, "cannot be opened")
    bench.closing.enter_context(server)
    bench.good = {"spec": server.url, "link": FAST_LINK}
    return bench


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "folder": lambda path: folder_bench(path, watch=False),
    "watched folder": lambda path: folder_bench(path, watch=True),
    "video": video_bench,
    "simulated": simulated_bench,
    "stream": stream_bench,
}


REPLAYABLE = ("folder", "watched folder", "video", "simulated")
ORDERED = ("folder", "video", "simulated")
"""Replayable, and always in the same order: what a watched folder shows first is what came first."""


@pytest.fixture(params=list(BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = BENCHES[request.param](tmp_path)
    with made.closing:
        yield made


def read_one(source: FrameSource) -> Frame:
    for _ in range(100):
        try:
            return source.read(0.1)
        except SourceTimeout:
            continue
    raise AssertionError(f"no frame: {source.status().text}")


def read_all(source: FrameSource) -> list[Frame]:
    """Every frame of a replayable source; of one without end, all there are."""
    frames: list[Frame] = []
    for _ in range(30):
        try:
            frames.append(source.read(0.1))
        except SourceTimeout:
            if len(frames) == FIELDS:
                break
        except SourceEnded:
            break
    return frames


def test_it_satisfies_the_port(bench: Bench) -> None:
    assert isinstance(bench.open(), FrameSource)


def test_making_one_opens_nothing(bench: Bench) -> None:
    source = open_source(SourceSettings.model_validate(bench.absent))
    assert source.status().state is SourceState.CLOSED


def test_what_is_not_there_is_named_when_it_is_opened(bench: Bench) -> None:
    with pytest.raises(SourceNotFound, match=bench.says), open_source(SourceSettings.model_validate(bench.absent)):
        pass


def test_frames_are_rgb_of_the_right_shape_and_owned_by_the_reader(bench: Bench) -> None:
    with bench.open() as source:
        first = read_one(source)
        kept = first.image.copy()
        second = read_one(source)
    assert first.image.shape == (bench.height_px, bench.width_px, 3)
    assert first.image.dtype == np.uint8
    assert first.image.flags.c_contiguous
    assert not np.shares_memory(first.image, second.image)
    assert np.array_equal(first.image, kept)
    if bench.red:
        red, _, blue = first.image.reshape(-1, 3).mean(axis=0)
        assert red > blue + 100


def test_frames_are_numbered_timed_and_named_apart(bench: Bench) -> None:
    with bench.open(um_per_px=0.1) as source:
        frames = [read_one(source) for _ in range(3)]
    assert [f.frame for f in frames] == sorted({f.frame for f in frames})
    assert len({f.source_ref for f in frames}) == 3
    assert all(f.captured_at.utcoffset() is not None and f.um_per_px == pytest.approx(0.1) for f in frames)
    assert frames[0].captured_monotonic_s <= frames[2].captured_monotonic_s


def test_a_closed_source_does_not_read_and_closing_twice_is_harmless(bench: Bench) -> None:
    source = bench.open()
    with source:
        read_one(source)
        assert source.status().healthy
    source.__exit__(None, None, None)
    assert source.status().state is SourceState.CLOSED
    with pytest.raises(SourceLost):
        source.read(0.01)


def test_it_can_be_opened_again(bench: Bench) -> None:
    source = bench.open()
    for _ in range(2):
        with source:
            assert read_one(source).frame >= 1


def test_what_can_be_read_again_says_so(bench: Bench, request: pytest.FixtureRequest) -> None:
    assert bench.open().replayable == (request.node.callspec.params["bench"] in REPLAYABLE)


@pytest.mark.parametrize("bench", REPLAYABLE, indirect=True)
def test_a_replay_has_the_same_names_and_pictures(bench: Bench) -> None:
    runs = []
    for _ in range(2):
        with bench.open() as source:
            runs.append({f.source_ref: f.image.tobytes() for f in read_all(source)})
    assert len(runs[0]) == FIELDS
    assert runs[0] == runs[1]


@pytest.mark.parametrize("bench", ORDERED, indirect=True)
def test_it_goes_on_behind_the_frame_it_is_told(bench: Bench) -> None:
    with bench.open() as source:
        frames = read_all(source)
    again = bench.open()
    again.resume_after(frames[2].source_ref)
    with again:
        rest = read_all(again)
    assert [f.source_ref for f in rest] == [f.source_ref for f in frames[3:]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(rest, frames[3:], strict=True))


@pytest.mark.parametrize("bench", REPLAYABLE, indirect=True)
def test_it_never_delivers_what_it_is_told_to_skip(bench: Bench) -> None:
    with bench.open() as source:
        refs = [f.source_ref for f in read_all(source)]
    again = bench.open()
    again.skip([refs[0], refs[3], "somebody-else/1"])
    with again:
        assert [f.source_ref for f in read_all(again)] == [refs[1], refs[2], refs[4]]


def test_a_foreign_reference_is_refused_by_what_can_resume(bench: Bench) -> None:
    source = bench.open()
    if source.replayable:
        with pytest.raises(ValueError, match="no frame of"):
            source.resume_after("somebody-else/1")
    else:
        source.resume_after("somebody-else/1")


def test_every_outcome_of_reading_is_one_family(bench: Bench) -> None:
    assert all(issubclass(kind, SourceError) for kind in (SourceEnded, SourceLost, SourceNotFound, SourceTimeout))
    with bench.open() as source:
        for _ in range(FIELDS + 2):
            try:
                source.read(0.0)
            except (SourceTimeout, SourceEnded):
                continue
