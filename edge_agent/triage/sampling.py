"""Which fields are worth sending, bounded by hour and day, and the random audit stream beside them. Pure.

Uncertain fields are sent for their doubt. A random share of all fields that count is sent whatever the model thinks:
without it nobody could estimate how good the unquestioned results are. The audit stream has its own part of
both budgets, so that a bad slide full of doubt cannot crowd it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.triage.budget import Budget
from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy

HOURS_A_DAY = 24


class Choice(StrEnum):
    """What became of a field's picture; stored, never renamed."""

    SEND = "send"
    SEND_AUDIT = "send_audit"
    KEEP = "keep"
    OVER_BUDGET = "over_budget"


@dataclass(frozen=True, slots=True)
class Sampled:
    """The choice, and whether the field belongs to the random audit stream (it may be uncertain as well)."""

    choice: Choice
    audit: bool

    @property
    def send(self) -> bool:
        """Whether the picture goes to the cloud."""
        return self.choice in (Choice.SEND, Choice.SEND_AUDIT)


def in_audit_stream(capture_id: str, ratio: float) -> bool:
    """Whether a field belongs to the audit stream: by a hash, so the same in each run and not to be influenced."""
    digest = hashlib.sha256(f"audit:{capture_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


class Sampler:
    """Chooses within the budgets of the hour and the day, which doubt and audit have apart.

    Args:
        policy: pictures an hour and a day, and share of the audit stream.
        doubt_sent_s, audit_sent_s: monotonic times of pictures that earlier runs sent within the day.
    """

    def __init__(
        self, policy: SamplingPolicy, doubt_sent_s: Iterable[float] = (), audit_sent_s: Iterable[float] = ()
    ) -> None:
        self._ratio = policy.audit_ratio
        per_day = policy.per_hour * HOURS_A_DAY if policy.per_day is None else policy.per_day
        of_hour, of_day = audit_part(policy.per_hour, self._ratio), audit_part(per_day, self._ratio)
        self.audit_budget = Budget(per_hour=of_hour, per_day=of_day, spent_s=audit_sent_s)
        self.doubt_budget = Budget(per_hour=policy.per_hour - of_hour, per_day=per_day - of_day, spent_s=doubt_sent_s)

    def choose(self, decision: Decision, capture_id: str, now_s: float) -> Sampled:
        """Decides for one field and remembers it."""
        if decision is Decision.WITHHELD:
            return Sampled(Choice.KEEP, audit=False)
        audit = in_audit_stream(capture_id, self._ratio)
        if decision is not Decision.UNCERTAIN and not audit:
            return Sampled(Choice.KEEP, audit=False)
        if decision is Decision.UNCERTAIN and self.doubt_budget.has_room(now_s):
            self.doubt_budget.spend(now_s)
            return Sampled(Choice.SEND, audit=audit)
        if audit and self.audit_budget.has_room(now_s):
            self.audit_budget.spend(now_s)
            return Sampled(Choice.SEND_AUDIT, audit=True)
        return Sampled(Choice.OVER_BUDGET, audit=audit)


def audit_part(pictures: int, ratio: float) -> int:
    """How many of so many pictures are kept free for the audit stream."""
    return 0 if pictures == 0 or ratio == 0 else max(1, round(pictures * ratio))
