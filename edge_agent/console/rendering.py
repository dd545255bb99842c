"""From the view's plain data to pages, pieces of pages and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from edge_agent.console.view import CellCard, LiveSnapshot, PartState
from fleet.webkit import SECURITY_HEADERS, PageKit
from fleet.webkit.words import TYPES, iso

JPEG_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
NAVIGATION = (("/", "Live"), ("/slide", "Slide"), ("/health", "Health"), ("/model", "Model"))
GROUP_ORDER = ("unidentified", *(name for name in TYPES if name != "unidentified"))
STATE_WORDS = {
    PartState.OK: "works",
    PartState.BUSY: "is working",
    PartState.WARNING: "needs a look",
    PartState.FAULT: "does not work",
    PartState.OFF: "is off",
    PartState.UNKNOWN: "is not known",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What the page frame shows."""

    title: str
    nav: tuple[tuple[str, str], ...]
    here: str
    now: datetime


class ConsoleRendering:
    """Templates and static files of this console."""

    def __init__(self, console_dir: Path) -> None:
        self._kit = PageKit(console_dir)

    def page(self, template: str, here: str, *, status_code: int = 200, **values: object) -> HTMLResponse:
        """A whole page; `here` is its address in the navigation."""
        frame = Frame("Edge console", NAVIGATION, here, datetime.now(UTC))
        return self._kit.page(template, status_code=status_code, frame=frame, **values)

    def bare_page(self, template: str, *, status_code: int = 200, **values: object) -> HTMLResponse:
        """A page without navigation: for who is not signed in, or when something went wrong."""
        frame = Frame("Edge console", (), "", datetime.now(UTC))
        return self._kit.page(template, status_code=status_code, frame=frame, **values)

    def piece(self, template: str, **values: object) -> HTMLResponse:
        """A piece of a page, asked for by a module that renews it."""
        return HTMLResponse(self._kit.fragment(template, **values), headers=dict(SECURITY_HEADERS))

    def asset(self, name: str, request: Request) -> Response:
        """A static file."""
        return self._kit.assets.respond(name, request)

    def live_pieces(self, live: LiveSnapshot) -> dict[str, str]:
        """Every piece of the live page that moves, by the id of its element."""
        pieces = ("chips", "problems", "panel", "note")
        return {name: self._kit.fragment(f"{name}.html", live=live) for name in pieces} | {"announce": announce(live)}

    async def http_error(self, request: Request, exc: Exception) -> Response:
        """A page for a browser, problem+json for everybody else."""
        status = exc.status_code if isinstance(exc, StarletteHTTPException) else 500
        title = "There is no such page" if status == 404 else "This did not work"
        if "text/html" in request.headers.get("accept", ""):
            text = f"Nothing is found at {request.url.path}." if status == 404 else str(getattr(exc, "detail", ""))
            return self.bare_page(
                "message.html", status_code=status, title=title, text=text, what_to_do="Counting goes on untouched."
            )
        problem = {"type": "about:blank", "title": title, "status": status, "detail": str(getattr(exc, "detail", ""))}
        return JSONResponse(problem, status_code=status, media_type="application/problem+json")

    @staticmethod
    def groups(cells: Sequence[CellCard]) -> list[tuple[str, list[CellCard]]]:
        """Cells by label, the unidentified first, each group worst first."""
        by_label: dict[str, list[CellCard]] = {}
        for cell in cells:
            by_label.setdefault(cell.label, []).append(cell)
        order = [*GROUP_ORDER, *sorted(set(by_label) - set(GROUP_ORDER))]
        return [(label, sorted(by_label[label], key=suspicion)) for label in order if label in by_label]

    @staticmethod
    def plain(value: object) -> Any:
        """Dataclasses, enums and times as JSON has them."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: ConsoleRendering.plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if isinstance(value, datetime):
            return iso(value)
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, (tuple, list)):
            return [ConsoleRendering.plain(item) for item in value]
        return value


def suspicion(cell: CellCard) -> tuple[bool, bool, bool, float, int]:
    """Sort key: contradicted first, then unfamiliar, then undecided, then the least probable."""
    contradicted = cell.second_label is not None and cell.second_label != cell.label
    return (not contradicted, cell.in_domain, len(cell.prediction_set) == 1, cell.probability, cell.cell_id)


def announce(live: LiveSnapshot) -> str:
    """What a screen reader is told: changes of state, never the ticking figures."""
    parts = (("Camera", live.camera.state), ("model", live.model.state), ("cloud", live.cloud.state))
    return ", ".join(f"{name} {STATE_WORDS[PartState(state)]}" for name, state in parts) + "."
