"""Batches on their way: what was sent and not yet acknowledged. Pure, bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_agent.store.records import START_OF_SPOOL, Cursors, SpoolEvent
from edge_agent.uplink.traffic import Tuning
from fleet.contract.messages import SeqRange

Key = tuple[int, int]
"""(boot, seq)"""


AGAINST_IT = 2
"""Connections that a row must have ended although others have landed, before it is given up."""


@dataclass(slots=True)
class Batch:
    """Rows that left together.

    Attributes:
        rows: those still unacknowledged, by key.
        due_s: monotonic time at which they are sent again.
        attempts: how often they were sent.
        landed_before: rows that had landed when this batch was first sent.
        narrowed: it is a part of one that was never acknowledged.
    """

    rows: dict[Key, SpoolEvent]
    due_s: float
    attempts: int = 1
    landed_before: int = 0
    narrowed: bool = False


@dataclass(slots=True)
class _Strikes:
    """How many connections ended while a row was alone in the air; also, how many after others had landed meanwhile."""

    landed_before: int
    times: int = 0
    against_it: int = 0

    def add(self, landed: int) -> None:
        self.times += 1
        self.against_it += landed > self.landed_before


class Flight:
    """At most `window_batches` batches in the air, each within its limits of rows and bytes, and suspected rows alone.

    Every row is in one batch at most; an acknowledged one never flies again. A batch that stays unacknowledged is
    halved, and halved again, so that a row that the cloud cannot take is found and its neighbours land without it.
    The same for one that the broker cannot take, and answers with the end of the connection: batches become smaller
    with each connection but the first that ends before anything has landed, down to one row alone.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._batches: list[Batch] = []
        self._landed = 0
        self._landed_before = 0
        self._limit_rows = tuning.batch_rows
        self._barren = 0
        self._strikes: dict[Key, _Strikes] = {}
        self._passed_over: set[Key] = set()
        self.cursors: Cursors = START_OF_SPOOL

    def __len__(self) -> int:
        return sum(len(batch.rows) for batch in self._batches)

    def room(self, window: int) -> int:
        """How many further batches may leave. Suspected rows take nobody's place, unless there are very many."""
        suspects = [batch for batch in self._batches if batch.narrowed and len(batch.rows) == 1]
        flying = len(self._batches) - len(suspects)
        if self._limit_rows == 1:
            # One row at a time, or it could not be told which of them ends the connection.
            return 0 if self._batches else min(window, 1)
        return max(0, window - flying) if len(suspects) <= self._tuning.batch_rows else 0

    def load(self, rows: Sequence[SpoolEvent], now_s: float, *, batches: int) -> list[Batch]:
        """Packs rows, in order, into at most so many batches and notes them as sent; the rest stays where it is."""
        flying = {key for batch in self._batches for key in batch.rows}
        packed: list[Batch] = []
        size_bytes = 0
        # Those that nothing has landed beside yet: first see whether it is the connection.
        struck = self._struck()
        if all((row.boot, row.seq) in struck for row in rows):
            struck = set()
        for row in rows:
            key = (row.boot, row.seq)
            if key in flying or key in struck:
                self._pass(row)
                self._passed_over |= {key} & struck
                continue
            full = not packed or (
                len(packed[-1].rows) >= self._limit_rows or size_bytes + len(row.payload) > self._tuning.batch_bytes
            )
            if full:
                if len(packed) == batches:
                    break
                packed.append(Batch({}, now_s + self._tuning.ack_timeout_s, landed_before=self._landed))
                size_bytes = 0
            packed[-1].rows[key] = row
            size_bytes += len(row.payload)
            self._pass(row)
        self._batches += packed
        return packed

    def turn_back(self) -> bool:
        """At the end of the spool, all others landed: whether rows that were passed over may fly now, anew."""
        if self._batches or self._passed_over <= self._struck():
            return False
        self._passed_over.clear()
        self.cursors = START_OF_SPOOL
        return True

    def _struck(self) -> set[Key]:
        return {
            key
            for key, found in self._strikes.items()
            if found.times >= self._tuning.give_up_after_sends and found.landed_before == self._landed
        }

    def _pass(self, row: SpoolEvent) -> None:
        # One for each priority: a result that comes later must not be behind the notes that have left.
        found = list(self.cursors)
        found[row.priority] = max(found[row.priority], row.row_id)
        self.cursors = (found[0], found[1])

    def overdue(self, now_s: float, *, narrow: bool = True) -> list[Batch]:
        """Batches to be sent again; each waits twice as long the next time.

        Args:
            now_s: monotonic time.
            narrow: halve those that were sent often; not while nobody is known to listen.
        """
        if narrow:
            self._narrow(now_s)
        late = [batch for batch in self._batches if batch.due_s <= now_s]
        for batch in late:
            wait_s = self._tuning.ack_timeout_s * 2.0 ** min(batch.attempts, 16)
            batch.due_s = now_s + min(wait_s, self._tuning.ack_timeout_last_s)
            batch.attempts += 1
        return late

    def _narrow(self, now_s: float) -> None:
        for batch in list(self._batches):
            tired = batch.due_s <= now_s and batch.attempts >= self._tuning.halve_after_sends
            # Where nothing lands at all the cloud is away rather than a row at fault: then one batch is tried in parts.
            others = any(other.narrowed for other in self._batches)
            may = self._landed > batch.landed_before or batch.narrowed or not others
            if tired and may and len(batch.rows) > 1:
                rows, middle = list(batch.rows.items()), len(batch.rows) // 2
                at = self._batches.index(batch)
                self._batches[at : at + 1] = [
                    Batch(dict(part), now_s, attempts=0, landed_before=self._landed, narrowed=True)
                    for part in (rows[:middle], rows[middle:])
                ]

    def hopeless(self, now_s: float) -> list[Key]:
        """Takes out single rows that were sent again and again while others landed."""
        found = [
            batch
            for batch in self._batches
            if len(batch.rows) == 1
            and batch.due_s <= now_s
            and batch.attempts >= self._tuning.give_up_after_sends
            and self._landed > batch.landed_before
        ]
        self._batches = [batch for batch in self._batches if batch not in found]
        struck = [
            key
            for key, strikes in self._strikes.items()
            if strikes.times >= self._tuning.give_up_after_sends and strikes.against_it >= AGAINST_IT
        ]
        for key in struck:
            del self._strikes[key]
        return [*(key for batch in found for key in batch.rows), *struck]

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
        self._landed += len(landed)
        if landed:
            self._barren = 0
            self._limit_rows = min(self._limit_rows * 2, self._tuning.batch_rows)
        for key in landed:
            self._strikes.pop(key, None)
        for batch in self._batches:
            for key in landed:
                batch.rows.pop(key, None)
        self._batches = [batch for batch in self._batches if batch.rows]
        return landed

    def ground(self) -> None:
        """The connection is gone: everything unacknowledged is read from the spool again."""
        if self._batches and self._landed == self._landed_before:
            flying = [key for batch in self._batches for key in batch.rows]
            if len(flying) == 1:
                self._strikes.setdefault(flying[0], _Strikes(self._landed)).add(self._landed)
            # A cable may come out once; the second time in a row it may be something that was sent.
            self._barren += 1
            if self._barren > 1:
                self._limit_rows = max(1, self._limit_rows // 2)
        self._landed_before = self._landed
        self._batches.clear()
        self._passed_over.clear()
        self.cursors = START_OF_SPOOL


def ranges_of(keys: Iterable[Key]) -> tuple[SeqRange, ...]:
    """Keys as inclusive ranges."""
    found: list[SeqRange] = []
    for boot, seq in sorted(keys):
        if found and found[-1].boot == boot and found[-1].last == seq - 1:
            found[-1] = SeqRange(boot=boot, first=found[-1].first, last=seq)
        else:
            found.append(SeqRange(boot=boot, first=seq, last=seq))
    return tuple(found)
