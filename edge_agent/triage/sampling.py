"""Which fields are worth sending, bounded by hour and day, and the random audit stream beside them. Pure.

Uncertain fields are sent for their doubt, by uncertainty times novelty, without near-duplicates. A random share of all
fields that count is sent whatever the model thinks: without it nobody could estimate how good the unquestioned results
are. The audit stream has its own part of both budgets, so that a bad slide full of doubt cannot crowd it out, and
neither worth nor likeness has a say in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.capture.registration import Place
from edge_agent.triage.budget import Budget
from edge_agent.triage.worth import Doubt, SentPlaces, Worths
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy

HOURS_A_DAY = 24
DUPLICATE_ABOVE_RATIO = 0.5


class Choice(StrEnum):
    """What became of a field's picture; stored, never renamed."""

    SEND = "send"
    SEND_AUDIT = "send_audit"
    KEEP = "keep"
    OVER_BUDGET = "over_budget"
    DUPLICATE = "duplicate"
    """It shows what was sent before."""
    OUTRANKED = "outranked"
    """Much of the budget is spent, and pictures of the last time were worth more."""


SENT = frozenset({Choice.SEND, Choice.SEND_AUDIT})


@dataclass(frozen=True, slots=True)
class Sampled:
    """The choice, and whether the field belongs to the random audit stream (it may be uncertain as well)."""

    choice: Choice
    audit: bool

    @property
    def send(self) -> bool:
        """Whether the picture goes to the cloud."""
        return self.choice in SENT


def in_audit_stream(capture_id: str, ratio: float) -> bool:
    """Whether a field belongs to the audit stream: by a hash, so the same in each run and not to be influenced."""
    digest = hashlib.sha256(f"audit:{capture_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """What of a picture decides whether it is sent; without these only the budget does."""

    doubt: Doubt
    place: Place


class Sampler:
    """Chooses within the budgets of the hour and the day, which doubt and audit have apart.

    Args:
        policy: pictures an hour and a day, and share of the audit stream.
        doubt_sent_s, audit_sent_s: monotonic times of pictures that earlier runs sent within the day.
        duplicate_above_ratio: pictures in doubt that share more of their area with one sent before are not sent.
    """

    def __init__(
        self,
        policy: SamplingPolicy,
        doubt_sent_s: Iterable[float] = (),
        audit_sent_s: Iterable[float] = (),
        *,
        duplicate_above_ratio: float = DUPLICATE_ABOVE_RATIO,
    ) -> None:
        self._ratio = policy.audit_ratio
        per_day = policy.per_hour * HOURS_A_DAY if policy.per_day is None else policy.per_day
        of_hour, of_day = audit_part(policy.per_hour, self._ratio), audit_part(per_day, self._ratio)
        self._audit = Budget(per_hour=of_hour, per_day=of_day, spent_s=audit_sent_s)
        self._doubt = Budget(per_hour=policy.per_hour - of_hour, per_day=per_day - of_day, spent_s=doubt_sent_s)
        self._worths = Worths()
        self._places = SentPlaces(duplicate_above_ratio)
        self._last: tuple[Choice, float, Offered | None] | None = None

    def choose(self, decision: Decision, capture_id: str, now_s: float, offered: Offered | None = None) -> Sampled:
        """Decides for one field; it counts against the budgets once it was `stored`, and is forgotten with the next.

        A field that could not be stored is offered again: it is neither a copy of itself nor paid for twice.

        Args:
            decision: of triage.
            capture_id: of the field; alone decides on the audit stream.
            now_s: monotonic.
            offered: of a field in doubt.
        """
        found = self._decided(decision, capture_id, now_s, offered)
        self._last = (found.choice, now_s, offered)
        return found

    def stored(self) -> None:
        """The field that was chosen last is in the store."""
        if self._last is None:
            return
        choice, at_s, offered = self._last
        self._last = None
        if choice not in SENT:
            return
        (self._doubt if choice is Choice.SEND else self._audit).spend(at_s)
        if offered is not None:
            self._worths.sent(offered.doubt)
            self._places.sent(offered.place)

    def _decided(self, decision: Decision, capture_id: str, now_s: float, offered: Offered | None) -> Sampled:
        if decision is Decision.WITHHELD:
            return Sampled(Choice.KEEP, audit=False)
        audit = in_audit_stream(capture_id, self._ratio)
        choice = Choice.KEEP
        if decision is Decision.UNCERTAIN:
            choice = self._choose_in_doubt(now_s, offered)
        if audit and choice is not Choice.SEND:
            choice = Choice.SEND_AUDIT if self._audit.has_room(now_s) else Choice.OVER_BUDGET
        return Sampled(choice, audit=audit)

    def _choose_in_doubt(self, now_s: float, offered: Offered | None) -> Choice:
        if offered is not None and self._places.shows_again(offered.place):
            return Choice.DUPLICATE
        worth = None if offered is None else self._worths.of(offered.doubt)
        if not self._doubt.has_room(now_s):
            return Choice.OVER_BUDGET
        fullness_ratio = self._doubt.fullness_ratio(now_s)
        if worth is not None and not self._worths.is_enough(worth, fullness_ratio=fullness_ratio):
            return Choice.OUTRANKED
        return Choice.SEND


def audit_part(pictures: int, ratio: float) -> int:
    """How many of so many pictures are kept free for the audit stream."""
    return 0 if pictures == 0 or ratio == 0 else max(1, round(pictures * ratio))
