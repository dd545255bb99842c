"""A small scripted cloud: signs releases with real keys, publishes trust, wishes and chunks, and listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from tuf.api.metadata import Metadata, Targets

from fleet.contract import topics
from fleet.contract.codec import decode, decode_events, encode
from fleet.contract.messages import Ack, Activation, Desired, HostState, Need, Reported, SeqRange, UpdateStep
from fleet.contract.release import ReleaseTarget, Trust
from fleet.local.broker import LocalBroker
from fleet.release.chunks import cut, pieces
from fleet.release.documents import read_document, target_of, text_of
from fleet.release.keys import Keys, make_keys, sign_desired
from fleet.release.package import make_package, write_kit
from fleet.release.repository import first_trust, releases_of, resigned, with_release

PASSWORD = "cloud-secret"
WAIT_S = 60.0
Tamper = Callable[[str, bytes], bytes | None]


class ReleaseCloud:
    """See the module; `tamper` sees every chunk on its way and may change it or (None) keep it back."""

    def __init__(self, broker: LocalBroker, device: str) -> None:
        self.keys = make_keys()
        self.device = device
        self.trust: Trust = first_trust(self.keys, self._now())
        self.version = 0
        self.tamper: Tamper = lambda sha256, data: data
        self.chunks: dict[str, bytes] = {}
        self.sent_bytes = 0
        self.needs: list[Need] = []
        self.reports: list[Reported] = []
        self.steps: list[UpdateStep] = []
        self.archive = b""
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="release-cloud", protocol=mqtt.MQTTv5)
        self._client.username_pw_set("cloud", PASSWORD)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("ahs/1/d/+/up/#", qos=1)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        self.publish(topics.HOST_STATE, encode(HostState(online=True, epoch=1, since=self._now())), retain=True)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    # --- operator ---------------------------------------------------------------------------------------------------

    def release(self, bundle: Path, *, unchecked: bool = True) -> ReleaseTarget:
        """Signs one more release; nobody is told yet."""
        package = make_package(bundle, unchecked=unchecked)
        counter = max((int(name.split("-")[0]) for name in self._names()), default=0) + 1
        target = package.describe(counter, self._now())
        self.trust = self.trust.model_copy(
            update={"targets": with_release(self.trust, target, package.archive, self.keys.release)}
        )
        self.trust = self.renewed()
        self.chunks |= {chunk.sha256: data for chunk, data in pieces(package.archive, target.chunks)}
        self.archive = package.archive
        return target

    def release_unchecked(self, archive: bytes, like: ReleaseTarget) -> ReleaseTarget:
        """Signs whatever archive under the description of another release: a mistake, or a stolen release key."""
        counter = like.counter + 1
        target = like.model_copy(update={"counter": counter, "size_bytes": len(archive), "chunks": tuple(cut(archive))})
        before = read_document(Targets, self.trust.targets).signed
        targets = Targets(
            version=before.version + 1,
            expires=before.expires,
            targets={**before.targets, target.path: target_of(target, archive)},
        )
        document = Metadata(targets)
        document.sign(self.keys.release)
        self.trust = self.trust.model_copy(update={"targets": text_of(document)})
        self.trust = self.renewed()
        self.chunks |= {chunk.sha256: data for chunk, data in pieces(archive, target.chunks)}
        return target

    def renewed(self, *, life: timedelta = timedelta(hours=1), at: datetime | None = None) -> Trust:
        """The trust signed anew by the online key."""
        return resigned(self.trust, self.keys.online, at or self._now(), timestamp_for=life, snapshot_for=life)

    def kit(self, folder: Path) -> Path:
        """What the device starts with."""
        write_kit(folder, self.trust, self.archive)
        return folder

    # --- cloud ------------------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        self._client.publish(topic, payload, qos=qos, retain=retain)

    def publish_trust(self, trust: Trust | None = None) -> None:
        self.publish(topics.TRUST, encode(trust or self.trust), retain=True)

    def want(
        self,
        target: ReleaseTarget | None,
        activation: Activation = Activation.ACTIVATE,
        *,
        rollout: str = "rollout-1",
        keys: Keys | None = None,
        **changes: Any,
    ) -> Desired:
        """Tells the device what to run, one version higher."""
        self.version += 1
        desired = Desired(
            device=self.device,
            version=self.version,
            release=None if target is None else target.digest,
            counter=0 if target is None else target.counter,
            rollout=rollout,
            activation=activation,
        ).model_copy(update=changes)
        signed = sign_desired((keys or self.keys).online, desired)
        self.publish(topics.down(self.device, "desired"), encode(signed), retain=True)
        return desired

    # --- what came --------------------------------------------------------------------------------------------------

    def wait(self, what: Callable[[Reported], bool], why: str, *, timeout_s: float = WAIT_S) -> Reported:
        """The first report, also an earlier one, of which it is true."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                found = next((report for report in self.reports if what(report)), None)
                last = self.reports[-1:] and self.reports[-1]
            if found is not None:
                return found
            assert time.monotonic() < deadline, f"waited in vain: {why}; last: {last}; steps: {self.path()}"
            time.sleep(0.02)

    def forget(self) -> None:
        """Reports from before say nothing any more."""
        with self._lock:
            self.reports.clear()

    def path(self) -> list[str]:
        """The states that the update went through, as told by its steps."""
        with self._lock:
            return [f"{step.after.value}{f'({step.code})' if step.code else ''}" for step in self.steps]

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.endswith("/up/reported"):
            with self._lock:
                self.reports.append(decode(Reported, payload))
        elif message.topic.endswith("/up/need"):
            need = decode(Need, payload)
            self.needs.append(need)
            for sha256 in need.missing:
                self.send_chunk(sha256)
        elif message.topic.endswith("/up/event"):
            batch, _ = decode_events(payload)
            assert batch is not None
            known = {(step.boot, step.seq) for step in self.steps}
            with self._lock:
                self.steps += [e for e in batch.events if isinstance(e, UpdateStep) and (e.boot, e.seq) not in known]
            ranges = tuple(SeqRange(boot=e.boot, first=e.seq, last=e.seq) for e in batch.events)
            self.publish(topics.down(self.device, "ack"), encode(Ack(ranges=ranges)))

    def send_chunk(self, sha256: str) -> None:
        data = self.tamper(sha256, self.chunks[sha256]) if sha256 in self.chunks else None
        if data is not None:
            self.sent_bytes += len(data)
            self.publish(topics.chunk(sha256), data, qos=0)

    def _names(self) -> list[str]:
        return [release.path for release in releases_of(self.trust)]

    @staticmethod
    def _now() -> datetime:
        return datetime.now(UTC)
