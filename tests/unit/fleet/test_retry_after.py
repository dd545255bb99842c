"""How long a server asks to be left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.client.retry_after import LONGEST_WAIT_S, parse_retry_after_s

SENT = "Sat, 31 Jan 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "date", "wait_s"),
    [
        (None, SENT, None),
        ("30", None, 30.0),
        (" 0 ", None, 0.0),
        ("99999999999999999999999999", None, LONGEST_WAIT_S),
        ("Sat, 31 Jan 2026 12:00:45 GMT", SENT, 45.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", SENT, 0.0),
        ("Sat, 31 Jan 2026 12:00:45 GMT", None, None),
        ("soon", SENT, None),
        ("-5", SENT, None),
        ("٣", SENT, None),
    ],
)
def test_seconds_and_dates_are_read_and_nonsense_is_not(
    header: str | None, date: str | None, wait_s: float | None
) -> None:
    assert parse_retry_after_s(header, date) == wait_s


@given(st.text(), st.text())
def test_no_header_whatever_breaks_the_reader(header: str, date: str) -> None:
    wait_s = parse_retry_after_s(header, date)
    assert wait_s is None or 0.0 <= wait_s <= LONGEST_WAIT_S
