"""What can go wrong when the system is started on one machine.

LocalError
├── StartError      a process did not come up, or ended too soon: carries the end of its log
└── SourceUnusable  the picture source that was asked for cannot be used
"""

from __future__ import annotations


class LocalError(Exception):
    """The local system cannot go on; the text says what to do."""


class StartError(LocalError):
    """A part did not start or ended too soon."""


class SourceUnusable(LocalError):
    """The source given by the person cannot be used."""
