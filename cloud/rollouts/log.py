"""Writes down what was decided in a rollout, by whom and on which figures, in the transaction that does it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.storage.tables import RolloutDecisionRow, RolloutRow
from fleet.rollout.gates import Gate

MAX_REASON = 500


def decided(
    session: AsyncSession,
    rollout: RolloutRow,
    by: Principal,
    *,
    action: str,
    reason: str,
    gates: Sequence[Gate] = (),
    now: datetime,
) -> None:
    """Adds one row to the open transaction."""
    session.add(
        RolloutDecisionRow(
            site_id=rollout.site_id,
            rollout_id=rollout.id,
            at=now,
            decided_by=by.id,
            name=by.name,
            action=action,
            reason=reason[:MAX_REASON],
            gates=[gate.row.model_dump(mode="json") for gate in gates],
        )
    )
