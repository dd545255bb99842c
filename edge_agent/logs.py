"""Logging: structlog to stderr, JSON unless it is a terminal."""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO, cast

import structlog


class Stderr(io.TextIOBase):
    """The process's stderr, whatever it is at the moment. A line that cannot be written is given up.

    The log often lies on the disk that has just run full, or goes to a terminal that was closed: neither may stop the
    thread that had something to say. The counters in the metrics still tell of it.
    """

    def write(self, text: str) -> int:
        """Writes, or loses the text."""
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flushes what can be."""
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def configure(*, level: str = "info") -> None:
    """Sets up logging for the process. Only programs call this."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Stderr())),
        cache_logger_on_first_use=True,
    )
