"""Server-sent events to a bounded number of browsers; one that never reads costs a slot for seconds and nothing else.

There is no queue: a browser gets the newest value of each topic when it is ready for it and misses those between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

SEND_TIMEOUT_S = 10.0
"""A browser that took nothing for this long is let go."""
HEARTBEAT_S = 2.0
"""A comment or event at least this often, so that the page can tell "nothing new" from "nobody there"."""

MAX_AGE_S = 60.0
"""A stream ends after this and a browser that is still there opens the next: a place is never held by a dead one."""
RETRY_MS = 300
"""What browsers are told to wait before they open the next stream."""


class FeedFull(Exception):
    """As many browsers as are served at once are there already."""


class Feed:
    """The newest text of each topic and who waits for it. Lives on one event loop."""

    def __init__(self, *, max_clients: int = 8) -> None:
        """Args: max_clients: browsers served at once."""
        self.max_clients = max_clients
        self.dropped_clients = 0
        self._clients = 0
        self._version = 0
        self._topics: dict[str, tuple[int, str]] = {}
        self._changed = asyncio.Condition()
        self.closed = False

    @property
    def clients(self) -> int:
        """Browsers being served."""
        return self._clients

    async def publish(self, topics: Mapping[str, str]) -> None:
        """Replaces those topics whose text is new and wakes the waiting."""
        fresh = {name: text for name, text in topics.items() if self._topics.get(name, (0, ""))[1] != text}
        if not fresh:
            return
        async with self._changed:
            self._version += 1
            self._topics.update({name: (self._version, text) for name, text in fresh.items()})
            self._changed.notify_all()

    async def newer_than(self, version: int, *, timeout_s: float) -> tuple[int, dict[str, str]]:
        """Topics that changed after `version`, and the version now; no topics when the time-out passed."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version > version), timeout_s)
            except TimeoutError:
                return version, {}
            changed = {name: text for name, (at, text) in self._topics.items() if at > version}
            return self._version, changed

    async def close(self) -> None:
        """Ends every stream at once, so that a stopping server need not wait for browsers."""
        async with self._changed:
            self.closed = True
            self._version += 1
            self._changed.notify_all()

    def enter(self) -> None:
        """Takes a slot. Raises FeedFull when none is free."""
        if self._clients >= self.max_clients:
            raise FeedFull
        self._clients += 1

    def leave(self) -> None:
        """Gives the slot back."""
        self._clients -= 1


def encode_event(name: str, text: str) -> bytes:
    """One server-sent event."""
    data = "\n".join(f"data: {line}" for line in text.split("\n"))
    return f"event: {name}\n{data}\n\n".encode()


class EventStream(Response):
    """ASGI response that follows a feed until the browser goes, stops reading, or the server stops."""

    def __init__(
        self,
        feed: Feed,
        *,
        send_timeout_s: float = SEND_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        """Args: feed: what to follow."""
        super().__init__(media_type="text/event-stream")
        self._feed = feed
        self._send_timeout_s = send_timeout_s
        self._heartbeat_s = heartbeat_s
        self._max_age_s = max_age_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the stream, or 503 when the feed is full; the slot is given back whatever happens."""
        try:
            self._feed.enter()
        except FeedFull:
            text = "Too many browsers watch this already; close one and try again.\n"
            await PlainTextResponse(text, status_code=503, headers={"Retry-After": "5"})(scope, receive, send)
            return
        gone = asyncio.ensure_future(_disconnected(receive))
        follow = asyncio.ensure_future(self._follow(send))
        try:
            await asyncio.wait({gone, follow}, return_when=asyncio.FIRST_COMPLETED)
            if follow.done():
                follow.result()
        except TimeoutError:
            self._feed.dropped_clients += 1
        finally:
            for task in (gone, follow):
                task.cancel()
            await asyncio.gather(gone, follow, return_exceptions=True)
            self._feed.leave()

    async def _follow(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._max_age_s
        preface = f"retry: {RETRY_MS}\n\n".encode()
        version = 0
        while not self._feed.closed and loop.time() < ends_s:
            version, topics = await self._feed.newer_than(version, timeout_s=self._heartbeat_s)
            body = b"".join(encode_event(name, text) for name, text in topics.items()) or encode_event("beat", "")
            await self._put(send, preface + body, more=True)
            preface = b""
        await self._put(send, b"", more=False)

    async def _put(self, send: Send, body: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        await asyncio.wait_for(send(message), self._send_timeout_s)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
