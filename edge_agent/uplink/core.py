"""The uplink over MQTT as a passive core: `handle(event, now) -> actions`. No thread, no clock, no socket.

Obligations:
1. A row leaves the spool only after the cloud's acknowledgement of exactly that row while it was in the air.
2. A row is in the air at most once at a time; without an acknowledgement it flies again, ever more rarely, and where
   others are acknowledged meanwhile it is found out and set aside in the end: one row never holds up those behind it.
3. Bulk is held back until `host/state` says that ingest is there. Where nobody says anything at all, one batch is sent
   from time to time as a probe, and its acknowledgement counts as a word of the host.
4. Everything from an older connection is ignored; everything that cannot be read or is not known is noted.
"""

from __future__ import annotations

from collections import OrderedDict

from edge_agent.moment import Moment
from edge_agent.uplink.flight import Batch, Flight, ranges_of
from edge_agent.uplink.link import CONNECTED_STATES, LinkState, LinkTrigger, advance
from edge_agent.uplink.telling import Teller
from edge_agent.uplink.traffic import (
    Acknowledge,
    Action,
    Announce,
    BusConnected,
    BusEvent,
    BusFailed,
    BusMessage,
    BusPublishRefused,
    BusRefused,
    CatchUp,
    ChunksMissing,
    ChunksWanted,
    Connect,
    CredentialsChanged,
    DeviceReport,
    Disconnect,
    Event,
    GaugesRead,
    GiveUp,
    HandOn,
    Identity,
    Note,
    NoteCode,
    Publish,
    ReadGauges,
    ReportChanged,
    RowsFailed,
    RowsTaken,
    SpoolGrew,
    Stop,
    Subscribe,
    TakeRows,
    Tick,
    Tuning,
    Unsubscribe,
    UpdateTopic,
)
from fleet.contract import topics
from fleet.contract.base import ClockQuality
from fleet.contract.codec import WireError, decode
from fleet.contract.messages import (
    Ack,
    HostState,
    Operation,
    OperationKind,
    OperationState,
    OpinionReady,
    Presence,
)


