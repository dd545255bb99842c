"""The agent's version, from the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "automated-hematology-system"


def agent_version() -> str:
    """E.g. `0.1.0`; `0.0.0+source` when run from a tree that was never installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0.0.0+source"
