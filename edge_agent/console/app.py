"""The console. Its addresses stand with the pages that they belong to: `*_routes.py`, one file a page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from edge_agent.console.access import Access
from edge_agent.console.frames import FrameShelf
from edge_agent.console.health_routes import add_health
from edge_agent.console.live_routes import add_live
from edge_agent.console.model_routes import add_model
from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.slide_routes import add_slide
from edge_agent.console.ticker import Ticker
from edge_agent.console.view import ConsoleView
from fleet.webkit import Feed

MAX_BROWSERS = 16


def create_console(view: ConsoleView, *, token: str | None = None, max_browsers: int = MAX_BROWSERS) -> FastAPI:
    """Builds the console.

    Args:
        view: the agent. Its methods are called from worker threads, never from the pipeline.
        token: who opens the console must know it; None only when bound to loopback (see `ConsoleServer`).
        max_browsers: pages that may follow the live state at once; the next gets a 503 and tries again.
    """
    feed = Feed(max_clients=max_browsers)
    rendering = ConsoleRendering(Path(__file__).parent)
    shelf = FrameShelf(view)
    ticker = Ticker(view, feed, rendering, shelf)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.loop = asyncio.get_running_loop()
        task = asyncio.create_task(ticker.run())
        yield
        await feed.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app = FastAPI(title="Edge console", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.feed = feed
    app.add_middleware(Access, token=token, rendering=rendering)
    add_live(app, view, rendering, shelf, feed)
    add_slide(app, view, rendering)
    add_health(app, view, rendering)
    add_model(app, view, rendering)

    @app.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        return rendering.asset(name, request)

    app.add_exception_handler(StarletteHTTPException, rendering.http_error)
    return app