class UplinkCore:
    """One device's side of the protocol.

    Args:
        identity: who speaks.
        report: what the device runs.
        tuning: times and sizes.
        updates: whether this device takes models by MQTT.
    """

    def __init__(
        self, identity: Identity, report: DeviceReport, tuning: Tuning | None = None, *, updates: bool = False
    ) -> None:
        self._identity = identity
        self._tuning = tuning or Tuning()
        self._teller = Teller(identity)
        self._flight = Flight(self._tuning)
        self._report = report
        self._updates = updates
        self._chunks_wanted = False
        self._connections = 0
        self._failures = 0
        self._session = ""
        self._next_try_s: float | None = None
        self._deadline_s = 0.0
        self._host: HostState | None = None
        self._probe_s = 0.0
        self._telemetry_s = 0.0
        self._births_s = 0.0
        self._more = True
        self._asked = False
        self._read_failures = 0
        self._read_again_s = 0.0
        self._answers: OrderedDict[str, tuple[OperationState, str | None]] = OrderedDict()
        self.state = LinkState.AWAY
        self.text = "not connected yet"

    @property
    def in_flight(self) -> int:
        """Rows sent and not yet acknowledged."""
        return len(self._flight)

    def handle(self, event: Event, now: Moment) -> list[Action]:
        """Takes one event; the actions are to be carried out in order before the next event."""
        if self.state is LinkState.STOPPED:
            return []
        if isinstance(event, BusEvent) and event.session != self._session:
            return [Note(NoteCode.LATE_BUS_EVENT, type(event).__name__)]
        actions = self._taken(event, now)
        return actions + self._fill(now)

    def _taken(self, event: Event, now: Moment) -> list[Action]:
        match event:
            case Tick():
                return self._tick(now)
            case BusConnected():
                return self._connected(now)
            case BusFailed():
                return self._lost(event.text, now)
            case BusRefused():
                return self._refused(event, now)
            case BusMessage():
                return self._message(event, now)
            case BusPublishRefused():
                return [Note(NoteCode.PUBLISH_REFUSED, f"{event.kind}: the broker answers {event.code}")]
            case RowsTaken():
                return self._rows(event, now)
            case RowsFailed():
                return self._rows_failed(event, now)
            case SpoolGrew():
                self._more = True
                return []
            case ReportChanged():
                return self._report_changed(event.report, now)
            case ChunksWanted():
                return self._chunks(event.on)
            case ChunksMissing():
                asks = self.state in CONNECTED_STATES and event.missing
                return [self._teller.need(event.release, event.missing, now)] if asks else []
            case GaugesRead():
                return [self._teller.telemetry(event.gauges, now)] if self.state in CONNECTED_STATES else []
            case CredentialsChanged():
                self._next_try_s = now.monotonic_s if self.state is LinkState.REFUSED else self._next_try_s
                return []
            case Stop():
                return self._stop()

    # --- connection -------------------------------------------------------------------------------------------------

    def _tick(self, now: Moment) -> list[Action]:
        return [*self._given_up(now.monotonic_s), *self._ticked(now)]

    def _given_up(self, now_s: float) -> list[Action]:
        rows = self._flight.hopeless(now_s)
        if not rows:
            return []
        return [
            GiveUp(ranges_of(rows)),
            Note(NoteCode.GIVEN_UP, f"{len(rows)} rows, never acknowledged as others were"),
        ]

    def _ticked(self, now: Moment) -> list[Action]:
        now_s = now.monotonic_s
        if self.state in (LinkState.AWAY, LinkState.REFUSED):
            return self._connect(now) if self._next_try_s is None or now_s >= self._next_try_s else []
        if self.state is LinkState.CONNECTING:
            return self._lost("the broker does not answer", now) if now_s >= self._deadline_s else []
        actions: list[Action] = []
        if self._window(now):
            for batch in self._flight.overdue(now_s, narrow=self.state is LinkState.FLOWING):
                self._probe_s = now_s + self._tuning.probe_s
                actions += [Note(NoteCode.RESENT, f"{len(batch.rows)} rows"), self._send(batch, now)]
        if now_s >= self._telemetry_s:
            self._telemetry_s = now_s + self._tuning.telemetry_s
            actions.append(ReadGauges())
        return actions

    def _connect(self, now: Moment) -> list[Action]:
        self.state = advance(self.state, LinkTrigger.DUE)
        self.text = "connecting"
        self._connections += 1
        self._session = f"{self._identity.instance}-{self._identity.boot}-{self._connections}"
        self._deadline_s = now.monotonic_s + self._tuning.connect_deadline_s
        will = self._teller.status(self._session, Presence.OFFLINE, "connection lost")
        return [Connect(self._session, topics.up(self._identity.device, "status"), will)]

    def _connected(self, now: Moment) -> list[Action]:
        self.state = advance(self.state, LinkTrigger.CONNECTED)
        self.text = "connected, waiting for the cloud"
        self._failures = 0
        self._host = None
        self._probe_s = now.monotonic_s + self._tuning.probe_s
        self._telemetry_s = now.monotonic_s
        self._flight.ground()
        self._more, self._asked = True, False
        return [
            *self._subscriptions(),
            self._teller.online(self._session),
            *self._birth(now),
            CatchUp(),
            Note(NoteCode.LINK_CHANGED, self.text),
        ]

    def _subscriptions(self) -> list[Action]:
        always = (topics.all_down(self._identity.device), topics.HOST_STATE)
        if not self._updates:
            return [Subscribe(always)]
        # Chunks only while they are waited for: a standing subscription fills the queue that the broker keeps for us.
        chunks = (topics.ALL_CHUNKS,)
        follow: Action = Subscribe(chunks, qos=0) if self._chunks_wanted else Unsubscribe(chunks)
        return [Subscribe((*always, topics.TRUST)), follow]

    def _chunks(self, on: bool) -> list[Action]:
        if on == self._chunks_wanted:
            return []
        self._chunks_wanted = on
        if self.state not in CONNECTED_STATES:
            return []
        return [Subscribe((topics.ALL_CHUNKS,), qos=0) if on else Unsubscribe((topics.ALL_CHUNKS,))]

    def _birth(self, now: Moment) -> list[Action]:
        self._births_s = now.monotonic_s
        return [
            self._teller.birth(self._session, self._report, now),
            self._teller.reported(self._report, now),
        ]

    def _lost(self, text: str, now: Moment) -> list[Action]:
        trigger = LinkTrigger.LOST if self.state in CONNECTED_STATES else LinkTrigger.FAILED
        self.state = advance(self.state, trigger)
        self.text = f"no connection to the broker: {text}"
        self._next_try_s = now.monotonic_s + self._backoff_s(self._failures)
        self._failures += 1
        self._session = ""
        self._flight.ground()
        return [Disconnect(), Note(NoteCode.LINK_CHANGED, self.text)]

    def _refused(self, event: BusRefused, now: Moment) -> list[Action]:
        self.state = advance(self.state, LinkTrigger.REFUSED)
        self.text = f"the broker refuses this device ({event.text}, reason {event.code}): renew its token"
        self._next_try_s = now.monotonic_s + self._tuning.refused_retry_s
        self._session = ""
        self._flight.ground()
        return [Disconnect(), Note(NoteCode.LINK_CHANGED, self.text)]

    def _stop(self) -> list[Action]:
        connected = self.state in CONNECTED_STATES
        self.state = advance(self.state, LinkTrigger.STOP)
        self.text = "stopped"
        return [self._teller.offline(self._session), Disconnect()] if connected else [Disconnect()]

    def _report_changed(self, report: DeviceReport, now: Moment) -> list[Action]:
        if report == self._report:
            return []
        self._report = report
        return [self._teller.reported(report, now)] if self.state in CONNECTED_STATES else []

    # --- spool ------------------------------------------------------------------------------------------------------

    def _window(self, now: Moment) -> int:
        if self.state is LinkState.FLOWING:
            return self._tuning.window_batches
        unheard = self.state is LinkState.HELD and self._host is None
        return 1 if unheard and now.monotonic_s >= self._probe_s else 0

    def _fill(self, now: Moment) -> list[Action]:
        if not self._more or self._asked or not self._flight.room(self._window(now)):
            return []
        if now.monotonic_s < self._read_again_s:
            return []
        self._asked = True
        limit = self._tuning.batch_rows * self._tuning.window_batches
        return [TakeRows(self._flight.cursors, limit)]

    def _rows(self, event: RowsTaken, now: Moment) -> list[Action]:
        self._asked = False
        self._read_failures, self._read_again_s = 0, 0.0
        window = self._window(now)
        if not event.rows:
            self._more = self._flight.turn_back()
            return []
        batches = self._flight.load(event.rows, now.monotonic_s, batches=self._flight.room(window))
        if self.state is LinkState.HELD and batches:
            self._probe_s = now.monotonic_s + self._tuning.probe_s
        return [self._send(batch, now) for batch in batches]

    def _rows_failed(self, event: RowsFailed, now: Moment) -> list[Action]:
        """The rows are still there, as far as anyone knows: read again, ever more rarely."""
        self._asked = False
        self._read_again_s = now.monotonic_s + self._backoff_s(self._read_failures)
        self._read_failures += 1
        return [Note(NoteCode.SPOOL_NOT_READ, event.text[:300])]

    def _backoff_s(self, failures: int) -> float:
        return min(self._tuning.backoff_first_s * 2.0 ** min(failures, 16), self._tuning.backoff_last_s)

    def _send(self, batch: Batch, now: Moment) -> Publish:
        return self._teller.events((row.payload for row in batch.rows.values()), now)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _message(self, event: BusMessage, now: Moment) -> list[Action]:
        try:
            if event.topic == topics.HOST_STATE:
                return self._host_state(decode(HostState, event.payload), now)
            handed = self._for_update(event)
            if handed is not None:
                return [handed]
            topic = topics.parse_down(event.topic)
            if topic is None:
                return [Note(NoteCode.MESSAGE_UNKNOWN, event.topic[:200])]
            if topic.device != self._identity.device:
                return [Note(NoteCode.MESSAGE_FOREIGN, event.topic[:200])]
            match topic.kind:
                case "ack":
                    return self._acknowledged(decode(Ack, event.payload), now)
                case "opinion":
                    return self._opinion(topic.item, decode(OpinionReady, event.payload), now)
                case "op":
                    return self._operation(topic.item, decode(Operation, event.payload), now)
                case "desired":
                    return [Note(NoteCode.DESIRED_IGNORED, "this agent takes no model by MQTT")]
                case _:
                    return [Note(NoteCode.MESSAGE_UNKNOWN, event.topic[:200])]
        except WireError as exc:
            return [Note(NoteCode.MESSAGE_UNREADABLE, f"{event.topic[:120]}: {exc}"[:300])]

    def _for_update(self, event: BusMessage) -> HandOn | None:
        """What the model update reads itself: it knows what is too large, and whose signature is to be looked at."""
        if not self._updates:
            return None
        if event.topic == topics.TRUST:
            return HandOn(UpdateTopic.TRUST, "", event.payload)
        if event.topic == topics.down(self._identity.device, "desired"):
            return HandOn(UpdateTopic.DESIRED, "", event.payload)
        sha256 = topics.parse_chunk(event.topic)
        return None if sha256 is None else HandOn(UpdateTopic.CHUNK, sha256, event.payload)

    def _host_state(self, host: HostState, now: Moment) -> list[Action]:
        # The late Will of a deposed worker says nothing about its successor.
        if not host.online and self._host is not None and host.epoch < self._host.epoch:
            return [Note(NoteCode.MESSAGE_EXPIRED, f"host state of epoch {host.epoch}")]
        self._host = host
        return self._host_online(now) if host.online else self._host_offline()

    def _host_offline(self) -> list[Action]:
        self.state = advance(self.state, LinkTrigger.HOST_OFFLINE)
        self.text = "connected; the cloud is not there, results wait"
        return [Note(NoteCode.LINK_CHANGED, self.text)]

    def _host_online(self, now: Moment) -> list[Action]:
        was = self.state
        self.state = advance(self.state, LinkTrigger.HOST_ONLINE)
        self.text = "connected"
        if was is LinkState.FLOWING:
            return []
        self._flight.hurry(now.monotonic_s)
        self._more = True
        # The retained state right behind our own birth needs no second one.
        fresh = now.monotonic_s - self._births_s < self._tuning.backoff_first_s
        actions: list[Action] = [] if fresh else [*self._birth(now), CatchUp()]
        return [*actions, Note(NoteCode.LINK_CHANGED, self.text)]

    def _acknowledged(self, ack: Ack, now: Moment) -> list[Action]:
        landed, rejected = self._flight.land(ack.ranges), self._flight.land(ack.rejected)
        actions: list[Action] = []
        if landed or rejected:
            actions.append(Acknowledge(ranges_of(landed), ranges_of(rejected)))
            self._more = self._more or self._flight.turn_back()
            if self.state is LinkState.HELD and self._host is None:
                actions += self._host_online(now)
        else:
            actions.append(Note(NoteCode.ACK_UNKNOWN, f"{len(ack.ranges)} ranges, nothing of it in the air"))
        if rejected:
            actions.append(Note(NoteCode.RESULT_REJECTED, f"{len(rejected)} results were dead-lettered"))
        return actions

    def _opinion(self, item: str | None, message: OpinionReady, now: Moment) -> list[Action]:
        if item != message.opinion:
            return [Note(NoteCode.MESSAGE_UNREADABLE, f"opinion {message.opinion} under the topic of {item}")]
        if _expired(message.not_after.timestamp(), now):
            return [Note(NoteCode.MESSAGE_EXPIRED, f"opinion {message.opinion}"), CatchUp()]
        return [Announce(message)]

    def _operation(self, item: str | None, message: Operation, now: Moment) -> list[Action]:
        if item != message.operation:
            return [Note(NoteCode.MESSAGE_UNREADABLE, f"operation {message.operation} under the topic of {item}")]
        known = self._answers.get(message.operation)
        if known is not None:
            note = Note(NoteCode.OPERATION_REPEATED, message.operation)
            return [note, self._teller.operation(message.operation, *known, now)]
        actions: list[Action] = []
        if _expired(message.not_after.timestamp(), now):
            answer: tuple[OperationState, str | None] = (OperationState.REJECTED, "expired")
        elif message.kind is OperationKind.REBIRTH:
            actions += self._birth(now)
            answer = (OperationState.DONE, None)
        else:
            answer = (OperationState.REJECTED, "unsupported")
        if answer[0] is OperationState.REJECTED:
            actions.append(Note(NoteCode.OPERATION_REJECTED, f"{message.kind}: {answer[1]}"))
        self._answers[message.operation] = answer
        while len(self._answers) > self._tuning.remembered_operations:
            self._answers.popitem(last=False)
        return [*actions, self._teller.operation(message.operation, *answer, now)]


def _expired(not_after_s: float, now: Moment) -> bool:
    """A clock that was never set cannot tell what is over."""
    return now.quality is not ClockQuality.UNSYNCED and now.utc.timestamp() > not_after_s
