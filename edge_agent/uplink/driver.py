"""Runs the uplink core on one thread: events in from a bounded queue, actions out to the broker and the store."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from edge_agent.clock import Clock
from edge_agent.errors import DeviceFault, StoreDamaged
from edge_agent.metrics import Metrics
from edge_agent.store.records import Counter
from edge_agent.store.store_sqlite import Store
from edge_agent.uplink.bus import Bus
from edge_agent.uplink.core import UplinkCore
from edge_agent.uplink.link import LinkState
from edge_agent.uplink.traffic import (
    Acknowledge,
    Action,
    Announce,
    BusEvent,
    BusMessage,
    CatchUp,
    Connect,
    Disconnect,
    Event,
    GaugesRead,
    GiveUp,
    HandOn,
    Note,
    Publish,
    ReadGauges,
    RowsFailed,
    RowsTaken,
    Stop,
    Subscribe,
    TakeRows,
    Tick,
    Unsubscribe,
)
from fleet.contract.messages import OpinionReady
from fleet.contract.topics import parse_chunk

INBOX_EVENTS = 10_000
INBOX_CHUNKS = 256
"""Above so many waiting events chunks find no room: they are large, and asked for again."""
TICK_S = 0.2
FLUSH_BYTES_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Updates:
    """The model update, as the uplink knows it.

    Attributes:
        hand_on: takes what is for it.
        link: told when the cloud is there and when it is not.
    """

    hand_on: Callable[[HandOn], None] = lambda handed: None
    link: Callable[[bool], None] = lambda up: None


class UplinkDriver:
    """See the module.

    Args:
        core: decides.
        make_bus: makes the adapter over where it delivers its events.
        store: rows and acknowledgements.
        clock: the time.
        metrics: counts.
        gauges: figures for the telemetry.
        on_opinion: told of an announced opinion (True: it is to be fetched).
        on_catch_up: asked to look for missed opinions.
        updates: takes what is for the model update.
    """

    def __init__(
        self,
        core: UplinkCore,
        make_bus: Callable[[Callable[[BusEvent], None]], Bus],
        *,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        gauges: Callable[[], Mapping[str, float]],
        on_opinion: Callable[[OpinionReady, bool], None],
        on_catch_up: Callable[[], None],
        updates: Updates | None = None,
    ) -> None:
        self.core = core
        self._inbox: queue.Queue[Event] = queue.Queue(INBOX_EVENTS)
        self._bus = make_bus(self.post)
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._gauges = gauges
        self._on_opinion = on_opinion
        self._on_catch_up = on_catch_up
        self._updates = updates or Updates()
        self._flowing = False
        self._unsaved: deque[Acknowledge] = deque()
        self._bytes = 0
        self._flush_at_s = 0.0

    def post(self, event: Event) -> None:
        """Hands an event over, from any thread; one that finds no room is counted, and repeated by its sender."""
        if isinstance(event, BusMessage) and self._inbox.qsize() >= INBOX_CHUNKS and parse_chunk(event.topic):
            self._metrics.inbox_lost.inc()
            return
        try:
            self._inbox.put_nowait(event)
        except queue.Full:
            self._metrics.inbox_lost.inc()

    def run(self, stop: threading.Event) -> None:
        """Until stop; then takes leave of the broker."""
        try:
            while not stop.is_set():
                try:
                    event: Event = self._inbox.get(timeout=TICK_S)
                except queue.Empty:
                    event = Tick()
                self._handle(event)
                if self._inbox.empty() and not isinstance(event, Tick):
                    self._handle(Tick())
                self._save()
        finally:
            # Also when this thread is about to be restarted: the core starts over from AWAY either way.
            self._leave(stop)

    def _leave(self, stop: threading.Event) -> None:
        if stop.is_set():
            self._handle(Stop())
        else:
            self._bus.disconnect()
        self._save(force=True)

    def _handle(self, event: Event) -> None:
        waiting: deque[Event] = deque([event])
        while waiting:
            for action in self.core.handle(waiting.popleft(), self._clock.now()):
                answer = self._act(action)
                if answer is not None:
                    waiting.append(answer)
        flowing = self.core.state is LinkState.FLOWING
        if flowing is not self._flowing:
            self._flowing = flowing
            self._updates.link(flowing)
        for state in LinkState:
            self._metrics.link_state.labels(state.value).set(state is self.core.state)

    def _act(self, action: Action) -> Event | None:
        match action:
            case Connect():
                self._bus.connect(action.session, will_topic=action.will_topic, will_payload=action.will_payload)
            case Disconnect():
                self._bus.disconnect()
            case Subscribe():
                self._bus.subscribe(action.topics, qos=action.qos)
            case Unsubscribe():
                self._bus.unsubscribe(action.topics)
            case HandOn():
                self._updates.hand_on(action)
            case Publish():
                self._publish(action)
            case TakeRows():
                return self._rows(action)
            case Acknowledge():
                self._unsaved.append(action)
                self._save()
            case GiveUp():
                self._give_up(action)
            case Announce():
                self._announce(action.message)
            case CatchUp():
                self._on_catch_up()
            case ReadGauges():
                return GaugesRead(self._gauges())
            case Note():
                self._metrics.notes.labels(action.code.value).inc()
                log.info("uplink_noted", code=action.code.value, text=action.text)
        return None

    def _publish(self, message: Publish) -> None:
        self._bytes += len(message.payload)
        if message.kind == "event":
            # Before they leave: a kill in between must not hide bytes that went out.
            self._flush_bytes()
        self._metrics.published.labels(message.kind).inc()
        self._bus.publish(message)

    def _rows(self, action: TakeRows) -> RowsTaken | RowsFailed:
        try:
            return RowsTaken(tuple(self._store.take_events(after=action.after, limit=action.limit)))
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            # Not the same as "no rows": taken for that, what waits would stay until the next result or connection.
            return RowsFailed(str(exc))

    def _give_up(self, action: GiveUp) -> None:
        try:
            self._store.give_up(action.ranges)
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            # Read again with the next connection, and found out again.
            log.error("row_not_set_aside", error=str(exc))

    def _announce(self, message: OpinionReady) -> None:
        try:
            fetch = self._store.announce(message, now=self._clock.now().utc)
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            # Nothing is lost: the whole opinion is fetched by HTTP, now or by the next catch-up.
            log.error("opinion_not_stored", opinion=message.opinion, error=str(exc))
            fetch = True
        self._on_opinion(message, fetch)

    def _save(self, *, force: bool = False) -> None:
        """Deletes acknowledged rows; on a full disk the acknowledgement is kept and tried again."""
        try:
            while self._unsaved:
                self._store.acknowledge(self._unsaved[0].ranges, self._unsaved[0].rejected)
                self._unsaved.popleft()
            if force or time.monotonic() >= self._flush_at_s:
                self._flush_bytes()
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            log.error("acknowledgement_not_stored", error=str(exc), waiting=len(self._unsaved))

    def _flush_bytes(self) -> None:
        self._flush_at_s = time.monotonic() + FLUSH_BYTES_S
        if self._bytes:
            try:
                self._store.count(Counter.MQTT_BYTES, self._bytes)
                self._bytes = 0
            except StoreDamaged:
                raise
            except DeviceFault as exc:
                log.error("bytes_not_counted", error=str(exc))
