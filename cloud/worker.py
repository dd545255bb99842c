"""The worker: ingest in each, and in the one that leads also the host's state, the outbox and the fleet's figures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from cloud.config import Settings
from cloud.devices.figures import read_figures
from cloud.errors import LeaseLost, StorageUnavailable
from cloud.ingest.bus import BrokerDown, BrokerRefused, Bus, Incoming, Will
from cloud.ingest.bus_paho import PahoBus
from cloud.ingest.ledger import Ledger
from cloud.ingest.outbox import PRUNED_AT_ONCE, Outbox
from cloud.ingest.rules import parse, ranges
from cloud.metrics import Metrics
from cloud.releases.publisher import Publisher
from cloud.releases.signer import Signer
from cloud.releases.signing import OnlineKey
from cloud.rollouts.controller import rollout_controller
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.leases import Held, Leases
from fleet.contract import topics
from fleet.contract.codec import WireError, decode, encode
from fleet.contract.messages import Ack, HostState

log = structlog.get_logger()

LEASE_NAME = "host"
FIRST_BACKOFF_S = 0.2
RECEIVE_WAIT_S = 0.5
PRUNE_PERIOD_S = 3600.0
STANDING_BY = "standing by"
_EXPECTED = (BrokerDown, StorageUnavailable, LeaseLost)

OpenBus = Callable[[str, list[str], Will | None], Bus]
"""(client id, subscriptions, will) -> a bus that is not connected yet."""


@dataclass(slots=True)
class WorkerHealth:
    """What /readyz says of the worker, to anybody: words of ours, never those of a driver, which name hosts."""

    parts: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every part works."""
        return all(text == "ok" or text.startswith((STANDING_BY, "off")) for text in self.parts.values())


