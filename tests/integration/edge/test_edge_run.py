"""The agent as a process: alone, killed, stopped, and with every wrong input."""

from __future__ import annotations

import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from edge_agent.store.calibrations_sqlite import Calibrations
from edge_agent.store.store_sqlite import FILE_NAME
from tests.integration.edge.conftest import EdgeProcess, run_edge
from tests.unit.edge.damaged_stores import damage

pytestmark = pytest.mark.slow

Make = Callable[..., EdgeProcess]
Pictures = Callable[[int], Path]


def status_of(url: str) -> int:
    """HTTP status; the console is announced a moment before its thread listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        except urllib.error.URLError:
            assert time.monotonic() < deadline, f"{url} never listened"
            time.sleep(0.1)


def test_without_any_network_every_field_is_classified_and_waits(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(
        source={"spec": str(disc_pictures(5))},
        run={"stop_after_fields": 5, "self_test": True},
        sampling={"audit_ratio": 1.0},
        mqtt={"host": "127.0.0.1", "port": 9, "tls": False},
    )
    assert agent.start().wait() == 0, agent.log.read_text()
    report = agent.report()
    assert [field.source_ref.rsplit("/")[-1] for field in report.fields] == [f"field-{n:03d}.png" for n in range(5)]
    assert all(field.counts.rbc > 10 and field.counts.wbc == 4 for field in report.fields)
    (slide,) = report.slides
    assert (slide.fields, sum(slide.white_cells.values()), slide.closed) == (5, 20, False)
    assert (report.results_waiting, report.dropped) == (5, 0)
    assert report.uncertain_waiting > 0
    for share, low, high in slide.shares.values():
        assert low <= share <= high


def test_a_killed_agent_goes_on_where_it_was_and_stores_each_field_once(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(source={"spec": str(disc_pictures(9)), "fields_per_s": 4}, run={"exit_when_drained": True})
    agent.start().wait_for("field_stored", count=3)
    agent.kill()
    assert agent.start().wait() == 0
    report = agent.report()
    refs = [field.source_ref for field in report.fields]
    assert len(refs) == len(set(refs)) == 9
    boots = sorted({int(field.capture_id.split("/")[1]) for field in report.fields})
    assert boots == [boots[0], boots[0] + 1]
    (slide,) = report.slides
    assert (slide.fields, slide.closed) == (9, True)
    assert report.results_waiting == 10, "nine fields and the slide wait: no broker is configured"


def test_sigterm_ends_within_five_seconds_and_leaves_a_clean_store(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(
        source={"spec": str(disc_pictures(3)), "watch": True, "settle_s": 0},
        mqtt={"host": "127.0.0.1", "port": 9, "tls": False},
    )
    agent.start().wait_for("field_stored", count=2)
    began_s = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began_s < 5
    assert len(agent.report().fields) >= 2


def test_the_console_shows_the_running_agent(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(
        source={"spec": str(disc_pictures(2)), "watch": True, "settle_s": 0}, console={"enabled": True, "port": 0}
    )
    url = agent.start().wait_for("console_opened")[0]["url"]
    agent.wait_for("field_stored")
    assert status_of(f"{url}healthz") == 200
    with urllib.request.urlopen(f"{url}metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    assert 'ahs_edge_fields_total{decision="accept"}' in metrics
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert "esearch use only" in answer.read().decode()


def test_an_absent_share_half_a_picture_an_idle_folder_and_a_hangup_end_nothing(
    edge: Make, disc_pictures: Pictures, tmp_path: Path
) -> None:
    data = (disc_pictures(1) / "field-000.png").read_bytes()
    share = tmp_path / "share"
    agent = edge(
        source={"spec": str(share), "watch": True, "settle_s": 0.2, "poll_s": 0.1},
        console={"enabled": True, "port": 0},
    )
    url = agent.start().wait_for("console_opened")[0]["url"]
    agent.wait_for("source_not_found")
    share.mkdir()
    agent.wait_for("source_state_changed", count=1)
    (share / "a.png").write_bytes(data[: len(data) // 2])
    agent.wait_for("source_state_changed", count=2)
    settings = yaml.safe_load(agent.config.read_text())
    agent.config.write_text(yaml.safe_dump(settings | {"store": {"spool_rows": 77}, "slide": {"name": "other"}}))
    agent.process.send_signal(signal.SIGHUP)
    (said,) = agent.wait_for("settings_reread")
    assert ("store.spool_rows" in said["applied"], said["restart"]) == (True, ["slide.name"])
    agent.config.write_text("slide: [")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for("settings_refused")
    agent.config.write_text(yaml.safe_dump(settings))
    with urllib.request.urlopen(f"{url}metrics", timeout=10) as answer:
        assert "ahs_edge_camera_up 1.0" in answer.read().decode()
    assert agent.events("frame_dropped") == []
    with (share / "a.png").open("ab") as file:
        file.write(data[len(data) // 2 :])
    agent.wait_for("field_stored")
    assert agent.stop() == 0
    (field,) = agent.report().fields
    assert field.source_ref.endswith("/a.png")


@pytest.fixture
def calibrated(edge: Make, disc_pictures: Pictures) -> EdgeProcess:
    """An agent that watches a folder, has run, and has learnt a limit since."""
    agent = edge(source={"spec": str(disc_pictures(2)), "watch": True, "settle_s": 0, "poll_s": 0.1})
    agent.start().wait_for("field_stored", count=2)
    assert agent.stop() == 0
    with closing(Calibrations(agent.folder / "data")) as kept:
        kept.put({"focus_min": 0.0123}, {}, made_by="AB", now=datetime.now(UTC))
    return agent


def spoil(agent: EdgeProcess, what: str) -> None:
    path = agent.folder / "data" / FILE_NAME
    if what != "schema":
        damage(path, what)
        return
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("what", "fields"), [("calibrations", 2), ("schema", 0)])
def test_damage_under_what_is_read_first_is_repaired_and_the_agent_runs(
    calibrated: EdgeProcess, what: str, fields: int
) -> None:
    spoil(calibrated, what)
    calibrated.start().wait_for("agent_started", count=2)
    (said,) = calibrated.events("store_repaired")
    assert said["saved"]["fields"] == fields
    assert calibrated.stop() == 0


def test_a_hangup_asks_nothing_of_the_store_and_a_calibration_holds_until_the_restart(calibrated: EdgeProcess) -> None:
    calibrated.start().wait_for("agent_started", count=2)
    spoil(calibrated, "calibrations")
    calibrated.process.send_signal(signal.SIGHUP)
    (said,) = calibrated.wait_for("settings_reread")
    assert (said["applied"], said["restart"]) == ([], [])
    assert calibrated.stop() == 0


def test_a_second_agent_is_kept_off_the_same_data_folder(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(source={"spec": str(disc_pictures(1)), "watch": True, "settle_s": 0})
    agent.start().wait_for("agent_started")
    done = run_edge("run", "--config", str(agent.config))
    assert (done.returncode, "another agent already uses the data folder" in done.stderr) == (2, True)


def test_a_console_port_in_use_is_said(edge: Make, disc_pictures: Pictures) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        agent = edge(source={"spec": str(disc_pictures(1))}, console={"enabled": True, "port": port})
        done = run_edge("run", "--config", str(agent.config))
    assert done.returncode == 5
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr


def test_a_missing_and_a_corrupt_bundle_are_said(edge: Make, disc_pictures: Pictures, disc_bundle: Path) -> None:
    agent = edge(source={"spec": str(disc_pictures(1))})
    absent = run_edge("run", "--config", str(agent.config), "--bundle", "/no/such/bundle")
    assert (absent.returncode, "there is no bundle" in absent.stderr) == (3, True)
    copy = agent.folder / "copy"
    shutil.copytree(disc_bundle, copy)
    model = copy / "detector.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    corrupt = run_edge("run", "--config", str(agent.config), "--bundle", str(copy))
    assert (corrupt.returncode, "fetch the bundle again" in corrupt.stderr) == (3, True)
    assert "Traceback" not in absent.stderr + corrupt.stderr


@pytest.mark.parametrize("source", ["/no/such/folder/film.mp4", "77"])
def test_a_source_that_is_not_there_is_said(edge: Make, source: str) -> None:
    agent = edge(source={"spec": source}, run={"exit_when_drained": True})
    done = run_edge("run", "--config", str(agent.config))
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("ahs-edge: ")
    assert "Traceback" not in done.stderr


def test_an_agent_waits_for_a_camera_that_is_not_there_and_says_so(edge: Make) -> None:
    agent = edge(source={"spec": "77"}, console={"enabled": True, "port": 0})
    agent.start().wait_for("problem_appeared")
    url = agent.wait_for("console_opened")[0]["url"]
    assert status_of(f"{url}healthz") == 503
    assert agent.stop() == 0


def test_a_configuration_mistake_is_said_before_anything_else(edge: Make) -> None:
    agent = edge(mqtt={"hosst": "a"})
    done = run_edge("run", "--config", str(agent.config))
    assert (done.returncode, "mqtt.hosst: unknown key" in done.stderr) == (2, True)
    assert run_edge("run", "--config", "/no/such.yaml").returncode == 2
    assert run_edge("check-config", "--set", "nonsense").returncode == 2
    fine = run_edge("check-config", "--set", "device.id=bench-7")
    assert (fine.returncode, "id: bench-7" in fine.stdout) == (0, True)


def test_an_undelivered_bounded_run_says_so(edge: Make, disc_pictures: Pictures) -> None:
    agent = edge(
        source={"spec": str(disc_pictures(1))},
        run={"exit_when_drained": True, "drain_timeout_s": 1.0},
        mqtt={"host": "127.0.0.1", "port": 9, "tls": False},
    )
    assert agent.start().wait() == 6
