"""The `Retry-After` header: seconds, or a date."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 3600.0
"""A server that asks for more is taken at this much, so that a mistake does not silence a device for a day."""


def parse_retry_after_s(header: str | None, date_header: str | None) -> float | None:
    """Seconds to wait, 0 to LONGEST_WAIT_S; None when the server named none that can be read.

    A date is measured against the server's own `Date`, never against this machine's clock, which may say 1970.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_WAIT_S)
    until, sent = _date(text), _date(date_header or "")
    if until is None or sent is None:
        return None
    return min(max((until - sent).total_seconds(), 0.0), LONGEST_WAIT_S)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
