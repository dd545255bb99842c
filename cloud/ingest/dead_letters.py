"""Keeps what could not be taken, once each, with how often it came."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.ingest.rules import Letter
from cloud.storage.tables import NO_SITE, DeadLetterRow
from cloud.storage.upserts import insert_or_update

KEPT_BYTES = 16 * 1024
"""Of a payload; enough to see what it is, too little to fill a disk with."""

_ONE_ROW_A_DEVICE = frozenset({"revoked_device", "unknown_device"})
"""Refused for who sends, whatever is sent: such a device is told nothing and goes on with ever new messages."""


async def keep(
    session: AsyncSession, letter: Letter, *, topic: str, device: str | None, site_id: str | None, now: datetime
) -> None:
    """Adds a dead letter to the open transaction; the same one again counts up.

    Of a device that may not send at all only the first message is kept, with how many there were.

    Args:
        site_id: of the registered device; None for one that nobody registered.
    """
    mark = hashlib.sha256(_sameness(letter, topic=topic, device=device)).hexdigest()
    boot, seq = letter.places[0] if letter.places else (None, None)
    row = {
        "site_id": site_id or NO_SITE,
        "device": device,
        "topic": topic[:500],
        "fingerprint": mark,
        "code": letter.code,
        "detail": letter.detail.replace("\0", "")[:1000],
        "payload": letter.payload[:KEPT_BYTES],
        "size_bytes": len(letter.payload),
        "boot": _storable(boot),
        "seq": _storable(seq),
        "first_at": now,
        "last_at": now,
        "times": 1,
    }
    update = {"times": DeadLetterRow.times + 1, "last_at": now}
    await insert_or_update(session, DeadLetterRow, row, key=["fingerprint"], update=update)


def _sameness(letter: Letter, *, topic: str, device: str | None) -> bytes:
    if device is not None and letter.code in _ONE_ROW_A_DEVICE:
        return device.encode() + b"\0" + letter.code.encode()
    return topic.encode() + b"\0" + letter.code.encode() + b"\0" + letter.payload


def _storable(number: int | None) -> int | None:
    return number if number is not None and number < 2**63 else None
