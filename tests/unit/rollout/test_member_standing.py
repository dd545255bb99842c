"""What a device's report says of its part in a rollout."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.contract.cells import ModelRef
from fleet.contract.messages import Reported, SelfTestSummary, SoakFigures, UpdateState
from fleet.rollout.members import Order, Standing, is_security, standing_of

OLD, NEW, OTHER = ("sha256:" + digit * 64 for digit in "abc")
ORDER = Order(rollout="r-1", digest=NEW, previous=OLD, version=4)
BACK = Order(rollout="r-1", digest=NEW, previous=OLD, version=5, return_ordered=True)
S = UpdateState
TOLD_AT, SECOND = datetime(2026, 1, 31, tzinfo=UTC), timedelta(seconds=1)


def report(active: str = OLD, state: UpdateState = S.IDLE, **changes: Any) -> Reported:
    changes = {"rollout": "r-1", "desired_version": 4, "sent_at": datetime(2026, 1, 31, tzinfo=UTC)} | changes
    return Reported(
        message_id="m" * 8,
        device="bench-1",
        boot=1,
        seq=1,
        active=ModelRef(name="edge", version="1", digest=active),
        update_state=state,
        **changes,
    )


@pytest.mark.parametrize(
    ("told", "before", "expected"),
    [
        (report(OLD, S.DOWNLOADING), S.IDLE, S.DOWNLOADING),
        (report(OLD, S.TRIAL), S.VERIFIED, S.TRIAL),
        (report(NEW, S.UNCONFIRMED), S.TRIAL, S.UNCONFIRMED),
        (report(NEW, S.CONFIRMED), S.UNCONFIRMED, S.CONFIRMED),
        (report(NEW, S.IDLE), S.CONFIRMED, S.CONFIRMED),
        (report(NEW, S.IDLE, rollout=None), S.IDLE, S.CONFIRMED),
        (report(NEW, S.CONFIRMED, rollout="an older one"), S.IDLE, S.CONFIRMED),
        (report(OLD, S.FAILED), S.TRIAL, S.FAILED),
        (report(OLD, S.ROLLED_BACK), S.CONFIRMED, S.ROLLED_BACK),
        (report(OLD, S.IDLE), S.CONFIRMED, S.ROLLED_BACK),
        (report(OTHER, S.CONFIRMED), S.CONFIRMED, S.ROLLED_BACK),
        (report(OLD, S.IDLE, rollout=None), S.CONFIRMED, S.ROLLED_BACK),
        (report(OLD, S.CONFIRMED), S.TRIAL, S.UNKNOWN),
        (report(OLD, S.IDLE), S.FAILED, S.FAILED),
        (report(OLD, S.IDLE, rollout=None), S.FAILED, S.FAILED),
        (report(OLD, S.DOWNLOADING), S.FAILED, S.DOWNLOADING),
        (report(OLD, S.DOWNLOADING, rollout="another"), S.DOWNLOADING, S.IDLE),
        (report(OLD, S.VERIFIED, rollout=None), S.IDLE, S.IDLE),
        (None, S.TRIAL, S.TRIAL),
    ],
)
def test_the_report_is_the_truth(told: Reported | None, before: UpdateState, expected: UpdateState) -> None:
    assert standing_of(told, Standing(before), ORDER).state is expected


def test_a_device_that_never_ran_the_release_is_not_confirmed_by_its_word_alone() -> None:
    assert standing_of(report(OLD, S.CONFIRMED), Standing(), ORDER).state is S.UNKNOWN


def test_the_code_comes_with_the_failure_and_stays_with_it() -> None:
    failed = standing_of(report(OLD, S.FAILED, update_code="E_SELFTEST"), Standing(S.TRIAL), ORDER)
    later = standing_of(report(OLD, S.IDLE), failed, ORDER)
    assert (failed.code, later.code) == ("E_SELFTEST", "E_SELFTEST")


def test_what_the_new_model_has_shown_is_kept_and_the_old_models_figures_are_not_taken() -> None:
    shown = SoakFigures(fields=12, white_cells=30)
    running = standing_of(report(NEW, S.UNCONFIRMED, soak=shown), Standing(), ORDER)
    assert running.soak == shown
    assert standing_of(report(NEW, S.CONFIRMED), running, ORDER).soak == shown
    assert (
        standing_of(report(OLD, S.VERIFIED, soak=SoakFigures(fields=99, white_cells=1)), Standing(), ORDER).soak is None
    )


def test_a_failed_self_test_of_the_new_model_is_seen() -> None:
    tested = SelfTestSummary(passed=False, age_s=1)
    assert standing_of(report(NEW, S.CONFIRMED, self_test=tested), Standing(), ORDER).self_test_passed is False
    assert standing_of(report(OLD, S.TRIAL, self_test=tested), Standing(), ORDER).self_test_passed is None


@pytest.mark.parametrize(
    ("told", "before", "state", "returned"),
    [
        (report(NEW, S.CONFIRMED, desired_version=4), S.CONFIRMED, S.CONFIRMED, False),
        (report(OLD, S.IDLE, desired_version=4), S.VERIFIED, S.VERIFIED, False),
        (report(OLD, S.CONFIRMED, desired_version=5), S.CONFIRMED, S.CANCELLED, True),
        (report(OLD, S.IDLE, desired_version=6, rollout=None), S.VERIFIED, S.CANCELLED, True),
        (report(OLD, S.FAILED, desired_version=5), S.FAILED, S.FAILED, True),
        (report(NEW, S.REJECTED, desired_version=5), S.CONFIRMED, S.REJECTED, False),
        (report(NEW, S.UNCONFIRMED, desired_version=5), S.UNCONFIRMED, S.UNCONFIRMED, False),
    ],
)
def test_a_device_is_back_when_it_has_heard_the_order_and_runs_its_old_model(
    told: Reported, before: UpdateState, state: UpdateState, returned: bool
) -> None:
    found = standing_of(told, Standing(before), BACK)
    assert (found.state, found.returned) == (state, returned)


@pytest.mark.parametrize(
    ("told", "stays"),
    [
        (report(NEW, S.REJECTED, desired_version=5, update_code="E_ROLLBACK"), True),
        (report(NEW, S.FAILED, desired_version=5), True),
        (report(NEW, S.FAILED, desired_version=5, update_code="E_SLOW"), False),
        (report(NEW, S.REJECTED, desired_version=4, update_code="E_ROLLBACK"), False),
        (report(OLD, S.REJECTED, desired_version=5, update_code="E_ROLLBACK"), False),
    ],
)
def test_a_device_stays_where_it_is_when_it_has_refused_the_order_to_go_back(told: Reported, stays: bool) -> None:
    assert standing_of(told, Standing(S.CONFIRMED), BACK).stays is stays


REFUSAL: dict[str, Any] = {"rollout": None, "desired_version": 3, "update_code": "E_SIG", "sent_at": TOLD_AT + SECOND}


@pytest.mark.parametrize("state", [S.REJECTED, S.FAILED])
@pytest.mark.parametrize("changes", [{}, {"rollout": "an older one"}, {"pending": NEW}])
def test_a_refusal_that_comes_before_the_wish_is_taken_counts_with_its_code(
    state: UpdateState, changes: dict[str, Any]
) -> None:
    found = standing_of(report(OLD, state, **REFUSAL | changes), Standing(), replace(ORDER, told_at=TOLD_AT))
    assert (found.state, found.code) == (state, "E_SIG")


@pytest.mark.parametrize(
    "changes",
    [
        {"sent_at": TOLD_AT},
        {"clock": "unsynced"},
        {"desired_version": 4},
        {"pending": OTHER},
        {"update_code": None},
        {"update_state": S.DOWNLOADING},
        {"update_state": S.ROLLED_BACK},
    ],
)
def test_what_may_be_of_an_earlier_wish_is_no_refusal_of_this_one(changes: dict[str, Any]) -> None:
    told = report(OLD, S.REJECTED, **REFUSAL).model_copy(update=changes)
    assert standing_of(told, Standing(), replace(ORDER, told_at=TOLD_AT)).state is S.IDLE
    assert standing_of(report(OLD, S.REJECTED, **REFUSAL), Standing(), ORDER).state is S.IDLE


def test_forged_altered_or_replayed_data_is_a_matter_of_security_and_nothing_else_is() -> None:
    assert all(is_security(code) for code in ("E_SIG", "E_ROLLBACK", "E_HASH", "E_LEN", "E_CHUNK", "E_PATH"))
    assert not any(is_security(code) for code in (None, "E_SELFTEST", "E_SPACE", "something newer"))
