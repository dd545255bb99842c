"""The uplink's core on a bench: events in, actions out."""

from __future__ import annotations

import json
from collections import deque
from typing import TypeVar

from edge_agent.moment import Moment
from edge_agent.store.records import SpoolEvent
from edge_agent.uplink.core import UplinkCore
from edge_agent.uplink.traffic import (
    Acknowledge,
    Action,
    BusConnected,
    BusMessage,
    Connect,
    DeviceReport,
    Event,
    Identity,
    Note,
    NoteCode,
    Publish,
    RowsFailed,
    RowsTaken,
    TakeRows,
    Tick,
    Tuning,
)
from fleet.contract.codec import decode_events, encode
from fleet.contract.messages import (
    Ack,
    HostState,
    SeqRange,
)
from fleet.contract.messages import Capabilities as Caps
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, moment

T = TypeVar("T")
TUNING = Tuning(batch_rows=3, window_batches=2, ack_timeout_s=10.0, probe_s=30.0, telemetry_s=1e9)
CAPABILITIES = Caps(
    agent_version="1.0.0", python="3.11", onnxruntime="1.20", cpu_cores=2, memory_bytes=1, source="camera",
    max_packet_bytes=2048,
)  # fmt: skip


def payload(boot: int, seq: int) -> str:
    alarm = {"kind": "alarm", "boot": boot, "seq": seq, "raised_at": "2026-03-01T08:00:00Z", "severity": "info"}
    return json.dumps({**alarm, "code": "x"})


class Bench:
    """A core with a spool that is a list, and a cloud that answers when told to."""

    def __init__(self, rows: int = 0, tuning: Tuning = TUNING, *, updates: bool = False) -> None:
        who = Identity(DEVICE, "lab-1", 4, "1.0.0", "abcdef123456", CAPABILITIES)
        self.core = UplinkCore(who, DeviceReport(MODEL), tuning, updates=updates)
        self.spool: dict[tuple[int, int], SpoolEvent] = {}
        self.at_s = 0.0
        self._next = 0
        self.unreadable = False
        self.done: list[Action] = []
        self.grow(rows)

    def grow(self, rows: int) -> None:
        for _ in range(rows):
            seq, self._next = self._next, self._next + 1
            self.spool[4, seq] = SpoolEvent(seq + 1, 4, seq, payload(4, seq))

    def tell(self, event: Event, *, now: Moment | None = None) -> list[Action]:
        found: list[Action] = []
        waiting: deque[Event] = deque([event])
        while waiting:
            for action in self.core.handle(waiting.popleft(), now or moment(self.at_s)):
                found.append(action)
                if isinstance(action, TakeRows) and self.unreadable:
                    waiting.append(RowsFailed("disk I/O error"))
                elif isinstance(action, TakeRows):
                    rows = sorted(self.spool.values(), key=lambda row: row.row_id)
                    rows.sort(key=lambda row: (row.priority, row.row_id))
                    found_rows = tuple(r for r in rows if r.row_id > action.after[r.priority])
                    waiting.append(RowsTaken(found_rows[: action.limit]))
                if isinstance(action, Acknowledge):
                    for part in (*action.ranges, *action.rejected):
                        for seq in range(part.first, part.last + 1):
                            del self.spool[part.boot, seq]
        self.done += found
        return found

    def wait(self, seconds: float) -> list[Action]:
        self.at_s += seconds
        return self.tell(Tick())

    def connect(self, *, host: bool | None = True) -> list[Action]:
        (connect,) = of(Connect, self.tell(Tick()))
        self.session = connect.session
        found = self.tell(BusConnected(self.session))
        return found + (self.host(host) if host is not None else [])

    def host(self, online: bool, epoch: int = 1) -> list[Action]:
        return self.message("ahs/1/host/state", encode(HostState(online=online, epoch=epoch, since=START)))

    def message(self, topic: str, data: bytes) -> list[Action]:
        return self.tell(BusMessage(self.session, topic, data))

    def ack(self, *seqs: int, rejected: tuple[int, ...] = ()) -> list[Action]:
        ranges = tuple(SeqRange(boot=4, first=n, last=n) for n in seqs)
        refused = tuple(SeqRange(boot=4, first=n, last=n) for n in rejected)
        return self.message(f"ahs/1/d/{DEVICE}/down/ack", encode(Ack(ranges=ranges, rejected=refused)))


def of(kind: type[T], actions: list[Action]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


def seqs(actions: list[Action]) -> list[list[int]]:
    found = []
    for message in of(Publish, actions):
        if message.kind == "event":
            batch, bad = decode_events(message.payload)
            assert batch is not None
            assert not bad
            found.append([event.seq for event in batch.events])
    return found


def notes(actions: list[Action]) -> list[NoteCode]:
    return [note.code for note in of(Note, actions)]
