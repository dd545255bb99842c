"""Asks an ASGI application without a port; keeps cookies like a browser. Its lifespan is not run."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


class AsgiClient:
    """`AsgiClient(app).get("/")`."""

    def __init__(self, app: Any, *, base_url: str = "http://127.0.0.1") -> None:
        self._app = app
        self._base_url = base_url
        self.cookies = httpx.Cookies()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A GET; redirects are not followed."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """A POST; redirects are not followed."""
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request on an event loop of its own."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base_url, cookies=self.cookies) as client:
                answer = await client.request(method, path, **options)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())
