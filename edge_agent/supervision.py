"""Threads that are restarted when they fail, with pauses, counted and logged; some errors end the program instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from edge_agent.metrics import Metrics

RESTART_FIRST_S = 0.5
RESTART_LAST_S = 30.0
HEALTHY_AFTER_S = 60.0

log = structlog.get_logger()


class Worker:
    """One thread that runs `target(stop)` until it returns or stop is set.

    Args:
        name: constant; metrics label.
        target: the loop; returns when there is nothing left to do.
        stop: asks it to end.
        metrics: counts restarts.
        fatal: errors that end the program: kept in `failure`, and stop is set.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[threading.Event], None],
        *,
        stop: threading.Event,
        metrics: Metrics,
        fatal: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self._target = target
        self._stop = stop
        self._metrics = metrics
        self._fatal = fatal
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                self._target(self._stop)
                return
            except self._fatal as exc:
                self.failure = exc
                self._stop.set()
                return
            except Exception as exc:
                if time.monotonic() - began_s > HEALTHY_AFTER_S:
                    failures = 0
                wait_s = min(RESTART_FIRST_S * 2.0 ** min(failures, 16), RESTART_LAST_S)
                failures += 1
                self._metrics.restarts.labels(self.name).inc()
                log.error("worker_failed", worker=self.name, error=repr(exc), restart_in_s=wait_s, exc_info=True)
                self._stop.wait(wait_s)
