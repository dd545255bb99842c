"""The client against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleet.client import ClientError, CloudClient, LinkDown, Rejected
from fleet.contract.cells import Decision, ModelRef
from fleet.contract.codec import decode, encode
from fleet.contract.dataset import DatasetExport, DatasetFilters, DatasetInfo
from fleet.contract.http import (
    MAX_IMAGE_BYTES,
    DeviceCreate,
    DevicePage,
    DeviceSummary,
    DeviceToken,
    FieldPage,
    Health,
    LabelsCreate,
    OpinionContext,
    OpinionPage,
    Problem,
    ReleaseDetail,
    ReleasePage,
    ReleaseSummary,
    ReviewLabels,
    SecondOpinion,
)
from fleet.contract.messages import OpinionState, Presence
from fleet.contract.release import MAX_RELEASE_BYTES, ChunkRef, ReleaseTarget, Trust

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
IMAGE = b"\xff\xd8 a field \xff\xd9"
EXPORT = DatasetExport(
    info=DatasetInfo(site="site-a", filters=DatasetFilters(), labels={}, manifest_sha256="c" * 64),
    categories=(),
    images=(),
    annotations=(),
)


@dataclass
class Asked:
    method: str
    path: str
    headers: Message
    body: bytes


@dataclass
class Cloud:
    """What the server answers next, and what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    state = Cloud()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            size_bytes = int(self.headers.get("content-length", "0"))
            state.asked.append(Asked(self.command, self.path, self.headers, self.rfile.read(size_bytes)))
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(state.body)))
            self.send_header("connection", "close")
            self.end_headers()
            try:
                self.write_body()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def write_body(self) -> None:
            if not state.drip_s:
                self.wfile.write(state.body)
                return
            for byte in state.body:
                self.wfile.write(bytes([byte]))
                time.sleep(state.drip_s)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the test reads `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(cloud: Cloud) -> Iterator[CloudClient]:
    with CloudClient(cloud.url, "secret-token\n", timeout_s=5.0) as opened:
        yield opened


def context(image: bytes = IMAGE) -> OpinionContext:
    return OpinionContext(
        site="site-a",
        device="bench-1",
        capture_id="bench-1/3/41",
        image_sha256=hashlib.sha256(image).hexdigest(),
        captured_at=NOW,
        decision=Decision.UNCERTAIN,
        model=ModelRef(name="edge", version="1.0.0", digest=DIGEST),
    )


def opinion() -> SecondOpinion:
    return SecondOpinion(
        id="op-00000001",
        site="site-a",
        device="bench-1",
        capture_id="bench-1/3/41",
        image_sha256="b" * 64,
        state=OpinionState.ANSWERED,
        created_at=NOW,
        answered_at=NOW,
        model=ModelRef(name="cloud", version="1.0.0", digest=DIGEST),
        latency_ms=12.5,
        detections=(),
        needs_review=False,
    )


def test_a_second_opinion_is_asked_for_with_the_picture_its_context_and_the_token(
    cloud: Cloud, client: CloudClient
) -> None:
    cloud.status, cloud.body = 201, encode(opinion())
    assert client.second_opinion(IMAGE, context()) == opinion()
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("POST", "/v1/second-opinions")
    assert asked.headers["authorization"] == "Bearer secret-token"
    head = f"content-type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + asked.body).get_payload()
    assert isinstance(parts, list)
    image, words = parts
    assert isinstance(image, Message)
    assert isinstance(words, Message)
    assert image.get_param("name", header="content-disposition") == "image"
    assert image.get_payload(decode=True) == IMAGE
    assert words.get_param("name", header="content-disposition") == "context"
    sent = words.get_payload(decode=True)
    assert isinstance(sent, bytes)
    assert decode(OpinionContext, sent) == context()


def test_every_other_route_is_asked_for_by_its_own_path(cloud: Cloud, client: CloudClient) -> None:
    device = DeviceSummary(device="bench-1", site="site-a", presence=Presence.ONLINE)
    token = DeviceToken(device="bench-1", site="site-a", token="t0", expires_at=NOW)
    review = ReviewLabels(opinion="op-00000001", state=OpinionState.REVIEWED, labels=())
    health = Health(status="ok", parts={"database": "ok"}, version="0.1.0")
    steps: list[tuple[Callable[[], object], object, str]] = [
        (lambda: client.get_opinion("op-00000001"), opinion(), "GET /v1/second-opinions/op-00000001"),
        (lambda: client.get_opinion("../devices"), opinion(), "GET /v1/second-opinions/..%2Fdevices"),
        (lambda: client.list_opinions(), OpinionPage(items=()), "GET /v1/second-opinions"),
        (
            lambda: client.list_opinions(
                state=OpinionState.PENDING_REVIEW, device="me", capture_id="b/1/2", since=NOW, cursor="c", limit=5
            ),
            OpinionPage(items=()),
            "GET /v1/second-opinions?state=pending_review&device=me&capture_id=b%2F1%2F2"
            "&since=2026-01-31T12%3A00%3A00.000Z&cursor=c&limit=5",
        ),
        (lambda: client.create_device(DeviceCreate(device="bench-1", site="site-a")), token, "POST /v1/devices"),
        (lambda: client.list_devices(limit=2), DevicePage(items=(device,)), "GET /v1/devices?limit=2"),
        (lambda: client.get_device("bench-1"), device, "GET /v1/devices/bench-1"),
        (
            lambda: client.list_fields("bench-1", cursor="c"),
            FieldPage(items=()),
            "GET /v1/devices/bench-1/fields?cursor=c",
        ),
        (
            lambda: client.add_labels("op-00000001", LabelsCreate(done=True)),
            review,
            "POST /v1/reviews/op-00000001/labels",
        ),
        (lambda: client.get_labels("op-00000001"), review, "GET /v1/reviews/op-00000001/labels"),
        (lambda: client.export_dataset(), EXPORT, "GET /v1/datasets/export"),
        (
            lambda: client.export_dataset(since=NOW, device="bench-1", reader="Dr. W", partial=True),
            EXPORT,
            "GET /v1/datasets/export?since=2026-01-31T12%3A00%3A00.000Z&device=bench-1&reader=Dr.+W&partial=true",
        ),
        (client.health, health, "GET /healthz"),
    ]
    for call, answer, line in steps:
        cloud.body = encode(answer)  # type: ignore[arg-type]
        assert call() == answer
        assert f"{cloud.asked[-1].method} {cloud.asked[-1].path}" == line


def release() -> ReleaseDetail:
    target = ReleaseTarget(
        digest=DIGEST,
        name="edge",
        version="1.1.0",
        counter=2,
        bundle_schema="ahs.bundle/1",
        size_bytes=4,
        chunks=(ChunkRef(sha256="c" * 64, size_bytes=4),),
        created_at=NOW,
        checked=True,
    )
    summary = ReleaseSummary(
        digest=DIGEST,
        counter=2,
        name="edge",
        version="1.1.0",
        size_bytes=4,
        created_at=NOW,
        created_by="op",
        checked=True,
        evidence_accepted=None,
    )
    return ReleaseDetail(summary=summary, target=target)


def test_releases_and_trust_are_asked_for_by_their_own_paths(cloud: Cloud, client: CloudClient) -> None:
    trust = Trust(roots=("{}",), timestamp="{}", snapshot="{}", targets="{}")
    page = ReleasePage(items=(release().summary,))
    steps: list[tuple[Callable[[], object], object, str]] = [
        (client.get_trust, trust, "GET /v1/trust"),
        (lambda: client.put_trust(trust), trust, "POST /v1/trust"),
        (client.list_releases, page, "GET /v1/releases"),
        (lambda: client.get_release(2), release(), "GET /v1/releases/2"),
    ]
    for call, answer, line in steps:
        cloud.body = encode(answer)  # type: ignore[arg-type]
        assert call() == answer
        assert f"{cloud.asked[-1].method} {cloud.asked[-1].path}" == line
        if line == "POST /v1/trust":
            assert decode(Trust, cloud.asked[-1].body) == trust


@pytest.mark.parametrize("evidence", [None, b'{"schema": "ahs.evidence/1"}\n'])
def test_a_release_is_sent_with_its_targets_archive_and_evidence_byte_for_byte(
    cloud: Cloud, client: CloudClient, evidence: bytes | None
) -> None:
    cloud.status, cloud.body = 201, encode(release())
    assert client.create_release('{"signed": "ä"}', b"PK\x03\x04", evidence) == release()
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("POST", "/v1/releases")
    head = f"content-type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + asked.body).get_payload()
    assert isinstance(parts, list)
    sent = {}
    for part in parts:
        assert isinstance(part, Message)
        sent[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
    expected = {"targets": '{"signed": "ä"}'.encode(), "archive": b"PK\x03\x04"}
    assert sent == (expected if evidence is None else {**expected, "evidence": evidence})


def test_an_archive_larger_than_any_release_is_not_sent(cloud: Cloud, client: CloudClient) -> None:
    with pytest.raises(Rejected) as caught:
        client.create_release("{}", bytes(MAX_RELEASE_BYTES + 1))
    assert caught.value.code == "too_large"
    assert cloud.asked == []


def test_a_device_is_revoked_and_an_image_fetched(cloud: Cloud, client: CloudClient) -> None:
    cloud.status, cloud.body = 204, b""
    client.revoke_device("bench-1")
    assert cloud.asked[-1].path == "/v1/devices/bench-1/revoke"
    cloud.status, cloud.body = 200, IMAGE
    assert client.opinion_image("op-00000001") == IMAGE
    assert cloud.asked[-1].path == "/v1/second-opinions/op-00000001/image"


def test_a_refusal_in_the_clouds_own_words_is_rejected_with_its_problem(cloud: Cloud, client: CloudClient) -> None:
    problem = Problem(title="Unauthorised", status=401, detail="token expired", code="token_expired", hint="ask anew")
    cloud.status, cloud.body = 401, encode(problem)
    with pytest.raises(Rejected, match="401 Unauthorised: token expired: ask anew") as caught:
        client.get_opinion("op-00000001")
    assert caught.value.problem == problem
    assert (caught.value.status, caught.value.code) == (401, "token_expired")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_a_refusal_by_something_in_between_is_no_rejection(cloud: Cloud, client: CloudClient, status: int) -> None:
    cloud.status, cloud.body = status, b"<html>proxy says no</html>"
    with pytest.raises(LinkDown) as caught:
        client.second_opinion(IMAGE, context())
    assert caught.value.status == status


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_overloaded_or_broken_cloud_is_asked_again_later(cloud: Cloud, client: CloudClient, status: int) -> None:
    cloud.status, cloud.headers = status, {"retry-after": "7"}
    cloud.body = encode(Problem(title="Busy", status=status))
    with pytest.raises(LinkDown, match="Busy") as caught:
        client.second_opinion(IMAGE, context())
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("status", [200, 302])
def test_the_page_of_a_captive_portal_is_never_taken_for_an_answer(
    cloud: Cloud, client: CloudClient, status: int
) -> None:
    cloud.status, cloud.body = status, b"<html>please sign in</html>"
    cloud.headers = {"location": cloud.url + "/portal"}
    with pytest.raises(LinkDown):
        client.second_opinion(IMAGE, context())
    assert len(cloud.asked) == 1


def test_an_answer_that_trickles_is_given_up_at_the_deadline(cloud: Cloud) -> None:
    cloud.body, cloud.drip_s = b"x" * 30, 0.05
    started_s = time.monotonic()
    with CloudClient(cloud.url, "t0", timeout_s=5.0, deadline_s=0.3) as client, pytest.raises(LinkDown, match="slowly"):
        client.health()
    assert time.monotonic() - started_s < 1.4


def test_silence_and_a_closed_port_are_a_link_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        with CloudClient(f"http://127.0.0.1:{port}", "t0", timeout_s=0.2) as client, pytest.raises(LinkDown):
            client.health()
    with CloudClient(f"http://127.0.0.1:{port}", "t0", timeout_s=0.2) as client, pytest.raises(ClientError):
        client.health()


def test_an_oversized_answer_is_not_read_to_its_end(cloud: Cloud, client: CloudClient) -> None:
    cloud.body = b" " * (MAX_IMAGE_BYTES + 1)
    with pytest.raises(LinkDown, match="larger"):
        client.opinion_image("op-00000001")


def test_what_the_cloud_would_surely_refuse_is_not_sent(cloud: Cloud, client: CloudClient) -> None:
    with pytest.raises(Rejected) as wrong:
        client.second_opinion(b"another picture", context())
    assert wrong.value.code == "hash_mismatch"
    huge = bytes(MAX_IMAGE_BYTES + 1)
    with pytest.raises(Rejected) as large:
        client.second_opinion(huge, context(huge))
    assert large.value.code == "too_large"
    assert cloud.asked == []


@pytest.mark.parametrize("url", ["", "cloud.example", "ftp://cloud.example", "http://", "https://me:pw@cloud.example"])
def test_an_address_that_can_never_work_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="cloud address"):
        CloudClient(url, "t0")


@pytest.mark.parametrize("token", ["", " \n", "two words", "line\nbreak", "naïve"])
def test_a_token_that_can_never_work_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="access token") as caught:
        CloudClient("http://127.0.0.1:1", token)
    assert not token.strip() or token.strip() not in str(caught.value)


def test_newer_answers_with_unknown_fields_are_understood(cloud: Cloud, client: CloudClient) -> None:
    document = json.loads(encode(opinion())) | {"novelty": 1, "state": "escalated"}
    cloud.body = json.dumps(document).encode()
    assert client.get_opinion("op-00000001").state is OpinionState.UNKNOWN
