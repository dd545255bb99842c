"""Batches on their way: what was sent and not yet acknowledged. Pure, bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_agent.store.records import SpoolEvent
from edge_agent.uplink.traffic import Tuning
from fleet.contract.messages import SeqRange

Key = tuple[int, int]
"""(boot, seq)"""


@dataclass(slots=True)
class Batch:
    """Rows that left together.

    Attributes:
        rows: those still unacknowledged, by key.
        due_s: monotonic time at which they are sent again.
        attempts: how often they were sent.
    """

    rows: dict[Key, SpoolEvent]
    due_s: float
    attempts: int = 1


class Flight:
    """At most `window_batches` batches in the air, each within its limits of rows and bytes.

    Every row is in one batch at most; an acknowledged one never flies again.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._batches: list[Batch] = []
        self.cursor = 0

    def __len__(self) -> int:
        return sum(len(batch.rows) for batch in self._batches)

    def room(self, window: int) -> int:
        """How many further batches may leave."""
        return max(0, window - len(self._batches))

    def load(self, rows: Sequence[SpoolEvent], now_s: float, *, batches: int) -> list[Batch]:
        """Packs rows, in order, into at most so many batches and notes them as sent; the rest stays where it is."""
        flying = {key for batch in self._batches for key in batch.rows}
        packed: list[Batch] = []
        size_bytes = 0
        for row in rows:
            key = (row.boot, row.seq)
            if key in flying:
                self.cursor = max(self.cursor, row.row_id)
                continue
            full = not packed or (
                len(packed[-1].rows) >= self._tuning.batch_rows
                or size_bytes + len(row.payload) > self._tuning.batch_bytes
            )
            if full:
                if len(packed) == batches:
                    break
                packed.append(Batch({}, now_s + self._tuning.ack_timeout_s))
                size_bytes = 0
            packed[-1].rows[key] = row
            size_bytes += len(row.payload)
            self.cursor = max(self.cursor, row.row_id)
        self._batches += packed
        return packed

    def overdue(self, now_s: float) -> list[Batch]:
        """Batches to be sent again; each waits twice as long the next time."""
        late = [batch for batch in self._batches if batch.due_s <= now_s]
        for batch in late:
            wait_s = self._tuning.ack_timeout_s * 2.0 ** min(batch.attempts, 16)
            batch.due_s = now_s + min(wait_s, self._tuning.ack_timeout_last_s)
            batch.attempts += 1
        return late

    def hurry(self, now_s: float) -> None:
        """Everything in the air is due now: the receiver has come back."""
        for batch in self._batches:
            batch.due_s = now_s

    def land(self, ranges: Iterable[SeqRange]) -> list[Key]:
        """Takes acknowledged rows out. Only what is in the air can land; any other acknowledgement is none."""
        parts = list(ranges)
        landed = [
            key
            for batch in self._batches
            for key in batch.rows
            if any(part.boot == key[0] and part.first <= key[1] <= part.last for part in parts)
        ]
        for batch in self._batches:
            for key in landed:
                batch.rows.pop(key, None)
        self._batches = [batch for batch in self._batches if batch.rows]
        return landed

    def ground(self) -> None:
        """The connection is gone: everything unacknowledged is read from the spool again."""
        self._batches.clear()
        self.cursor = 0


def ranges_of(keys: Iterable[Key]) -> tuple[SeqRange, ...]:
    """Keys as inclusive ranges."""
    found: list[SeqRange] = []
    for boot, seq in sorted(keys):
        if found and found[-1].boot == boot and found[-1].last == seq - 1:
            found[-1] = SeqRange(boot=boot, first=found[-1].first, last=seq)
        else:
            found.append(SeqRange(boot=boot, first=seq, last=seq))
    return tuple(found)
