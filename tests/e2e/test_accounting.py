"""Every field and every uncertain image is accounted for exactly once, whatever is cut or killed on the way.

Held against each other: the simulated microscope's own journal, the agent's store (its `export`) and what the cloud
says over REST.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet.client.errors import ClientError
from fleet.contract.cells import Decision
from fleet.contract.report import AgentReport
from fleet.local.system import Agent, LocalSystem

FIELDS = 30
WAIT_S = 120.0


def wait_until(what: Callable[[], bool], *, why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s in vain: {why}"
        time.sleep(0.1)


def journal_refs(agent: Agent) -> list[str]:
    """References of the fields that the simulated microscope has shown, in order, repeats kept."""
    if not agent.journal.exists():
        return []
    lines = agent.journal.read_text().splitlines()
    return [json.loads(line)["source_ref"] for line in lines if line.endswith("}")]


def committed(system: LocalSystem, agent: Agent) -> int:
    try:
        with system.client() as client:
            return next((row.fields for row in client.list_devices().items if row.device == agent.device), 0)
    except ClientError:
        return 0


def cloud_fields(system: LocalSystem, agent: Agent) -> list[str]:
    found, cursor = [], None
    with system.client() as client:
        while True:
            page = client.list_fields(agent.device, cursor=cursor)
            found += [row.capture_id for row in page.items]
            if (cursor := page.next_cursor) is None:
                return found


def cloud_opinions(system: LocalSystem) -> list[tuple[str, str]]:
    found, cursor = [], None
    with system.client() as client:
        while True:
            page = client.list_opinions(cursor=cursor)
            found += [(row.id, row.capture_id) for row in page.items]
            if (cursor := page.next_cursor) is None:
                return found


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    with LocalSystem(tmp_path / "system") as system:
        yield system


def settings(*, fields: int, per_s: float, seed: int = 11) -> dict[str, dict[str, object]]:
    return {
        "source": {"spec": "sim", "fields_per_s": per_s, "simulated": {"seed": seed, "ambiguous_ratio": 0.2}},
        "run": {"stop_after_fields": fields, "exit_when_drained": True, "drain_timeout_s": 120.0},
        "slide": {"name": "accounting", "target_white_cells": 10_000},
        "sampling": {"per_hour": 10_000, "audit_ratio": 0.0},
        "mqtt": {"ack_timeout_s": 3.0},
        "inference": {"threads": 1},
    }


def assert_accounted_once(system: LocalSystem, agent: Agent, report: AgentReport) -> None:
    stored = [field.source_ref for field in report.fields]
    assert len(stored) == len(set(stored)) == FIELDS
    assert set(journal_refs(agent)) == set(stored), "the microscope showed what the store does not hold, or vice versa"
    captures = [field.capture_id for field in report.fields]
    assert cloud_fields(system, agent) == captures
    opinions = cloud_opinions(system)
    of_cloud = [capture for _, capture in opinions]
    assert len(of_cloud) == len(set(of_cloud)) == report.uncertain_sent > 0
    unsure = {field.capture_id for field in report.fields if field.decision is Decision.UNCERTAIN}
    assert unsure, "the slide has cells between two types: some field must be uncertain"
    assert unsure == set(of_cloud), "each uncertain image once, and no other: the audit stream is off"
    assert {(o.opinion, o.capture_id) for o in report.opinions} == set(opinions)
    assert (report.uncertain_waiting, report.results_waiting, report.dropped) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.mosquitto
def test_nothing_is_lost_or_doubled_by_a_lost_network_a_killed_agent_and_a_killed_cloud(system: LocalSystem) -> None:
    system.start_cloud()
    agent = system.add_agent("bench-1", settings(fields=FIELDS, per_s=3.0))
    system.start_broker()
    part = system.start_agent(agent)
    wait_until(lambda: committed(system, agent) >= 3, why="the first fields reach the cloud")

    system.broker.stop()  # the network goes away: broker and cloud both
    system.cloud.stop()
    before = len(journal_refs(agent))
    wait_until(lambda: len(journal_refs(agent)) >= before + 4, why="the agent reads on without a network")

    part.kill()  # a power cut in the middle of a field
    after_kill = set(journal_refs(agent))
    system.start_agent(agent)
    wait_until(lambda: len(set(journal_refs(agent))) > len(after_kill), why="the agent goes on where it was")

    system.broker.restart()  # the network is back
    system.restart_cloud()
    at_return = committed(system, agent)
    wait_until(lambda: committed(system, agent) > at_return, why="the spool drains")
    system.cloud.kill()
    system.restart_cloud()

    assert part.wait(timeout_s=WAIT_S) == 0, part.log_tail()
    assert_accounted_once(system, agent, system.report(agent))


@pytest.mark.slow
def test_with_no_network_at_all_every_field_is_classified_and_waits_in_the_spool(tmp_path: Path) -> None:
    with LocalSystem(tmp_path / "system") as system:
        system.start_cloud()
        agent = system.add_agent("bench-1", settings(fields=8, per_s=20.0) | {"run": {"stop_after_fields": 8}})
        system.cloud.stop()  # and the broker was never started
        part = system.start_agent(agent, wait=False)
        assert part.wait(timeout_s=60) == 0, part.log_tail()
        report = system.report(agent)
        assert len(report.fields) == 8
        assert sum(field.counts.rbc for field in report.fields) > 50
        assert report.results_waiting >= 8
        assert report.uncertain_sent == 0
        assert report.uncertain_waiting > 0
