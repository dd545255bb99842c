"""Subprocesses that never outlive the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fleet.local.errors import StartError

STOP_GRACE_S = 8.0
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_answers(port: int, *, timeout_s: float = 0.3) -> bool:
    """Whether something accepts connections on 127.0.0.1:port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=timeout_s):
        return True
    return False


def _die_with_parent() -> None:
    """Runs in the child: the kernel ends it when the starter goes, even by SIGKILL (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Part:
    """One subprocess with a log file.

    `stop()` asks first and insists after `STOP_GRACE_S`. The process group is its own, so that Ctrl-C in a terminal
    reaches the starter alone, which then stops the parts in order.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def python(cls, name: str, module: str, *arguments: str, log: Path, env: dict[str, str] | None = None) -> Part:
        """A part that is `python -m module ...` of the interpreter we run in."""
        return cls(name, [sys.executable, "-m", module, *arguments], log=log, env=env)

    def start(self) -> Self:
        """Starts the process; StartError when the program is not there."""
        with self.log.open("ab") as out:
            try:
                self._process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            except OSError as exc:
                raise StartError(f"{self.name} cannot be started: {exc}") from exc
        return self

    @property
    def pid(self) -> int:
        """Process id; StartError before `start()`."""
        if self._process is None:
            raise StartError(f"{self.name} was not started")
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Waits for `ready()`; StartError with the end of the log when the process ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (code := self.exit_code()) is not None:
                raise StartError(f"{self.name} ended with code {code} before it was ready.\n{self.log_tail()}")
            if ready():
                return
            time.sleep(0.05)
        raise StartError(f"{self.name} was not ready after {timeout_s:.0f} s.\n{self.log_tail()}")

    def wait(self, *, timeout_s: float) -> int | None:
        """Exit code, or None when it still runs after the time."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def kill(self) -> None:
        """SIGKILL, as a power cut would: for tests."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_GRACE_S)

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL to the whole group; the exit code."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_GRACE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.returncode

    def log_tail(self, lines: int = 15) -> str:
        """Last lines of the log."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {self.name}| {line}" for line in text[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
