"""What the exit code of `ahs-edge` says."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """One number for each who must act."""

    OK = 0
    UNEXPECTED = 1
    CONFIGURATION = 2
    BUNDLE = 3
    SOURCE = 4
    WORKSTATION = 5
    NOT_DELIVERED = 6
    NOTHING_READ = 7
