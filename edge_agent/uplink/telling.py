"""The messages that the device sends, built from who it is and what it runs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta

from edge_agent.moment import Moment
from edge_agent.uplink.traffic import DeviceReport, Identity, Publish
from fleet.contract import topics
from fleet.contract.base import JsonObject, utc_now_text
from fleet.contract.codec import encode
from fleet.contract.messages import (
    Birth,
    Need,
    OperationState,
    OperationUpdate,
    Presence,
    Reported,
    Status,
    Telemetry,
)

TELEMETRY_EXPIRY_S = 600
OPERATION_EXPIRY_S = 3600


class Teller:
    """Numbers and builds messages of one process. Message numbers are apart from those of the spool's rows."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._seq = 0

    def status(self, session: str, presence: Presence, reason: str) -> bytes:
        """`up/status`, also the Will."""
        who = self._identity
        return encode(
            Status(
                device=who.device, session=session, presence=presence, agent_version=who.agent_version, reason=reason
            )
        )

    def online(self, session: str) -> Publish:
        """That we are there."""
        return self._publish("status", self.status(session, Presence.ONLINE, "connected"), retain=True)

    def offline(self, session: str) -> Publish:
        """That we leave on purpose."""
        return self._publish("status", self.status(session, Presence.OFFLINE, "stopped"), retain=True)

    def birth(self, session: str, report: DeviceReport, now: Moment) -> Publish:
        """Who we are and what we run."""
        message = Birth.model_validate(
            {
                **self._envelope(now),
                "site": self._identity.site,
                "session": session,
                "capabilities": self._identity.capabilities,
                "reported": self._reported(report, now),
            }
        )
        return self._publish("birth", encode(message))

    def reported(self, report: DeviceReport, now: Moment) -> Publish:
        """What we run, retained."""
        return self._publish("reported", encode(self._reported(report, now)), retain=True)

    def events(self, payloads: Iterable[str], now: Moment) -> Publish:
        """A batch; the events' stored JSON is put in unread, so that nothing can change on its way out."""
        envelope = self._envelope(now)
        head = json.dumps({**envelope, "clock": envelope["clock"].value}, separators=(",", ":"))
        body = f'{head[:-1]},"events":[{",".join(payloads)}]}}'
        return self._publish("event", body.encode())

    def telemetry(self, gauges: Mapping[str, float], now: Moment) -> Publish:
        """Gauges; may be lost."""
        message = Telemetry.model_validate(
            {
                **self._envelope(now),
                "not_after": now.utc + timedelta(seconds=TELEMETRY_EXPIRY_S),
                "gauges": dict(sorted(gauges.items())[:64]),
            }
        )
        return Publish(
            topics.up(self._identity.device, "telemetry"),
            encode(message),
            "telemetry",
            qos=0,
            expiry_s=TELEMETRY_EXPIRY_S,
        )

    def need(self, release: str, missing: tuple[str, ...], now: Moment) -> Publish:
        """Which chunks of a release are missing."""
        message = Need.model_validate(
            {
                **self._envelope(now),
                "release": release,
                "missing": missing,
                "max_packet_bytes": self._identity.capabilities.max_packet_bytes,
            }
        )
        return self._publish("need", encode(message))

    def operation(self, operation: str, state: OperationState, code: str | None, now: Moment) -> Publish:
        """The terminal answer to a command."""
        message = OperationUpdate.model_validate(
            {**self._envelope(now), "operation": operation, "state": state, "code": code}
        )
        topic = topics.up(self._identity.device, "op", operation)
        return Publish(topic, encode(message), "op", expiry_s=OPERATION_EXPIRY_S)

    def _reported(self, report: DeviceReport, now: Moment) -> Reported:
        return Reported.model_validate(
            {
                **self._envelope(now),
                "active": report.active,
                "self_test": report.self_test,
                "degraded": report.degraded,
                "previous": report.update.previous,
                "update_state": report.update.state,
                "update_code": report.update.code,
                "release_counter": report.update.counter,
                "desired_version": report.update.desired_version,
                "pending": report.update.pending,
                "rollout": report.update.rollout,
                "soak": report.update.soak,
            }
        )

    def _envelope(self, now: Moment) -> JsonObject:
        self._seq += 1
        who = self._identity
        return {
            "schema_version": 1,
            "message_id": f"{who.instance}-{self._seq}",
            "device": who.device,
            "boot": who.boot,
            "seq": self._seq,
            "sent_at": utc_now_text(now.utc),
            "clock": now.quality,
        }

    def _publish(self, kind: str, payload: bytes, *, retain: bool = False) -> Publish:
        return Publish(topics.up(self._identity.device, kind), payload, kind, retain=retain)
