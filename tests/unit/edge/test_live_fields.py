"""Capture and recorder together: a withheld place is counted after refocusing, a busy recorder loses no place."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pytest

from edge_agent.capture.errors import SourceEnded
from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import QualityGate
from edge_agent.capture.measure import measure
from edge_agent.capture.selection import FieldSelector, Selection
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.simulated import SimulatedSource
from edge_agent.capturing import CaptureLoop, Frames, Tickets
from edge_agent.live_fields import LiveFields
from edge_agent.metrics import Metrics
from edge_agent.problems import Problems
from models.runtime.results import ImageRGB
from models.synthetic import Optics, SlideSpec, VirtualSlide

SLIDE = VirtualSlide(SlideSpec(seed=11))
GATE = QualityGate()


@lru_cache(maxsize=16)
def picture(x: float, defocus_um: float) -> ImageRGB:
    optics = Optics(noise_sigma=0.0, defocus_um=defocus_um)
    return optics.apply(SLIDE.render(x_um=x * 53.0, y_um=0.0).image, np.random.default_rng(0))


class Bench:
    """Fifteen frames a second from a stage that rests, and the fields that come of them."""

    def __init__(self) -> None:
        self.fields = LiveFields(FieldSelector(), GATE)
        self.frame = 0

    def view(self, *, x: float = 0.0, defocus_um: float = 0.0, light: float = 1.0) -> Frame:
        self.frame += 1
        noise = np.random.default_rng(self.frame).normal(0.0, 2.0, (480, 640, 3)).astype(np.float32)
        image = picture(x, defocus_um).astype(np.float32) * light + noise
        return Frame(
            np.clip(image, 0, 255).astype(np.uint8),
            f"camera@{self.frame}",
            self.frame,
            datetime.now(UTC),
            self.frame / 15.0,
        )

    def rest(self, frames: int, become: Callable[[Frame], None], **view: float) -> int:
        """How many fields a rest gives; each is told to have become something."""
        new = 0
        for _ in range(frames):
            frame = self.view(**view)
            if self.fields.offer(frame) is Selection.NEW_FIELD:
                new += 1
                become(frame)
        return new

    def judge(self, frame: Frame) -> None:
        """As the recorder, by the picture alone."""
        measured = measure(frame.image)
        reasons = GATE.judge(measured)
        if reasons:
            self.fields.withheld(frame, reasons, measured.focus)
        else:
            self.fields.counted(frame)


@pytest.mark.parametrize("bad", [{"defocus_um": 4.0}, {"light": 0.25}])
def test_a_withheld_place_is_counted_once_when_focus_or_light_is_put_right(bad: dict[str, float]) -> None:
    bench = Bench()
    assert bench.rest(30, bench.judge, **bad) == 1, "it is read once and withheld"
    assert bench.rest(30, bench.judge) == 1, "the sharp picture of the same place is counted"
    assert bench.rest(30, bench.judge) == 0


def test_a_field_withheld_for_its_cells_is_not_read_again_until_it_is_sharper() -> None:
    bench = Bench()

    def too_few(frame: Frame) -> None:
        bench.fields.withheld(frame, ["too_few_cells"], measure(frame.image).focus)

    soft = 1.2
    assert GATE.judge(measure(bench.view(defocus_um=soft).image)) == [], "blurred, but not out of focus"
    assert bench.rest(30, too_few, defocus_um=soft) == 1
    assert bench.rest(15, too_few) == 1


def test_a_frame_that_cannot_be_analysed_is_not_tried_again_at_the_same_place() -> None:
    bench = Bench()
    assert bench.rest(30, bench.fields.unusable) == 1
    assert bench.rest(10, bench.judge, x=1.1) == 1


class Staged(SimulatedSource):
    """A live source of given frames; `reached` is told before each."""

    def __init__(self, frames: list[Frame], reached: Callable[[int], None]) -> None:
        super().__init__(SourceSettings.model_validate("sim:seed=1"))
        self._staged = frames
        self._reached = reached
        self.live = True

    def read(self, timeout_s: float) -> Frame:
        if not self._staged:
            raise SourceEnded("end")
        self._reached(len(self._staged))
        return self._staged.pop(0)


def test_a_place_visited_while_the_recorder_is_busy_is_counted_when_it_has_time() -> None:
    bench, metrics = Bench(), Metrics()
    frames: Frames = queue.Queue(1)
    frames.put(bench.view(x=9.0))
    has_time = threading.Event()

    def reached(left: int) -> None:
        if left == 10:
            frames.get_nowait()
            has_time.set()

    loop = CaptureLoop(
        lambda: Staged([bench.view() for _ in range(40)], reached),
        frames,
        fields=bench.fields,
        tickets=Tickets(None),
        enough=threading.Event(),
        strict=True,
        metrics=metrics,
        problems=Problems(),
    )
    stop = threading.Event()
    running = threading.Thread(target=loop.run, args=(stop,))
    running.start()
    assert has_time.wait(60)
    got = frames.get(timeout=60)
    stop.set()
    running.join(30)
    text = metrics.text().decode()
    assert 'frames_skipped_total{reason="busy"}' in text
    assert got is not None, "the place is counted later, before the source has ended"
