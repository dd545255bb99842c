"""`ahs-fleet rollout` against a running cloud: what it prints, and what its exit code says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.rollout_cli import EXIT_ENDED_OTHERWISE, EXIT_PAUSED, EXIT_UNDER_WAY, read_wave
from tests.fakes.console_cloud import running_cloud
from tests.fakes.console_rollouts import StagedRollouts, online_key_in

QUICK = ("--soak-s", "600")


@dataclass
class Desk:
    """An operator at a terminal."""

    staged: StagedRollouts
    token_file: Path

    def run(self, *words: str) -> Any:
        place = ("--cloud", self.staged.cloud.base_url, "--token-file", str(self.token_file))
        return CliRunner().invoke(app, ["rollout", *words, *place])

    def create(self, *words: str) -> str:
        made = self.run("create", "2", "--wave", "bench-1", "--wave", "100%", *QUICK, *words)
        assert made.exit_code == 0, made.output
        return str(made.stdout.strip().splitlines()[-1])

    def watch(self, rollout: str, meanwhile: Callable[[], None]) -> Any:
        """Watches while somebody else does something."""
        worker = threading.Timer(0.5, meanwhile)
        worker.start()
        try:
            return self.run("watch", rollout, "--period-s", "0.1")
        finally:
            worker.join()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_cloud(tmp_path / "cloud", field_count=1, online_key_file=online_key_in(tmp_path)) as cloud:
        staged = StagedRollouts(cloud, tmp_path)
        staged.add("bench-1", "ward-1")
        (tmp_path / "token").write_text(cloud.token(role="operator", name="Ada"))
        yield Desk(staged, tmp_path / "token")


def test_a_rollout_is_started_watched_to_its_end_and_rolled_back(desk: Desk) -> None:
    rollout = desk.create()
    assert rollout in desk.run("list", "--open").stdout

    def carry_on() -> None:
        for seconds in (0, 601, 601):
            desk.staged.go(seconds=seconds)
            time.sleep(0.2)

    watched = desk.watch(rollout, carry_on)
    assert watched.exit_code == 0
    assert "2 of 2 confirmed" in watched.stdout
    found = json.loads(desk.run("status", rollout, "--json").stdout)
    assert found["summary"]["state"] == "completed"
    assert "aborting" in desk.run("rollback", rollout, "--reason", "second thoughts").stdout
    desk.staged.go()
    assert desk.run("watch", rollout).exit_code == EXIT_ENDED_OTHERWISE
    assert "manual: second thoughts" in desk.run("status", rollout).stdout


def test_the_exit_code_of_watching_says_how_it_ended(desk: Desk) -> None:
    desk.staged.devices["bench-1"].fails = "E_LOAD"
    rollout = desk.create()
    assert desk.run("watch", rollout, "--timeout-s", "0.3", "--period-s", "0.1").exit_code == EXIT_UNDER_WAY
    assert desk.run("pause", rollout, "--reason", "lunch").exit_code == 0
    assert desk.run("watch", rollout).exit_code == EXIT_PAUSED
    assert desk.run("resume", rollout).exit_code == 0

    def fail() -> None:
        desk.staged.go()
        desk.staged.go()

    watched = desk.watch(rollout, fail)
    assert watched.exit_code == EXIT_ENDED_OTHERWISE
    assert "bench-1 E_LOAD" in watched.stdout
    assert "failed E_LOAD" in watched.stdout


def test_limits_of_quality_are_given_and_what_is_not_waived_or_replaced_is_told(desk: Desk) -> None:
    limits = ("--max-latency-ratio", "5", "--max-uncertain-rise", "0.1", "--max-withheld-rise", "0.2")
    rollout = desk.create(*limits)
    thresholds = json.loads(desk.run("status", rollout, "--json").stdout)["thresholds"]
    kept = ("max_latency_ratio", "max_uncertain_rise", "max_withheld_rise")
    assert [thresholds[name] for name in kept] == [5.0, 0.1, 0.2]
    assert desk.run("waive", rollout).exit_code == 2
    refused = desk.run("waive", rollout, "--reason", "a quiet night")
    assert (refused.exit_code, "waived" in refused.output) == (2, True)
    again = desk.run("create", "2", "--wave", "bench-1", "--wave", "100%", "--supersede")
    assert (again.exit_code, "same model" in again.output.replace("\n", " ")) == (2, True)


def test_what_is_wrong_is_a_sentence_and_exit_code_two(desk: Desk) -> None:
    for words, told in (
        (("create", "9"), "there is no release 9"),
        (("create", "2", "--p-ok", "nan"), "p_ok"),
        (("create", "2", "--wave", "150%"), "percent"),
        (("create", "2", "--wave", "bench-9"), "bench-9"),
        (("status", "no-such"), "there is no rollout"),
    ):
        answer = desk.run(*words)
        assert answer.exit_code == 2, words
        assert told in answer.stderr, (words, answer.stderr)
    first = desk.create()
    again = desk.run("create", "2", "--device", "bench-1")
    assert (again.exit_code, first in again.stderr.replace("\n", "")) == (2, True)


@pytest.mark.parametrize(
    ("text", "devices", "percent", "least"),
    [
        ("bench-1", ("bench-1",), None, 1),
        ("bench-1, bench-2", ("bench-1", "bench-2"), None, 1),
        ("25%", (), 25.0, 1),
        ("5%:2", (), 5.0, 2),
    ],
)
def test_a_wave_is_written_as_names_or_as_a_share(
    text: str, devices: tuple[str, ...], percent: float | None, least: int
) -> None:
    wave = read_wave(text)
    assert (wave.devices, wave.percent, wave.least) == (devices, percent, least)