class Worker:
    """Runs until it is cancelled; every loop is supervised: it logs, counts, waits and starts again.

    Args:
        images: where the releases' archives are; by default the settings'.
        key: signs trust documents and what devices are to run; without it nothing is signed and no rollout goes on.
        open_bus: makes connections; paho's by default.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        storage: Storage,
        metrics: Metrics,
        images: ImageStore | None = None,
        key: OnlineKey | None = None,
        open_bus: OpenBus | None = None,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._metrics = metrics
        self._open_bus = open_bus or self._open_paho
        self._ledger = Ledger(storage, metrics)
        self._outbox = Outbox(storage, metrics)
        self._signer = Signer(storage, key, metrics)
        self._publisher = Publisher(
            storage=storage,
            images=images or ImageStore(settings.images_url),
            settings=settings.releases,
            metrics=metrics,
            poll_s=settings.worker.outbox_poll_s,
        )
        self._rollouts = rollout_controller(storage, metrics, key, period_s=settings.worker.rollouts_period_s)
        self._leases = Leases(storage, lease_s=settings.worker.lease_s)
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._ingesting = asyncio.Event()
        self._held: Held | None = None
        self.health = WorkerHealth({"broker": "connecting", "leader": STANDING_BY})
        if settings.broker.host is None:
            self.health.parts["broker"] = "off: broker.host is not set"

    @property
    def epoch(self) -> int | None:
        """The epoch under which this worker leads; None while another does."""
        return self._held.epoch if self._held else None

    async def run(self) -> None:
        """Runs all loops; on cancellation says good-bye to the broker and gives the lease back."""
        loops: dict[str, Callable[[], Awaitable[None]]] = {"leader": self._lead}
        if self._settings.broker.host is not None and self._settings.broker.shared_subscription:
            loops["broker"] = self._ingest
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                group.create_task(self._supervise(name, loop), name=name)

    async def _supervise(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        limit_s = self._settings.worker.max_backoff_s
        wait_s = FIRST_BACKOFF_S
        while True:
            started_s = time.monotonic()
            try:
                await loop()
            except _EXPECTED as exc:
                log.warning("worker_loop_stopped", loop=name, error=str(exc))
                failure: Exception = exc
            except Exception as exc:
                log.exception("worker_loop_failed", loop=name)
                failure = exc
            if time.monotonic() - started_s > limit_s:
                wait_s = FIRST_BACKOFF_S
            self._metrics.restarts.labels(name).inc()
            pause_s = wait_s * random.uniform(0.8, 1.2)
            # That another leads is as it should be: the part is ready, and the loop tries for the lease again.
            self.health.parts[name] = STANDING_BY if isinstance(failure, LeaseLost) else _down(failure, pause_s)
            await asyncio.sleep(pause_s)
            wait_s = min(limit_s, wait_s * 2)

    async def _ingest(self) -> None:
        """One life of the shared subscription, in which workers take turns."""
        filters = [f"$share/ingest/{topics.ALL_UP}"]
        bus = self._open_bus(f"ahs-ingest-{self.holder}", filters, None)
        await bus.connect()
        self._broker_is(True)
        self._ingesting.set()
        try:
            while True:
                await self._take(bus, await self._receive(bus))
        finally:
            self._ingesting.clear()
            self._broker_is(False)
            await _closed(bus)

    async def _receive(self, bus: Bus) -> list[Incoming]:
        return await bus.receive(limit=self._settings.worker.batch_messages, wait_s=RECEIVE_WAIT_S)

    async def _take(self, bus: Bus, batch: list[Incoming]) -> None:
        """Commit, then acknowledge: to the device by its topic, to the broker by the protocol."""
        if not batch:
            return
        messages = [parse(item.topic, item.payload, retained=item.retained) for item in batch]
        with self._metrics.ingest_commit_seconds.time():
            outcomes = await self._ledger.commit(messages)
        for device, outcome in outcomes.items():
            for accepted in ranges(outcome.committed):
                await bus.publish(topics.down(device, "ack"), encode(Ack(ranges=accepted)))
            for rejected in ranges(outcome.rejected):
                await bus.publish(topics.down(device, "ack"), encode(Ack(rejected=rejected)))
        for item in batch:
            bus.done(item)

    async def _lead(self) -> None:
        """Waits for the lease and leads under it until it is lost."""
        held = await self._leases.acquire(LEASE_NAME, self.holder)
        self.health.parts["leader"] = STANDING_BY
        while held is None:
            await asyncio.sleep(self._settings.worker.lease_s / 3)
            held = await self._leases.acquire(LEASE_NAME, self.holder)
        log.info("lease_acquired", epoch=held.epoch, holder=held.holder)
        self._held = held
        self._metrics.leader.set(1)
        self.health.parts["leader"] = "ok"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew(held))
                group.create_task(self._read_figures())
                group.create_task(self._prune(held))
                group.create_task(self._signer.run(held))
                if self._rollouts is not None:
                    group.create_task(self._rollouts.run(held))
                if self._settings.broker.host is not None:
                    group.create_task(self._linked("host", lambda: self._host_once(held)))
                    group.create_task(self._linked("publisher", lambda: self._publish_once(held)))
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures
        finally:
            self._held = None
            self._metrics.leader.set(0)
            self._metrics.fleet.figures = None
            with contextlib.suppress(LeaseLost, StorageUnavailable):
                await asyncio.shield(self._leases.release(held))

    async def _renew(self, held: Held) -> None:
        lease_s = self._settings.worker.lease_s
        kept_until_s = time.monotonic() + lease_s
        while True:
            await asyncio.sleep(lease_s / 3)
            asked_s = time.monotonic()
            try:
                await self._leases.renew(held)
                kept_until_s = asked_s + lease_s
            except StorageUnavailable:
                # Another may lead by now and we could not see it: stand down before the end, not after.
                if time.monotonic() + lease_s / 3 >= kept_until_s:
                    raise

    async def _read_figures(self) -> None:
        while True:
            try:
                async with self._storage.reading() as session:
                    self._metrics.fleet.figures = await read_figures(session, now=datetime.now(UTC))
            except StorageUnavailable as exc:
                log.warning("fleet_figures_not_read", error=str(exc))
            await asyncio.sleep(self._settings.worker.figures_period_s)

    async def _prune(self, held: Held) -> None:
        while True:
            try:
                while await self._outbox.prune(held) == PRUNED_AT_ONCE:
                    pass
            except StorageUnavailable as exc:
                log.warning("outbox_not_pruned", error=str(exc))
            await asyncio.sleep(PRUNE_PERIOD_S)

    async def _linked(self, name: str, once: Callable[[], Awaitable[None]]) -> None:
        """Keeps one of the leader's links to the broker.

        It is made anew while the lease is held, so that a broker's restart does not change the leader.
        """
        wait_s = FIRST_BACKOFF_S
        while True:
            started_s = time.monotonic()
            try:
                await once()
            except BrokerDown as exc:
                if time.monotonic() - started_s > self._settings.worker.max_backoff_s:
                    wait_s = FIRST_BACKOFF_S
                log.warning("leader_link_lost", link=name, error=str(exc))
                self._metrics.restarts.labels(name).inc()
                pause_s = wait_s * random.uniform(0.8, 1.2)
                if not self._ingesting.is_set():
                    self.health.parts["broker"] = _down(exc, pause_s)
                await asyncio.sleep(pause_s)
                wait_s = min(self._settings.worker.max_backoff_s, wait_s * 2)

    async def _publish_once(self, held: Held) -> None:
        """One life of the link on which trust, desired states and chunks go out, so that they hold nothing up."""
        bus = self._open_bus(f"ahs-publish-{self.holder}", [], None)
        await bus.connect()
        try:
            await self._publisher.serve(bus, held)
        finally:
            await _closed(bus)

    async def _host_once(self, held: Held) -> None:
        """Says that ingest is online, sends the outbox, and reads what a shared subscription is never told.

        (A broker gives retained messages only to plain subscriptions.)
        """
        shared = self._settings.broker.shared_subscription
        if shared:
            await self._ingesting.wait()
        since = datetime.now(UTC)
        online = encode(HostState(online=True, epoch=held.epoch, since=since))
        offline = encode(HostState(online=False, epoch=held.epoch, since=since))
        told = [f"{topics.PREFIX}/d/+/up/status", f"{topics.PREFIX}/d/+/up/reported"] if shared else [topics.ALL_UP]
        will = Will(topics.HOST_STATE, offline)
        bus = self._open_bus(f"ahs-host-{self.holder}", [topics.HOST_STATE, *told], will)
        await bus.connect()
        if not shared:
            self._broker_is(True)
        try:
            await bus.publish(topics.HOST_STATE, online, retain=True)
            await self._serve_host(bus, held, online)
        finally:
            if not shared:
                self._broker_is(False)
            with contextlib.suppress(BrokerDown):
                await bus.publish(topics.HOST_STATE, offline, retain=True)
            await _closed(bus)

    async def _serve_host(self, bus: Bus, held: Held, online: bytes) -> None:
        looked_s = 0.0
        poll_s = self._settings.worker.outbox_poll_s
        while True:
            batch = await bus.receive(limit=self._settings.worker.batch_messages, wait_s=poll_s)
            for item in (item for item in batch if item.topic == topics.HOST_STATE):
                bus.done(item)
                if _is_older(item.payload, held.epoch):
                    # The Will of a leader before us came late, or a wiped broker was filled from elsewhere.
                    await bus.publish(topics.HOST_STATE, online, retain=True)
            await self._take(bus, [item for item in batch if item.topic != topics.HOST_STATE])
            if time.monotonic() - looked_s >= poll_s:
                while await self._outbox.publish_waiting(bus, held):
                    pass
                looked_s = time.monotonic()

    def _broker_is(self, up: bool) -> None:
        self._metrics.broker_connected.set(int(up))
        self.health.parts["broker"] = "ok" if up else "connecting"

    def _open_paho(self, client_id: str, subscriptions: list[str], will: Will | None) -> Bus:
        return PahoBus(self._settings.broker, client_id=client_id, subscriptions=subscriptions, will=will)


def _down(failure: Exception, pause_s: float) -> str:
    """What is told of a failure: its family; the details are in the log."""
    match failure:
        case BrokerRefused():
            words = "the broker refuses us"
        case BrokerDown():
            words = "the broker does not answer"
        case StorageUnavailable():
            words = "the database does not answer"
        case _:
            words = "an unexpected failure"
    return f"down: {words}; see the log; next try in {pause_s:.1f} s"


async def _closed(bus: Bus) -> None:
    with contextlib.suppress(BrokerDown):
        await asyncio.shield(bus.close())


def _is_older(payload: bytes, epoch: int) -> bool:
    """Whether a host state is not ours; one that cannot be read is not."""
    try:
        state = decode(HostState, payload)
    except WireError:
        return True
    return state.epoch < epoch or (state.epoch == epoch and not state.online)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure behind a group, so that it is told by its own name."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
