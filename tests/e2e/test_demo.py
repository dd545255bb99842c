"""`ahs-fleet local demo --once`, as a person starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.synthetic.pictures import write_fields

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def demo(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    summary = tmp_path / "demo-summary.json"
    argv = [sys.executable, "-m", "fleet", "local", "demo", "--once", "--summary", str(summary), *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=540)


def test_the_demo_proves_each_step_and_says_so_in_a_document(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "demo-summary.json").read_text())
    assert summary["intended_use"] == "research use only"
    assert [step["name"] for step in summary["steps"] if not step["passed"]] == []
    assert len(summary["steps"]) == 16
    loop = summary["loop"]
    assert (loop["rollout_state"], loop["rollout_waves"], loop["release_counter"]) == ("completed", 2, 2)
    assert set(loop["reported"].values()) == {loop["release_digest"]}
    assert loop["named_after"] > loop["named_before"]
    assert loop["later_named_after"] > loop["later_named_before"]
    for agent in summary["agents"]:
        assert agent["fields"] >= 40
        assert min(agent["truth"]["f1"][cls] for cls in ("RBC", "WBC")) >= 0.9
        assert agent["uncertain_answered"] == agent["uncertain_sent"] > 0


@pytest.mark.data
def test_the_demo_reads_a_folder_of_real_pictures_through_the_embedded_broker(tmp_path: Path) -> None:
    folder = Path(os.environ["AHS_DATA_DIR"]) / "det_txl" / "images" / "test"
    done = demo(tmp_path, "--source", str(folder), "--embedded-broker")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "demo-summary.json").read_text())
    assert summary["broker"].startswith("embedded")
    assert all(agent["fields"] >= 40 for agent in summary["agents"])
    assert all(agent["truth"] is None for agent in summary["agents"])
    assert summary["loop"]["reader"].startswith("the larger model")
    assert summary["loop"]["rollout_state"] == "completed"


def test_a_bad_model_is_stopped_in_the_first_wave_by_agents_that_read_a_folder_of_pictures(tmp_path: Path) -> None:
    write_fields(tmp_path / "pictures", 12)
    for number, path in enumerate(sorted((tmp_path / "pictures").iterdir())):
        for again in range(24):  # drawing takes longer than reading
            shutil.copy(path, path.with_name(f"again-{again}-{number}.png"))
    done = demo(tmp_path, "--bad", "--source", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "demo-summary.json").read_text())
    assert [step["name"] for step in summary["steps"] if not step["passed"]] == []
    assert len(summary["steps"]) == 10
    assert all(agent["fields"] >= 40 and agent["truth"] is None for agent in summary["agents"])
    assert summary["loop"]["rollout_state"] == "aborted"
    assert summary["loop"]["release_digest"] not in summary["loop"]["reported"].values()


def test_a_source_that_is_not_there_ends_the_demo_with_what_to_do(tmp_path: Path) -> None:
    done = demo(tmp_path, "--source", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "no such folder" in done.stderr


def test_an_interrupted_demo_leaves_no_process_and_no_folder_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "fleet", "local", "demo"],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        deadline = time.monotonic() + 300
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line, "the demo ended by itself"
            assert time.monotonic() < deadline
        members = children_of(process.pid)
        assert len(members) >= 4, "broker, cloud and two agents"
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()  # its parts die with it
        process.wait(10)
        process.stdout.close()
    assert [pid for pid in members if Path(f"/proc/{pid}").exists()] == []
    assert list(temporary.iterdir()) == []


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found
