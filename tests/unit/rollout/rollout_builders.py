"""Builders of rollout views."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.contract.messages import Presence, SoakFigures, UpdateState
from fleet.contract.release import RolloutState, Thresholds
from fleet.rollout.members import Member, Standing
from fleet.rollout.rules import RolloutView

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIMITS = Thresholds(
    p_ok=1.0, p_error=0.2, min_errors=1, soak_s=60, step_deadline_s=300, wave_deadline_s=3600, min_fields=10
)
GOOD = SoakFigures(
    fields=20,
    white_cells=50,
    disagreement_ratio=0.05,
    uncertain_ratio=0.1,
    withheld_ratio=0.0,
    baseline_uncertain_ratio=0.15,
    baseline_withheld_ratio=0.0,
    latency_ratio=1.1,
)


def at(seconds: float) -> datetime:
    """A moment after the start."""
    return START + timedelta(seconds=seconds)


def soak(**changes: Any) -> SoakFigures:
    """Good figures but for what is given."""
    return GOOD.model_copy(update=changes)


def member(device: str = "bench-1", wave: int = 0, state: UpdateState = UpdateState.IDLE, **changes: Any) -> Member:
    """An online device that was told to activate at the start; `code`, `soak` are of its standing."""
    code, shown = changes.pop("code", None), changes.pop("soak", GOOD if state is UpdateState.CONFIRMED else None)
    base = Member(
        device=device,
        wave=wave,
        presence=Presence.ONLINE,
        known=True,
        told=True,
        offered_at=START,
        standing=Standing(state, code, shown),
        since=START,
        online_since=START,
    )
    return replace(base, **changes)


def waiting(device: str, wave: int, **changes: Any) -> Member:
    """An online device whose wave has not opened; the download was offered."""
    return member(device, wave, offered_at=None, **changes)


def offline(device: str, wave: int = 0, state: UpdateState = UpdateState.IDLE, **changes: Any) -> Member:
    """A device that is not connected."""
    return member(device, wave, state, presence=Presence.OFFLINE, online_since=None, **changes)


def view(*members: Member, state: RolloutState = RolloutState.RUNNING, **changes: Any) -> RolloutView:
    """A rollout whose first wave opened at the start."""
    base = RolloutView(
        state=state,
        wave=0,
        waves=max((m.wave for m in members), default=0) + 1,
        members=members,
        thresholds=LIMITS,
        evidence_accepted=True,
        wave_opened_at=START,
        soaking_since=START if state is RolloutState.SOAKING else None,
    )
    return replace(base, **changes)
