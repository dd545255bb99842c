"""Parts are started, waited for and stopped; none outlives its starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet.local.demo import DemoOptions, source_of
from fleet.local.errors import SourceUnusable, StartError
from fleet.local.processes import Part


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_ends_too_soon_tells_the_end_of_its_log(tmp_path: Path) -> None:
    part = Part("short", [sys.executable, "-c", "print('no such camera'); raise SystemExit(3)"], log=tmp_path / "log")
    with pytest.raises(StartError, match=r"code 3[\s\S]*no such camera"):
        part.start().wait_until(lambda: False, timeout_s=20)


def test_a_program_that_is_not_there_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be started"):
        Part("none", ["/no/such/program"], log=tmp_path / "log").start()


def test_stopping_also_ends_the_parts_own_children(tmp_path: Path) -> None:
    code = "import subprocess,sys,time; c=subprocess.Popen(['sleep','60']); print(c.pid, flush=True); time.sleep(60)"
    part = Part("family", [sys.executable, "-c", code], log=tmp_path / "log").start()
    part.wait_until(lambda: bool((tmp_path / "log").read_text().strip()), timeout_s=20)
    child = int((tmp_path / "log").read_text())
    part.stop()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux")
def test_a_killed_starter_takes_its_parts_along(tmp_path: Path) -> None:
    code = (
        "import sys,time; from pathlib import Path; from fleet.local.processes import Part\n"
        f"p = Part('x', ['sleep', '60'], log=Path({str(tmp_path / 'log')!r})).start(); print(p.pid, flush=True)\n"
        "time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    assert alive(child)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait(10)
    starter.stdout.close()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_source_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match="no such folder"):
        source_of(DemoOptions(source=str(tmp_path / "none")), 0)
    with pytest.raises(SourceUnusable, match="empty"):
        source_of(DemoOptions(source=str(tmp_path)), 0)


def test_only_the_first_agent_opens_a_camera() -> None:
    options = DemoOptions(source="0")
    assert source_of(options, 0)["source"]["spec"] == "0"
    assert source_of(options, 1)["source"]["spec"] == "sim"
