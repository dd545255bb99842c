"""A cloud that holds releases, over real HTTP: keeps what passes the real checks, signs on with the real online key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pydantic import BaseModel
from securesystemslib.signer import CryptoSigner

from fleet.contract.codec import decode, encode
from fleet.contract.http import Problem, ReleaseDetail, ReleasePage, ReleaseSummary
from fleet.contract.release import ReleaseTarget, Trust
from fleet.release.errors import ReleaseError
from fleet.release.evidence import check_evidence
from fleet.release.repository import check_new_targets, check_trust, releases_of, resigned
from fleet.release.rotation import successor

DAY = timedelta(days=1)


class ReleaseCloud:
    """What it holds, and what it was sent.

    Attributes:
        url: where it listens.
        trust: None until it is given one.
        refusal: answered to every POST while it is set.
        archives: counter -> what was sent for it.
    """

    def __init__(self) -> None:
        self.url = ""
        self.online: CryptoSigner | None = None
        self.trust: Trust | None = None
        self.refusal: Problem | None = None
        self.archives: dict[int, bytes] = {}
        self.posts = 0

    def answer(self, method: str, path: str, kind: str, body: bytes) -> BaseModel:
        """The answer to one request; a Problem refuses it."""
        if method == "POST":
            self.posts += 1
            if self.refusal is not None:
                return self.refusal
            return self._set_trust(body) if path == "/v1/trust" else self._create(kind, body)
        if self.trust is None:
            return Problem(title="Not found", status=404, code="no_trust", hint="give the first trust")
        if path == "/v1/trust":
            return self.trust
        rows = [self._detail(target) for target in releases_of(self.trust)]
        if path == "/v1/releases":
            return ReleasePage(items=tuple(row.summary for row in reversed(rows)))
        return rows[int(path.rpartition("/")[2]) - 1]

    def _set_trust(self, body: bytes) -> BaseModel:
        given = decode(Trust, body, limit_bytes=1_000_000)
        if self.trust is None:
            check_trust(given)
            self.trust = given
        elif self.trust.roots[0] != given.roots[0]:
            return Problem(title="Conflict", status=409, code="trust_exists")
        elif len(given.roots) > len(self.trust.roots):
            return self._replace_keys(given)
        return self.trust

    def _replace_keys(self, given: Trust) -> BaseModel:
        assert self.trust is not None
        assert self.online is not None
        now = datetime.now(UTC)
        try:
            grown = successor(self.trust, given, now)
            self.trust = resigned(grown, self.online, now, timestamp_for=DAY, snapshot_for=3 * DAY)
        except ReleaseError as exc:
            return Problem(title="Unprocessable", status=422, detail=str(exc))
        return self.trust

    def _create(self, kind: str, body: bytes) -> BaseModel:
        assert self.trust is not None
        assert self.online is not None
        parts = _parts(kind, body)
        targets, archive = parts["targets"].decode(), parts["archive"]
        now = datetime.now(UTC)
        if targets == self.trust.targets:
            target = releases_of(self.trust)[-1]
        else:
            try:
                target = check_new_targets(self.trust, targets, archive, now)
                check_evidence(target.evidence, target.digest, parts.get("evidence"))
            except ReleaseError as exc:
                return Problem(title="Unprocessable", status=422, detail=str(exc))
            grown = self.trust.model_copy(update={"targets": targets})
            self.trust = resigned(grown, self.online, now, timestamp_for=DAY, snapshot_for=3 * DAY)
        self.archives[target.counter] = archive
        return self._detail(target)

    def _detail(self, target: ReleaseTarget) -> ReleaseDetail:
        summary = ReleaseSummary(
            digest=target.digest,
            counter=target.counter,
            name=target.name,
            version=target.version,
            size_bytes=target.size_bytes,
            created_at=target.created_at,
            created_by="operator",
            checked=target.checked,
            evidence_accepted=target.evidence.accepted if target.evidence else None,
        )
        return ReleaseDetail(summary=summary, target=target)


@contextmanager
def serving(cloud: ReleaseCloud) -> Iterator[ReleaseCloud]:
    """Serves it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            answer = cloud.answer(self.command, self.path, self.headers.get("content-type", ""), body)
            data = encode(answer)
            self.send_response(answer.status if isinstance(answer, Problem) else 200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield cloud
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _parts(kind: str, body: bytes) -> dict[str, bytes]:
    message = BytesParser().parsebytes(f"content-type: {kind}\r\n\r\n".encode() + body)
    found = {}
    for part in message.walk():
        if isinstance(part, Message) and not part.is_multipart():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found[str(part.get_param("name", header="content-disposition"))] = content
    return found
