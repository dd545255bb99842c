"""A link to a broker that has nothing to say."""

from __future__ import annotations

import asyncio

from cloud.ingest.bus import Incoming


class QuietBus:
    """Takes what it is given, and nothing ever arrives."""

    async def connect(self) -> None:
        return None

    async def receive(self, *, limit: int, wait_s: float) -> list[Incoming]:
        await asyncio.sleep(min(wait_s, 0.05))
        return []

    def done(self, incoming: Incoming) -> None:
        return None

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, qos: int = 1
    ) -> None:
        return None

    async def close(self) -> None:
        return None
