"""SIGHUP: the settings are read again; what can be applied at once is, and what needs a restart is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.config import Settings
from edge_agent.errors import ConfigurationError
from edge_agent.problems import Problem, Problems

AT_ONCE = "store."
"""Settings that are looked at anew each time they are needed. Limits of the quality gate are not among them: a model
that is on probation is compared over fields that were judged alike."""
REFUSED = "settings_refused"
RESTART = "restart_needed"
NAMED_AT_MOST = 8

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a change is applied at once, and what after a restart; keys as in the file, sorted."""

    at_once: tuple[str, ...]
    restart: tuple[str, ...]


def plan(running: Settings, wanted: Settings) -> Plan:
    """Compares what is in force with what is written now."""
    before, after = _flat(running.model_dump(mode="json")), _flat(wanted.model_dump(mode="json"))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return Plan(
        at_once=tuple(key for key in changed if key.startswith(AT_ONCE)),
        restart=tuple(key for key in changed if not key.startswith(AT_ONCE)),
    )


@dataclass(frozen=True, slots=True)
class Written:
    """The settings as they are written now.

    Attributes:
        read: reads them; ConfigurationError when they cannot be used.
        changed: set by whoever says that they are others now, also in a signal handler.
    """

    read: Callable[[], Settings]
    changed: threading.Event


class Reloader:
    """See the module.

    Args:
        running: the settings in force.
        written: where to read them anew, and when.
        problems: where it is said what was not applied.
    """

    def __init__(self, running: Settings, written: Written, problems: Problems) -> None:
        self._running = running
        self._written = written
        self._problems = problems
        self.apply: tuple[Callable[[Settings], None], ...] = ()

    def look(self) -> None:
        """Reads and applies, if it was asked to. A file that cannot be used changes nothing, and that is said."""
        if not self._written.changed.is_set():
            return
        self._written.changed.clear()
        try:
            wanted = self._written.read()
        except ConfigurationError as exc:
            log.error("settings_refused", error=str(exc))
            self._problems.set(
                Problem(
                    REFUSED,
                    "The settings were to be read again and cannot be used; the old ones stay in force.",
                    "Run `ahs-edge check-config`, correct what it names, and send SIGHUP again.",
                )
            )
            return
        self._problems.clear(REFUSED)
        found = plan(self._running, wanted)
        if found.at_once:
            self._running = self._running.model_copy(update={"store": wanted.store})
            for apply in self.apply:
                apply(self._running)
        log.info("settings_reread", applied=list(found.at_once), restart=list(found.restart))
        self._say(found.restart)

    def _say(self, keys: tuple[str, ...]) -> None:
        if not keys:
            self._problems.clear(RESTART)
            return
        more = f" and {len(keys) - NAMED_AT_MOST} more" if len(keys) > NAMED_AT_MOST else ""
        named = ", ".join(keys[:NAMED_AT_MOST]) + more
        self._problems.set(
            Problem(RESTART, f"Changed, and in force only after a restart: {named}.", "Restart the agent.")
        )


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
