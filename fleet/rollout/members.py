"""What a device's own report says of its part in a rollout. Pure.

The report is the truth: a device that went back by itself is bad again, and one that reports the release as running is
confirmed, whatever was ordered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fleet.contract.base import ClockQuality
from fleet.contract.messages import Presence, Reported, SoakFigures, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, UpdateCode

BAD_STATES = frozenset({UpdateState.FAILED, UpdateState.ROLLED_BACK, UpdateState.REJECTED})
IDLE_STATES = frozenset({UpdateState.IDLE, UpdateState.WAITING, UpdateState.DOWNLOADING, UpdateState.UNCONFIRMED})
"""States of an offered device in which nothing is wrong and nothing is shown: too long in them is want of evidence.

A slow download is among them: it says nothing of the model, and the device gives it up by itself (`E_SLOW`).
"""

PASSING = frozenset(
    code.value
    for code, family in CODE_FAMILIES.items()
    if family is CodeFamily.RETRYABLE and code is not UpdateCode.TIMEOUT
)
"""Codes after which a device tries again by itself, since they say nothing of the model.

A time-out is none of them: devices tell it of a trial that does not end, and give up a slow download as `E_SLOW`.
"""

_GIVEN_UP = frozenset({UpdateState.FAILED, UpdateState.REJECTED})
_RUNS = frozenset({UpdateState.CONFIRMED, UpdateState.IDLE})
HUNG = UpdateCode.TIMEOUT.value


@dataclass(frozen=True, slots=True)
class Order:
    """What a device of a rollout has been told.

    Attributes:
        rollout, digest: the rollout and its release.
        previous: what the device ran before; None before it was told anything.
        version: of the newest desired state made for it by this rollout.
        return_ordered: whether that is the order to go back.
        told_at: when that desired state was made; None when it is no longer the newest.
    """

    rollout: str
    digest: str
    previous: str | None = None
    version: int | None = None
    return_ordered: bool = False
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a member stands: state and code as last reported, and what the new model has shown.

    Attributes:
        returned: it is back on its old model, as ordered.
        stays: it has refused to go back, or failed at it for good.
    """

    state: UpdateState = UpdateState.IDLE
    code: str | None = None
    soak: SoakFigures | None = None
    self_test_passed: bool | None = None
    returned: bool = False
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A device of a rollout, as the rules see it.

    Attributes:
        known: whether it has ever reported, so that there is something to return to.
        told: whether it has any desired state of the rollout (download or more), or of one that this one replaced.
        inherited: the latter alone: it still follows a rollout that is no more.
        offered_at: when it was told to activate.
        since: last sign of progress.
        online_since: since when it has been seen online without a break; None while it is not.
        gone: taken out of the registry; nobody waits for it.
        ran_before: it ran this release before the rollout, so that it may take it up again without a soak.
    """

    device: str
    wave: int
    presence: Presence = Presence.UNKNOWN
    known: bool = False
    told: bool = False
    offered_at: datetime | None = None
    standing: Standing = Standing()
    since: datetime | None = None
    online_since: datetime | None = None
    straggler: bool = False
    gone: bool = False
    return_ordered_at: datetime | None = None
    ran_before: bool = False
    inherited: bool = False

    @property
    def online(self) -> bool:
        """Whether it is connected now."""
        return self.presence is Presence.ONLINE and not self.gone

    @property
    def offered(self) -> bool:
        """Whether it was told to activate."""
        return self.offered_at is not None

    @property
    def confirmed(self) -> bool:
        """Whether it runs the release for good."""
        return self.standing.state is UpdateState.CONFIRMED

    @property
    def had_it(self) -> bool:
        """Whether it runs a release that it had already: nothing was soaked, and no figures are to come."""
        return self.confirmed and self.ran_before and self.standing.soak is None

    @property
    def bad(self) -> bool:
        """Whether it was told to activate the release, and has not installed it, or no longer runs it."""
        return self.offered and self.standing.state in BAD_STATES and not self.passing

    @property
    def passing(self) -> bool:
        """Whether it has given up for now, by a code after which it tries again."""
        return self.standing.state in _GIVEN_UP and self.standing.code in PASSING

    @property
    def attempted(self) -> bool:
        """Whether it was told to activate and has begun with it."""
        return self.offered and self.standing.state is not UpdateState.IDLE

    @property
    def undecided(self) -> bool:
        """Neither confirmed nor bad."""
        return not (self.confirmed or self.bad)


def standing_of(report: Reported | None, before: Standing, order: Order) -> Standing:
    """Where a member stands by its newest report; `before` is what was known of it."""
    if report is None:
        return before
    if order.return_ordered:
        return _going_back(report, before, order)
    runs = report.active.digest == order.digest
    soak = report.soak if runs and report.soak is not None else before.soak
    if report.rollout == order.rollout:
        state, code = report.update_state, report.update_code
        if state in _RUNS and runs:
            state = UpdateState.CONFIRMED
        elif before.state is UpdateState.CONFIRMED and state in _RUNS:
            state = UpdateState.ROLLED_BACK  # it runs another model again: it went back on its own
        elif state is UpdateState.CONFIRMED:
            state = UpdateState.UNKNOWN  # done with this release, and running another one: nothing is proven
        elif before.state in BAD_STATES and state is UpdateState.IDLE:
            state, code = before.state, before.code  # started anew, and the failure is still one
    elif runs and report.update_state in _RUNS:
        state, code = UpdateState.CONFIRMED, None
    elif _refused(report, order):
        state, code = report.update_state, report.update_code
    elif before.state is UpdateState.CONFIRMED and not runs:
        state, code = UpdateState.ROLLED_BACK, before.code
    elif before.state in BAD_STATES or before.state is UpdateState.SUPERSEDED:
        state, code = before.state, before.code
    else:
        state, code = UpdateState.IDLE, None
    tested = report.self_test.passed if runs and report.self_test is not None else None
    return Standing(state, code, soak, self_test_passed=tested)


def _going_back(report: Reported, before: Standing, order: Order) -> Standing:
    heard = order.version is not None and report.desired_version >= order.version
    if heard and report.active.digest == order.previous:
        kept = before.state in BAD_STATES
        return Standing(before.state if kept else UpdateState.CANCELLED, before.code, before.soak, returned=True)
    if heard and report.rollout == order.rollout and report.update_state in BAD_STATES:
        stays = report.update_state not in _GIVEN_UP or report.update_code not in PASSING
        return Standing(report.update_state, report.update_code, before.soak, stays=stays)
    return before


def _refused(report: Reported, order: Order) -> bool:
    """Whether the device has refused what it was told before taking it in, so that it cannot name the rollout.

    Only what it said later than it was told, by a clock that can be trusted, and not of another release.
    """
    return (
        report.update_state in _GIVEN_UP
        and report.update_code is not None
        and report.pending in (None, order.digest)
        and order.version is not None
        and report.desired_version < order.version
        and order.told_at is not None
        and report.clock is ClockQuality.OK
        and report.sent_at > order.told_at
    )


def is_security(code: str | None) -> bool:
    """Whether a code tells of forged, altered or replayed data."""
    return code is not None and CODE_FAMILIES[UpdateCode(code)] is CodeFamily.SECURITY
