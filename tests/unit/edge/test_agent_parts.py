"""Small parts of the agent: clock, problems, supervision, tickets, and the cloud's refusals over real HTTP."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_agent.capturing import Tickets
from edge_agent.clock import Clock
from edge_agent.config import CloudSettings
from edge_agent.errors import ConfigurationError, LinkDown, PeerRejected, StoreDamaged
from edge_agent.logs import Stderr
from edge_agent.metrics import Metrics
from edge_agent.problems import Problem, Problems
from edge_agent.supervision import Worker
from edge_agent.uplink.cloud_http import HttpCloud
from fleet.contract.base import ClockQuality
from fleet.contract.messages import Severity
from tests.unit.edge.edge_builders import START


def test_a_clock_that_was_never_set_or_was_moved_says_so() -> None:
    now = {"mono": 0.0, "utc": START}
    clock = Clock(monotonic=lambda: float(now["mono"]), utc=lambda: now["utc"])  # type: ignore[arg-type, return-value]
    assert clock.now().quality is ClockQuality.OK
    now.update(mono=60.0, utc=START + timedelta(seconds=61))
    assert clock.now().quality is ClockQuality.OK
    now.update(mono=61.0, utc=START + timedelta(hours=2))
    assert clock.now().quality is ClockQuality.STEPPED
    now.update(mono=62.0, utc=datetime(1970, 1, 1, tzinfo=UTC))
    assert clock.now().quality is ClockQuality.UNSYNCED


def test_a_problem_is_told_when_it_appears_and_when_it_goes_not_in_between() -> None:
    told: list[tuple[str, bool]] = []
    problems = Problems(lambda problem, appeared: told.append((problem.code, appeared)))
    problems.set(Problem("slow", "a", "b"))
    problems.set(Problem("slow", "another text", "b"))
    problems.set(Problem("dead", "a", "b", Severity.CRITICAL))
    assert [(p.code, p.text) for p in problems.now()] == [("dead", "a"), ("slow", "another text")]
    problems.clear("slow")
    problems.clear("slow")
    assert told == [("slow", True), ("dead", True), ("slow", False)]


def test_a_failing_worker_is_restarted_and_counted() -> None:
    metrics, stop, calls = Metrics(), threading.Event(), []

    def target(_: threading.Event) -> None:
        calls.append(1)
        if len(calls) < 2:
            raise RuntimeError("once")

    worker = Worker("w", target, stop=stop, metrics=metrics)
    worker.start()
    assert worker.join(10)
    assert len(calls) == 2
    assert 'ahs_edge_worker_restarts_total{worker="w"} 1.0' in metrics.text().decode()


def test_a_fatal_error_ends_the_program_instead() -> None:
    stop = threading.Event()

    def target(_: threading.Event) -> None:
        raise StoreDamaged("gone")

    worker = Worker("w", target, stop=stop, metrics=Metrics(), fatal=(StoreDamaged,))
    worker.start()
    assert worker.join(10)
    assert stop.is_set()
    assert isinstance(worker.failure, StoreDamaged)


def test_a_bounded_run_takes_no_frame_more_than_it_will_store() -> None:
    tickets = Tickets(2)
    assert [tickets.take(0.01) for _ in range(3)] == [True, True, False]
    tickets.give_back()
    assert tickets.take(0.01)
    assert not Tickets(-5).take(0.01)
    assert all(Tickets(None).take(0.0) for _ in range(100))


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, object]]]:
    """A server that answers every request as `answer` says."""
    answer: dict[str, object] = {"status": 500, "body": b"", "tokens": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["tokens"].append(self.headers.get("authorization"))  # type: ignore[attr-defined]
            body = answer["body"]
            assert isinstance(body, bytes)
            self.send_response(int(str(answer["status"])))
            self.send_header("content-type", "application/problem+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", answer
        http.shutdown()
        thread.join()


def problem(status: int) -> bytes:
    return json.dumps({"title": "No", "status": status, "detail": "token expired"}).encode()


def test_refusals_and_faults_of_the_cloud_are_told_apart(tmp_path: Path, server: tuple[str, dict[str, object]]) -> None:
    url, answer = server
    token = tmp_path / "token"
    token.write_text("first-token\n")
    cloud = HttpCloud(CloudSettings(url=url, token_file=token))
    try:
        answer.update(status=401, body=problem(401))
        with pytest.raises(PeerRejected, match="token expired") as refused:
            cloud.fetch("opinion-1")
        assert (refused.value.status, refused.value.credentials) == (401, True)
        token.write_text("second-token\n")
        answer.update(status=404, body=problem(404))
        with pytest.raises(PeerRejected) as absent:
            cloud.fetch("opinion-1")
        assert (absent.value.status, absent.value.credentials) == (404, False)
        assert answer["tokens"] == ["Bearer first-token", "Bearer second-token"]
        answer.update(status=503, body=b"<html>")
        with pytest.raises(LinkDown):
            cloud.fetch("opinion-1")
    finally:
        cloud.close()
    token.unlink()
    with pytest.raises(PeerRejected) as gone:
        cloud.fetch("opinion-1")
    assert gone.value.credentials
    assert isinstance(gone.value.__cause__, ConfigurationError)


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    out = Stderr()
    assert out.write("lost") == 4
    out.flush()
    whole = io.StringIO()
    monkeypatch.setattr("sys.stderr", whole)
    out.write("kept")
    assert whole.getvalue() == "kept"
