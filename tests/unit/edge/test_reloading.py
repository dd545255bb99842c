"""Settings read again while the agent runs: applied, named for a restart, or refused, and each of them said."""

from __future__ import annotations

import threading
from typing import Any

from edge_agent.config import Settings, load_settings
from edge_agent.errors import ConfigurationError
from edge_agent.problems import Problems
from edge_agent.reloading import REFUSED, RESTART, Reloader, Written, plan


def of(**changes: Any) -> Settings:
    return load_settings(overrides={key.replace("__", "."): value for key, value in changes.items()}, environment={})


class Bench:
    def __init__(self) -> None:
        self.file: Settings | ConfigurationError = of()
        self.changed = threading.Event()
        self.problems = Problems()
        self.reloader = Reloader(of(), Written(self.read, self.changed), self.problems)
        self.applied: list[int] = []
        self.reloader.apply = (lambda settings: self.applied.append(settings.store.spool_rows),)

    def read(self) -> Settings:
        if isinstance(self.file, ConfigurationError):
            raise self.file
        return self.file

    def hangup(self) -> list[str]:
        self.changed.set()
        self.reloader.look()
        return [problem.code for problem in self.problems.now()]


def test_a_change_is_split_into_what_is_applied_and_what_needs_a_restart() -> None:
    found = plan(of(), of(store__spool_rows=99, mqtt__host="broker.lab", quality__focus_min=0.2, source="sim:seed=2"))
    assert found.at_once == ("store.spool_rows",)
    assert {"mqtt.host", "quality.focus_min", "source.spec"} <= set(found.restart)
    assert plan(of(), of()) == plan(of(mqtt__host="a"), of(mqtt__host="a"))


def test_what_can_be_applied_is_and_the_rest_is_named_until_it_is_taken_back() -> None:
    bench = Bench()
    assert bench.hangup() == []
    assert bench.applied == []
    bench.file = of(store__spool_rows=99, mqtt__host="broker.lab")
    assert bench.hangup() == [RESTART]
    assert bench.applied == [99]
    (problem,) = bench.problems.now()
    assert "mqtt.host" in problem.text
    assert "broker.lab" not in problem.text
    assert bench.hangup() == [RESTART]
    assert bench.applied == [99], "what is in force is not applied again"
    bench.file = of(store__spool_rows=99)
    assert bench.hangup() == []


def test_settings_that_cannot_be_used_change_nothing_and_that_is_said() -> None:
    bench = Bench()
    bench.file = ConfigurationError("no such key")
    assert bench.hangup() == [REFUSED]
    assert bench.applied == []
    bench.file = of(store__spool_rows=98)
    assert bench.hangup() == []
    assert bench.applied == [98]


def test_nothing_is_read_unless_somebody_asks() -> None:
    bench = Bench()
    bench.file = ConfigurationError("nobody asked")
    bench.reloader.look()
    assert bench.problems.now() == ()
