"""Whose blood it is never leaves: the agent as a process, all that it puts on the wire, and a canary in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fleet.contract.codec import encode
from fleet.contract.messages import HostState
from fleet.local.broker import LocalBroker
from models.runtime.imaging import decode_image, encode_jpeg
from tests.integration.edge.conftest import EdgeProcess
from tests.unit.edge.edge_builders import START

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]

SPECIMEN = "MUELLER^ANNA 19470311"
CANARIES = (b"mueller", b"anna", b"19470311")
APP1 = b"\xff\xe1"
WAIT_S = 120.0


class Wire:
    """All bytes that reach the broker or the cloud's HTTP side, which has no opinions and takes no picture."""

    def __init__(self, broker: LocalBroker) -> None:
        self.mqtt: list[tuple[str, bytes]] = []
        self.http: list[bytes] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=mqtt.MQTTv5)
        self._client.username_pw_set("cloud", "cloud-secret")
        self._client.on_message = lambda _client, _data, message: self.mqtt.append(
            (message.topic, bytes(message.payload))
        )
        self._client.on_connect = lambda client, *_: client.subscribe("ahs/1/#", qos=1)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        online = encode(HostState(online=True, epoch=1, since=START))
        self._client.publish("ahs/1/host/state", online, qos=1, retain=True)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._listen(200, b'{"items": [], "next_cursor": null}')

            def do_POST(self) -> None:
                self._listen(503, b"")

            def _listen(self, status: int, answer: bytes) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                owner.http.append(self.requestline.encode() + bytes(str(self.headers), "utf-8") + body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def said(self, word: str) -> bool:
        return any(word.encode() in payload for _, payload in self.mqtt)

    def pictures(self) -> list[bytes]:
        return [body[body.index(b"\xff\xd8\xff") :] for body in self.http if b"\xff\xd8\xff" in body]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[tuple[Wire, LocalBroker]]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start({"cloud": "cloud-secret", "bench-1": "device-secret"})
    listener = Wire(broker)
    yield listener, broker
    listener.close()
    broker.stop()


def with_patient(jpeg: bytes) -> bytes:
    """A picture as microscope programs write them: the specimen in EXIF (ImageDescription) and in XMP."""
    name = SPECIMEN.encode() + b"\0"
    entry = b"\x01\x0e" + b"\x00\x02" + len(name).to_bytes(4, "big") + (26).to_bytes(4, "big")
    exif = b"Exif\0\0MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00" + name
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + SPECIMEN.encode() + b"</x:xmpmeta>"
    segments = b"".join(APP1 + (len(part) + 2).to_bytes(2, "big") + part for part in (exif, xmp))
    return jpeg[:2] + segments + jpeg[2:]


def until(what: Callable[[], bool], why: str, agent: EdgeProcess) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}\n{agent.log.read_text()[-3000:]}"
        time.sleep(0.1)


def test_no_specimen_number_name_or_folder_reaches_the_wire(
    edge: Callable[..., EdgeProcess],
    disc_pictures: Callable[[int], Path],
    wire: tuple[Wire, LocalBroker],
    tmp_path: Path,
) -> None:
    listener, broker = wire
    folder = tmp_path / f"export {SPECIMEN}"
    folder.mkdir()
    for number, path in enumerate(sorted(disc_pictures(3).iterdir())):
        jpeg = with_patient(encode_jpeg(decode_image(path.read_bytes()), 95))
        decode_image(jpeg)
        (folder / f"{SPECIMEN} field {number}.jpg").write_bytes(jpeg)
    (folder / f"{SPECIMEN} broken.jpg").write_bytes(b"no picture")
    token = tmp_path / "token"
    token.write_text("device-secret")
    agent = edge(
        f"home of {SPECIMEN}",
        source={"spec": str(folder), "watch": True, "settle_s": 0, "incomplete_s": 0.5},
        device={"id": "bench-1"},
        slide={"name": SPECIMEN, "target_white_cells": 3},
        sampling={"audit_ratio": 1.0},
        mqtt={"host": broker.host, "port": broker.port, "tls": False, "token_file": str(token), "telemetry_s": 1.0},
        cloud={"url": listener.url, "token_file": str(token)},
    ).start()
    until(lambda: len(agent.events("field_stored")) == 3, "the pictures are read", agent)
    assert SPECIMEN in agent.log.read_text(), "the local log may name the file: the canary is alive"
    for word in ('"kind":"field"', "frame_dropped_unreadable", "slide_target_reached"):
        until(lambda word=word: listener.said(word), f"{word} is told", agent)  # type: ignore[misc]
    folder.rename(tmp_path / "taken away")
    until(lambda: listener.said("camera_reconnecting"), "the missing folder is told", agent)
    topics = ("/up/birth", "/up/telemetry", "/up/reported", "/up/status")
    until(
        lambda: {t for t in topics for seen, _ in listener.mqtt if seen.endswith(t)} == set(topics), "all told", agent
    )
    until(lambda: bool(listener.pictures()), "a picture is sent", agent)
    assert agent.stop() == 0
    for where, payload in [*listener.mqtt, *(("https", body) for body in listener.http)]:
        for canary in CANARIES:
            assert canary not in payload.lower(), f"{canary!r} in {where}"
    for picture in listener.pictures():
        assert APP1 not in picture[: picture.index(b"\xff\xda")], "the picture is sent without EXIF and XMP"
