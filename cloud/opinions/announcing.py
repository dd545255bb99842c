"""Tells a device of an opinion: a row of the outbox, in the transaction that stores what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Principal
from cloud.storage.tables import OutboxRow
from fleet.contract import topics
from fleet.contract.codec import encode
from fleet.contract.messages import OpinionReady, OpinionState

TOLD_FOR = timedelta(days=7)
"""How long a message about an opinion is worth sending; later the device asks by HTTP."""

READER = "reader"
"""`OpinionReady.source` of what a person said."""


def announce(
    session: AsyncSession,
    principal: Principal,
    *,
    site: str,
    device: str,
    opinion_id: str,
    capture_id: str,
    state: OpinionState,
    source: str,
    labels: Mapping[str, int],
    now: datetime,
) -> None:
    """Adds the message to the open transaction.

    Args:
        principal: who brought it about.
        source: digest of the model, or READER.
        labels: label -> white cells.
    """
    message = OpinionReady(
        opinion=opinion_id,
        capture_id=capture_id,
        state=state,
        source=source,
        labels=dict(labels),
        not_after=now + TOLD_FOR,
    )
    session.add(
        OutboxRow(
            site_id=site,
            topic=topics.down(device, "opinion", opinion_id),
            payload=encode(message),
            not_after=message.not_after,
            created_at=now,
            created_by=principal.id,
        )
    )
