"""Carries uncertain pictures to the cloud and brings opinions back, on one thread."""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog

from edge_agent.clock import Clock
from edge_agent.errors import DeviceFault, LinkDown, PeerRejected, StoreDamaged
from edge_agent.metrics import Metrics
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import SpoolImage
from edge_agent.store.store_sqlite import Store
from edge_agent.uplink.asking import AskCore, AskState
from edge_agent.uplink.cloud_http import Cloud
from fleet.contract.codec import encode

IDLE_S = 0.5
LOOK_BACK = timedelta(days=7)

log = structlog.get_logger()


class Courier:
    """See the module. `wake` and the core's `want`/`catch_up_soon` may be called through `post_*` from any thread.

    Args:
        cloud: the way to it.
        core: decides when.
        store: pictures out, opinions in.
        clock: the time.
        metrics: counts.
    """

    def __init__(self, cloud: Cloud, core: AskCore, *, store: Store, clock: Clock, metrics: Metrics) -> None:
        self.core = core
        self._cloud = cloud
        self._store = store
        self._reads = Reads(store.database)
        self._clock = clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._wake = threading.Event()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def want(self, opinion_id: str) -> None:
        """An opinion is to be fetched."""
        with self._lock:
            self.core.want(opinion_id)
        self._wake.set()

    def catch_up_soon(self) -> None:
        """Opinions may have been missed."""
        with self._lock:
            self.core.catch_up_soon()
        self._wake.set()

    def credentials_changed(self) -> None:
        """There is another token."""
        with self._lock:
            self.core.credentials_changed(self._clock.now().monotonic_s)
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Until stop. A request on its way is not waited for: its picture is still in the spool."""
        try:
            while not stop.is_set():
                if not self._step():
                    self._wake.wait(IDLE_S)
                    self._wake.clear()
        finally:
            self._cloud.close()

    def _step(self) -> bool:
        """One request, if one is due; whether there was one."""
        now = self._clock.now()
        with self._lock:
            may = self.core.may_ask(now.monotonic_s)
            wanted = self.core.next_wanted()
            look = self.core.catch_up_due(now.monotonic_s)
        for state in AskState:
            self._metrics.ask_state.labels(state.value).set(state is self.core.state)
        if not may:
            return False
        try:
            if wanted is not None:
                self._fetch(wanted)
            elif look:
                self._catch_up()
            elif (image := self._store.next_image()) is not None:
                self._ask(image)
            else:
                return False
        except LinkDown as exc:
            with self._lock:
                self.core.link_down(str(exc), self._clock.now().monotonic_s, retry_after_s=exc.retry_after_s)
            log.info("cloud_not_reached", error=str(exc))
            return False
        except PeerRejected as exc:
            self._refused(exc)
            return False
        except StoreDamaged:
            raise
        except DeviceFault as exc:
            # The picture is still in the spool; the cloud will say the same again.
            log.error("opinion_not_stored", error=str(exc))
            return False
        return True

    def _ask(self, image: SpoolImage) -> None:
        self._store.note_attempt(image.row_id, https_bytes=len(image.jpeg) + len(encode(image.context)))
        try:
            opinion = self._cloud.ask(image.jpeg, image.context)
        except PeerRejected as exc:
            if exc.credentials:
                raise
            # Refused for itself, not for who sent it: asking again would be refused again.
            self._store.refuse_image(image.row_id, str(exc.status), now=self._clock.now().utc)
            log.error("image_refused", capture_id=image.capture_id, error=str(exc))
            self._answered()
            return
        self._answered()
        self._store.answer(opinion, row_id=image.row_id, now=self._clock.now().utc)
        self._metrics.opinions.labels(opinion.state.value).inc()
        log.info("opinion_received", capture_id=opinion.capture_id, opinion=opinion.id, state=opinion.state.value)

    def _fetch(self, opinion_id: str) -> None:
        try:
            opinion = self._cloud.fetch(opinion_id)
        except PeerRejected as exc:
            if exc.credentials:
                raise
            log.error("opinion_not_fetched", opinion=opinion_id, error=str(exc))
            self._answered(opinion_id)
            return
        self._store.answer(opinion, row_id=None, now=self._clock.now().utc)
        self._metrics.opinions.labels(opinion.state.value).inc()
        self._answered(opinion_id)

    def _catch_up(self) -> None:
        now = self._clock.now()
        missing = [
            summary.id
            for summary in self._cloud.mine(now.utc - LOOK_BACK)
            if self._reads.opinion_state(summary.id) != summary.state.value
        ]
        self._answered()
        with self._lock:
            self.core.caught_up(now.monotonic_s)
            for opinion_id in missing:
                self.core.want(opinion_id)

    def _answered(self, opinion_id: str | None = None) -> None:
        with self._lock:
            self.core.answered()
            if opinion_id is not None:
                self.core.got(opinion_id)

    def _refused(self, exc: PeerRejected) -> None:
        now_s = self._clock.now().monotonic_s
        with self._lock:
            if exc.credentials:
                self.core.refused(str(exc), now_s)
            else:
                # A list that is refused is a matter of versions, not of our token: look again at the usual pace.
                self.core.answered()
                self.core.caught_up(now_s)
        log.error("cloud_refused", error=str(exc), status=exc.status)
