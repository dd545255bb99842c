from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fleet.webkit import EventStream, Feed, FeedFull
from fleet.webkit.events import encode_event

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "headers": []}


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


class Browser:
    """Takes what is sent; `reads` False: never takes a body."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.status = 0
        self.bodies: list[bytes] = []
        self.got = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        if not self.reads:
            await asyncio.Event().wait()
        self.bodies.append(message["body"])
        self.got.set()

    async def next_body(self) -> bytes:
        await asyncio.wait_for(self.got.wait(), 5)
        self.got.clear()
        return self.bodies[-1]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_an_event_keeps_its_lines_apart() -> None:
    assert encode_event("panel", "<p>\n</p>") == b"event: panel\ndata: <p>\ndata: </p>\n\n"


def test_a_browser_gets_what_is_there_and_then_only_what_changed() -> None:
    async def scenario() -> None:
        feed, browser = Feed(), Browser()
        await feed.publish({"chips": "a", "panel": "b"})
        task = asyncio.create_task(EventStream(feed)(SCOPE, never, browser.send))
        assert await browser.next_body() == b"retry: 300\n\nevent: chips\ndata: a\n\nevent: panel\ndata: b\n\n"
        await feed.publish({"chips": "a", "panel": "c"})
        assert await browser.next_body() == b"event: panel\ndata: c\n\n"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert feed.clients == 0

    run(scenario)


def test_silence_is_told_from_absence_by_a_beat() -> None:
    async def scenario() -> None:
        feed, browser = Feed(), Browser()
        task = asyncio.create_task(EventStream(feed, heartbeat_s=0.01)(SCOPE, never, browser.send))
        assert await browser.next_body() == b"retry: 300\n\nevent: beat\ndata: \n\n"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(scenario)


def test_a_browser_that_never_reads_loses_its_place_and_blocks_nobody() -> None:
    async def scenario() -> None:
        feed, stuck, reader = Feed(), Browser(reads=False), Browser()
        await feed.publish({"chips": "a"})
        bad = asyncio.create_task(EventStream(feed, send_timeout_s=0.05)(SCOPE, never, stuck.send))
        good = asyncio.create_task(EventStream(feed)(SCOPE, never, reader.send))
        assert b"data: a" in await reader.next_body()
        await asyncio.wait_for(bad, 5)
        assert (feed.dropped_clients, feed.clients) == (1, 1)
        await feed.publish({"chips": "b"})
        assert b"data: b" in await reader.next_body()
        good.cancel()
        await asyncio.gather(good, return_exceptions=True)

    run(scenario)


def test_a_stream_grows_old_and_gives_its_place_back() -> None:
    async def scenario() -> None:
        feed, browser = Feed(), Browser()
        await feed.publish({"chips": "a"})
        await asyncio.wait_for(EventStream(feed, heartbeat_s=0.01, max_age_s=0.05)(SCOPE, never, browser.send), 5)
        assert browser.bodies[-1] == b""
        assert feed.clients == 0

    run(scenario)


def test_one_browser_too_many_is_told_to_come_back() -> None:
    async def scenario() -> None:
        feed, late = Feed(max_clients=1), Browser()
        feed.enter()
        with pytest.raises(FeedFull):
            feed.enter()
        await EventStream(feed)(SCOPE, never, late.send)
        assert late.status == 503
        assert feed.clients == 1

    run(scenario)


def test_closing_the_feed_ends_every_stream_at_once() -> None:
    async def scenario() -> None:
        feed, browser = Feed(), Browser()
        task = asyncio.create_task(EventStream(feed, heartbeat_s=60)(SCOPE, never, browser.send))
        await feed.publish({"chips": "a"})
        await browser.next_body()
        await feed.close()
        await asyncio.wait_for(task, 5)
        assert feed.clients == 0

    run(scenario)
