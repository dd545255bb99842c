from __future__ import annotations

from edge_agent.capture.freshness import FrameLook, FreshnessMonitor, FreshnessState, Verdict
from edge_agent.capture.settings import FreshnessSettings


def frame(digest: int, *, size: tuple[int, int] = (640, 480), bright: float = 200.0, sat: float = 0.0) -> FrameLook:
    return FrameLook(digest, *size, bright, sat)


def monitor() -> FreshnessMonitor:
    made = FreshnessMonitor(FreshnessSettings(), stall_after_s=5.0)
    made.connected(0.0)
    return made


def test_a_still_stage_with_sensor_noise_is_live_for_ever() -> None:
    m = monitor()
    assert {m.observe(frame(n), n * 0.1) for n in range(600)} == {Verdict.FRESH}
    assert m.state(60.0) is FreshnessState.LIVE
    assert 9.0 < m.fps(60.0) < 11.0


def test_one_picture_repeated_for_two_seconds_is_frozen_and_a_shorter_run_is_only_repeated() -> None:
    m = monitor()
    verdicts = [m.observe(frame(1), n * 0.1) for n in range(25)]
    assert verdicts[0] is Verdict.FRESH
    assert set(verdicts[1:20]) == {Verdict.REPEATED}
    assert set(verdicts[20:]) == {Verdict.FROZEN}
    assert m.state(2.4) is FreshnessState.FROZEN
    assert m.observe(frame(2), 2.5) is Verdict.FRESH
    assert m.state(2.5) is FreshnessState.LIVE


def test_a_server_that_sends_each_picture_twice_is_not_frozen() -> None:
    m = monitor()
    verdicts = [m.observe(frame(n // 2), n * 0.1) for n in range(100)]
    assert verdicts.count(Verdict.FRESH) == verdicts.count(Verdict.REPEATED) == 50


def test_a_camera_that_comes_back_with_the_very_same_picture_is_still_frozen() -> None:
    m = monitor()
    for n in range(30):
        m.observe(frame(1), n * 0.1)
    m.connected(10.0)
    assert m.observe(frame(1), 10.1) is Verdict.FROZEN


def test_black_white_and_another_size_are_told_apart() -> None:
    m = monitor()
    assert m.observe(frame(1), 0.1) is Verdict.FRESH
    assert m.observe(frame(2, bright=3.0), 0.2) is Verdict.BLACK
    assert m.state(0.2) is FreshnessState.BLACK
    assert m.observe(frame(3, sat=0.99), 0.3) is Verdict.SATURATED
    assert m.observe(frame(4, size=(320, 240)), 0.4) is Verdict.WRONG_SIZE
    assert m.state(0.4) is FreshnessState.WRONG_SIZE
    assert m.observe(frame(5), 0.5) is Verdict.FRESH


def test_a_size_that_was_agreed_holds_for_the_first_frame_too() -> None:
    m = FreshnessMonitor(FreshnessSettings(), stall_after_s=5.0, expected_size_px=(1280, 960))
    assert m.observe(frame(1), 0.0) is Verdict.WRONG_SIZE


def test_silence_is_a_stall_and_a_frame_now_and_then_a_trickle() -> None:
    m = monitor()
    for n in range(12):
        m.observe(frame(n), n * 1.0)
    assert m.state(11.5) is FreshnessState.TRICKLING
    assert m.state(16.5) is FreshnessState.STALLED
    assert monitor().state(6.0) is FreshnessState.STALLED
