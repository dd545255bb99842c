"""Which fields are worth sending, bounded by the hour, and the random audit stream beside them. Pure.

Uncertain fields are sent for their doubt. A random share of all fields that count is sent whatever the model thinks:
without it nobody could estimate how good the unquestioned results are. The audit stream has its own part of the
hour's budget, so that a bad slide full of doubt cannot crowd it out.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fleet.contract.cells import Decision
from fleet.contract.messages import SamplingPolicy

WINDOW_S = 3600.0


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
    """Remembers what was sent within the last hour of the monotonic clock.

    Args:
        policy: pictures an hour and share of the audit stream.
        sent_at_s: monotonic times of pictures that an earlier run sent within the hour.
    """

    def __init__(self, policy: SamplingPolicy, sent_at_s: Iterable[float] = ()) -> None:
        self._policy = policy
        self._doubt: deque[float] = deque(sorted(sent_at_s))
        self._audit: deque[float] = deque()

    @property
    def audit_budget(self) -> int:
        """Pictures an hour that are kept free for the audit stream."""
        policy = self._policy
        if policy.per_hour == 0 or policy.audit_ratio == 0:
            return 0
        return max(1, round(policy.per_hour * policy.audit_ratio))

    def choose(self, decision: Decision, capture_id: str, now_s: float) -> Sampled:
        """Decides for one field and remembers it."""
        for sent in (self._doubt, self._audit):
            while sent and sent[0] <= now_s - WINDOW_S:
                sent.popleft()
        if decision is Decision.WITHHELD:
            return Sampled(Choice.KEEP, audit=False)
        audit = in_audit_stream(capture_id, self._policy.audit_ratio)
        if decision is not Decision.UNCERTAIN and not audit:
            return Sampled(Choice.KEEP, audit=False)
        if decision is Decision.UNCERTAIN and len(self._doubt) < self._policy.per_hour - self.audit_budget:
            self._doubt.append(now_s)
            return Sampled(Choice.SEND, audit=audit)
        if audit and len(self._audit) < self.audit_budget:
            self._audit.append(now_s)
            return Sampled(Choice.SEND_AUDIT, audit=True)
        return Sampled(Choice.OVER_BUDGET, audit=audit)
