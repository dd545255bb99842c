from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleet.webkit import words

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (-30, "just now"),
        (5, "5\u00a0s ago"),
        (89, "89\u00a0s ago"),
        (90, "1\u00a0min ago"),
        (5400, "1\u00a0h ago"),
        (172799, "47\u00a0h ago"),
        (172800, "2\u00a0days ago"),
    ],
)
def test_an_age_is_told_in_the_unit_a_person_would_use(seconds: int, text: str) -> None:
    assert words.age(NOW - timedelta(seconds=seconds), NOW) == text


def test_what_never_happened_is_never() -> None:
    assert words.age(None, NOW) == "never"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "over"),
        (60, "in 1\u00a0min"),
        (23 * 3600, "in 23\u00a0h"),
        (6 * 86400, "in 6\u00a0days"),
        (1461 * 86400, "in 4\u00a0years"),
    ],
)
def test_what_is_to_come_is_told_in_the_unit_a_person_would_use(seconds: int, text: str) -> None:
    assert words.until(NOW + timedelta(seconds=seconds), NOW) == text


def test_a_size_is_told_in_a_round_unit() -> None:
    told = [words.size(size_bytes) for size_bytes in (None, 812, 61_440, 999_700, 3_400_000)]
    assert told == [words.NOTHING, "812\u00a0B", "61\u00a0kB", "1.0\u00a0MB", "3.4\u00a0MB"]


def test_a_figure_that_is_not_there_is_a_dash_and_not_a_zero() -> None:
    assert words.percent(None) == words.number(None) == words.milliseconds(None) == words.NOTHING
    assert words.percent(0.0) == "0\u00a0%"
    assert words.number(1204) == "1,204"


def test_a_withheld_field_says_why_it_is_not_counted() -> None:
    assert words.field_sentence("withheld", ("out_of_focus",)) == "Not counted: out of focus."


def test_a_reason_nobody_gave_words_to_is_still_readable() -> None:
    assert words.reason("stage_moved") == "stage moved"


def test_every_reason_of_the_edge_and_of_the_cloud_has_words() -> None:
    from cloud.opinions import rules as verdict
    from edge_agent.capture.gate import GateReason
    from edge_agent.triage import rules as triage

    codes = {str(reason) for reason in GateReason}
    codes |= {triage.CELL_UNIDENTIFIED, triage.CELL_FOREIGN, triage.WEAK_WHITE_CELL, triage.SCALE_UNKNOWN}
    assert verdict.judge.__doc__ is not None
    codes |= {word for word in words.REASONS if word in verdict.judge.__doc__}
    assert codes <= set(words.REASONS)
    assert {"cloud_unidentified", "types_differ", "only_edge_saw_a_cell"} <= codes
