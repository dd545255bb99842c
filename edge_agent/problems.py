"""What is wrong now: set and cleared by whoever notices, read by the console, the alarms and the telemetry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from fleet.contract.messages import Severity


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: constant snake_case word; the alarm's code and the degraded flag.
        text: what happened, for a technician.
        what_to_do: about it.
        severity: critical when no result can be made.
    """

    code: str
    text: str
    what_to_do: str
    severity: Severity = Severity.WARNING


class Problems:
    """The problems of this moment. Safe to use from several threads.

    Args:
        on_change: told of a problem when it appears (True) and when it goes (False), not while its text changes.
    """

    def __init__(self, on_change: Callable[[Problem, bool], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Problem] = {}
        self._on_change = on_change

    def set(self, problem: Problem) -> None:
        """It is so."""
        with self._lock:
            new = problem.code not in self._found
            self._found[problem.code] = problem
        if new and self._on_change is not None:
            self._on_change(problem, True)

    def clear(self, code: str) -> None:
        """It is over, if it ever was."""
        with self._lock:
            gone = self._found.pop(code, None)
        if gone is not None and self._on_change is not None:
            self._on_change(gone, False)

    def now(self) -> tuple[Problem, ...]:
        """Critical ones first."""
        with self._lock:
            found = list(self._found.values())
        return tuple(sorted(found, key=lambda problem: (problem.severity is not Severity.CRITICAL, problem.code)))
