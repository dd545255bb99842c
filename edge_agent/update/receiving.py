"""What arrives for the update, verified and turned into events for the core. Used by the update's thread alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from edge_agent.clock import Clock
from edge_agent.metrics import Metrics
from edge_agent.update.chunks_files import Arrival, ChunkStore
from edge_agent.update.errors import NoSpace, TrustRefused
from edge_agent.update.record import Key
from edge_agent.update.traffic import (
    ChunkFalse,
    ChunkForeign,
    ChunkStored,
    DesiredNotTaken,
    DesiredTaken,
    Event,
    NoRoom,
    TrustNotTaken,
    TrustTaken,
)
from edge_agent.update.trust import TrustKeeper
from fleet.contract.codec import WireError, decode
from fleet.contract.messages import Desired
from fleet.contract.release import MAX_CHUNK_BYTES, MAX_TRUST_BYTES, SignedDesired, Trust, UpdateCode

MAX_TRUST_MESSAGE_BYTES = 2 * MAX_TRUST_BYTES
"""The documents stand in it as JSON text, which quotes them."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TrustMessage:
    """`trust` as it arrived."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class DesiredMessage:
    """`down/desired` as it arrived."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A chunk as it arrived."""

    sha256: str
    payload: bytes


class Receiver:
    """See the module.

    Args:
        device: for whom a wish must be.
        trust: verifies.
        chunks: keeps.
        retry_s: pause before trust that found no room on the disk is taken again.
    """

    def __init__(
        self, device: str, *, trust: TrustKeeper, chunks: ChunkStore, clock: Clock, metrics: Metrics, retry_s: float
    ) -> None:
        self._device = device
        self._trust = trust
        self._chunks = chunks
        self._clock = clock
        self._metrics = metrics
        self._retry_s = retry_s
        self._wish: bytes | None = None
        self._trusted = False
        self._refused: TrustRefused | None = None
        self._again: tuple[float, bytes] | None = None

    def trust(self, payload: bytes) -> list[Event]:
        """Takes a trust message; the last wish is then looked at again, because its key may be another now."""
        self._again = None
        try:
            trust = decode(Trust, payload, limit_bytes=MAX_TRUST_MESSAGE_BYTES)
            releases = self._trust.refresh(trust, self._clock.now().utc)
        except WireError as exc:
            code = UpdateCode.LENGTH if exc.code == "too_large" else UpdateCode.SIGNATURE
            return self._untrusted(TrustRefused(code, str(exc)))
        except TrustRefused as exc:
            self._metrics.update_refused.labels("trust", exc.code.value).inc()
            if exc.code is not UpdateCode.SPACE:
                return self._untrusted(exc)
            # No fault of the message: the broker sends it once, the disk may have room later.
            self._again = (self._clock.now().monotonic_s + self._retry_s, payload)
            log.warning("trust_not_kept", error=exc.text)
            return []
        self._trusted = True
        metadata = hashlib.sha256(trust.targets.encode()).hexdigest()
        taken = TrustTaken(releases.by_key, metadata, earliest_expiry(trust), releases.chunks)
        return [taken, *self._judged()]

    def wish(self, payload: bytes) -> list[Event]:
        """Takes a desired state; before there is trust it is only kept, which the broker does as well."""
        self._wish = payload
        if not self._trusted and self._refused is not None:
            return self._untrusted(self._refused)
        return self._judged()

    def chunk(self, message: ChunkMessage, *, wanted: frozenset[str], candidate: Key | None) -> list[Event]:
        """Takes a chunk.

        Args:
            message: as it arrived.
            wanted: chunks that are waited for.
            candidate: release that they belong to.
        """
        size_bytes = len(message.payload)
        self._metrics.update_bytes.inc(size_bytes)
        try:
            if size_bytes > MAX_CHUNK_BYTES:
                arrival = Arrival.FALSE if message.sha256 in wanted else Arrival.FOREIGN
            else:
                arrival = self._chunks.put(message.sha256, message.payload)
        except NoSpace as exc:
            return [] if candidate is None else [NoRoom(candidate, str(exc))]
        self._metrics.update_chunks.labels(arrival.value).inc()
        match arrival:
            case Arrival.FOREIGN:
                return [ChunkForeign(message.sha256)]
            case Arrival.FALSE:
                return [ChunkFalse(message.sha256)]
            case _:
                return [ChunkStored(message.sha256)]

    def due(self) -> list[Event]:
        """Trust that found no room, once its pause is over."""
        if self._again is None or self._clock.now().monotonic_s < self._again[0]:
            return []
        return self.trust(self._again[1])

    def _untrusted(self, refused: TrustRefused) -> list[Event]:
        """Trust was refused; a wish that waits for it is named if an earlier root vouches for its signature."""
        self._refused = refused
        waits, wish = None, ""
        if not self._trusted and self._wish is not None:
            with contextlib.suppress(WireError, TrustRefused):
                waits, wish = self._verified(self._wish), _name(self._wish)
        return [TrustNotTaken(refused.code, refused.text, waits, wish)]

    def _judged(self) -> list[Event]:
        if not self._trusted or self._wish is None:
            return []
        try:
            return [DesiredTaken(self._verified(self._wish))]
        except WireError as exc:
            return [DesiredNotTaken(UpdateCode.SIGNATURE, str(exc), _name(self._wish))]
        except TrustRefused as exc:
            self._metrics.update_refused.labels("desired", exc.code.value).inc()
            return [DesiredNotTaken(exc.code, exc.text, _name(self._wish))]

    def _verified(self, wish: bytes) -> Desired:
        desired = self._trust.verify_desired(decode(SignedDesired, wish))
        if desired.device != self._device:
            raise TrustRefused(UpdateCode.SIGNATURE, f"the wish is for {desired.device}")
        return desired


def _name(wish: bytes) -> str:
    return hashlib.sha256(wish).hexdigest()


def earliest_expiry(trust: Trust) -> datetime | None:
    """When the first of the verified documents expires; None when none of them says so."""
    found = []
    for text in (trust.timestamp, trust.snapshot, trust.targets):
        try:
            moment = datetime.fromisoformat(str(json.loads(text)["signed"]["expires"]))
        except (ValueError, KeyError, TypeError):
            continue
        found.append(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    return min(found, default=None)
