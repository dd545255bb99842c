"""Looks at the agent a few times a second, once for all browsers, and publishes what changed."""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.console.frames import FrameShelf
from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.view import ConsoleView
from fleet.webkit import Feed

TICK_S = 0.25
MAX_PAUSE_S = 5.0

log = structlog.get_logger(__name__)


class Ticker:
    """Runs on the console's loop; idle while nobody looks."""

    def __init__(self, view: ConsoleView, feed: Feed, rendering: ConsoleRendering, shelf: FrameShelf) -> None:
        self._view = view
        self._feed = feed
        self._rendering = rendering
        self._shelf = shelf
        self.failures = 0

    async def run(self) -> None:
        """Ticks until cancelled. A failing look is logged and counted and tried again, ever more slowly."""
        pause_s = TICK_S
        while True:
            await asyncio.sleep(pause_s)
            if not self._feed.clients:
                continue
            try:
                await self._feed.publish(await asyncio.to_thread(self._look))
                pause_s = TICK_S
            except Exception:  # a supervised loop: one failing look must not leave every page stale for ever
                self.failures += 1
                pause_s = min(MAX_PAUSE_S, pause_s * 2)
                log.exception("console_tick_failed", failures=self.failures, pause_s=pause_s)

    def _look(self) -> dict[str, str]:
        live = self._view.snapshot()
        field = self._shelf.newest()
        return self._rendering.live_pieces(live) | {"field": field.capture_id if field else ""}
