"""From what the queries return to pages. No database and no request in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from starlette.requests import Request
from starlette.responses import Response

from cloud.dataset.rules import rbc_diameter_px
from cloud.review.order import groups
from cloud.review.rules import ARTEFACT, NOT_CLASSED, bbox_of
from cloud.web import rollout_view
from fleet.contract.cells import CellClassName, DetectionWire
from fleet.contract.http import (
    DevicePage,
    Health,
    OpinionContext,
    OpinionPage,
    Problem,
    ReleasePage,
    RolloutPage,
    SecondOpinion,
)
from fleet.contract.messages import OpinionState, Presence
from fleet.contract.release import RolloutState
from fleet.webkit import SECURITY_HEADERS, PageKit
from fleet.webkit.words import OPINION_STATES, PRESENCES, UPDATE_STATES
from models.bundle.manifest import WhiteCellType

WINDOW_RED_CELLS = 3.0
"""Side of the window round a white cell, in red-cell diameters: about 22 micrometres."""
TITLE = "Automated Hematology"
NAVIGATION = (
    ("/devices", "Devices"),
    ("/review", "Review"),
    ("/rollouts", "Rollouts"),
    ("/models", "Models"),
    ("/system", "System"),
)
TABS = (
    ("pending_review", "Waits for a person"),
    ("reviewed", "Read by a person"),
    ("answered", "Answered"),
    ("all", "All"),
)
LABEL_KEYS = (
    *((str(number), kind.value) for number, kind in enumerate(WhiteCellType, start=1)),
    ("n", NOT_CLASSED),
    ("x", ARTEFACT),
)
"""Key -> label, as the review page binds them."""
SIGN_IN_MESSAGES: dict[str, tuple[str, str, str]] = {
    "token_missing": ("plain", "Please sign in.", ""),
    "session_expired": ("plain", "Your session is over.", "Sign in again; you come back to where you were."),
    "session_invalid": ("plain", "Your session is no longer good.", "Sign in again; you come back to where you were."),
    "token_expired": ("fault", "This token has expired.", "Ask an operator for a new one."),
    "token_revoked": ("fault", "This token was revoked.", "Ask an operator for a new one."),
    "token_of_device": ("fault", "This is a device's token.", "The console opens with a person's token."),
    "role_not_allowed": ("fault", "This is a device's token.", "The console opens with a person's token."),
    "foreign_origin": ("fault", "The sign-in came from another page.", "Sign in on this page."),
}
TRUST_ROLES = {
    "root": ("Root", "names all keys; signed by the operator with root.key"),
    "targets": ("Releases", "names every release; signed by the operator with release.key"),
    "snapshot": ("Snapshot", "says which list of releases is the newest; signed here by itself"),
    "timestamp": ("Timestamp", "proves that all of it is fresh; signed here by itself"),
}
"""Role -> its name and what it is for."""
WRONG_TOKEN = ("fault", "This token is not known here.", "Copy the whole of it; ask an operator when it is lost.")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks: shown in the head of each page."""

    name: str
    role: str
    site: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What the page frame shows; `visitor` only on pages behind the sign-in."""

    title: str
    nav: tuple[tuple[str, str], ...]
    here: str
    now: datetime
    visitor: Visitor | None = None


class CloudRendering:
    """Templates and static files of the cloud's console."""

    def __init__(self, web_dir: Path) -> None:
        self._kit = PageKit(web_dir)

    def asset(self, name: str, request: Request) -> Response:
        """A static file."""
        return self._kit.assets.respond(name, request)

    def sign_in(self, *, after: str, error: str | None, reason: str | None) -> HTMLResponse:
        """The sign-in page; `error` of a refused token or `reason` why the visitor was sent here."""
        message = SIGN_IN_MESSAGES.get(error, WRONG_TOKEN) if error else SIGN_IN_MESSAGES.get(reason or "")
        return self._kit.page("sign_in.html", frame=_bare_frame(), next=after, message=message)

    def problem(self, problem: Problem) -> HTMLResponse:
        """A page that says what is wrong and what to do."""
        return self._kit.page("problem.html", status_code=problem.status, frame=_bare_frame(), problem=problem)

    def api_page(self) -> HTMLResponse:
        """The API's documentation, open to anyone who can reach the service."""
        return self._kit.page("api.html", frame=_bare_frame())

    def devices(self, visitor: Visitor, page: DevicePage, *, only_rows: bool = False) -> HTMLResponse:
        """All devices of the site, a row each."""
        values = {
            "devices": page.items,
            "more": page.next_cursor is not None,
            "online": sum(device.presence is Presence.ONLINE for device in page.items),
            "presences": PRESENCES,
            "updates": UPDATE_STATES,
        }
        return self._show("device_rows.html" if only_rows else "devices.html", "/devices", visitor, values, only_rows)

    def review(
        self,
        visitor: Visitor,
        page: OpinionPage,
        *,
        shown: str,
        device: str | None,
        may_label: bool = False,
        only_rows: bool = False,
    ) -> HTMLResponse:
        """Uncertain images of one state (or `all`), newest first."""
        values = {
            "page": page,
            "shown": shown,
            "device": device,
            "tabs": TABS,
            "states": OPINION_STATES,
            "may_label": may_label,
        }
        return self._show("queue.html" if only_rows else "review.html", "/review", visitor, values, only_rows)

    def opinion(
        self,
        visitor: Visitor,
        opinion: SecondOpinion,
        context: OpinionContext,
        *,
        may_label: bool,
        blind: bool,
        waiting: int,
    ) -> HTMLResponse:
        """One image to be read.

        Args:
            blind: the models' words are left out of the page altogether.
            waiting: images of the site that wait for a person, this one among them if it does.
        """
        values = {
            "opinion": opinion,
            "context": context,
            "states": OPINION_STATES,
            "groups": groups(opinion.cells, blind=blind),
            "label_keys": LABEL_KEYS,
            "may_label": may_label,
            "blind": blind,
            "waiting": waiting - (opinion.state == OpinionState.PENDING_REVIEW),
            "back_state": opinion.state if opinion.state in dict(TABS) else "all",
            "counts": _counts("edge", context.detections) | _counts("cloud", opinion.detections),
        }
        return self._show("opinion.html", "/review", visitor, values, only_rows=False)

    def models(self, visitor: Visitor, page: ReleasePage, expiry: Mapping[str, datetime]) -> HTMLResponse:
        """Releases, newest first, and how long the documents that prove them hold."""
        now = datetime.now(UTC)
        trust = [(role, *TRUST_ROLES[role], moment, *trust_words(role, moment, now)) for role, moment in expiry.items()]
        values = {"releases": page.items, "trust": sorted(trust, key=lambda row: list(TRUST_ROLES).index(row[0]))}
        return self._show("models.html", "/models", visitor, values, only_rows=False)

    def rollouts(self, visitor: Visitor, page: RolloutPage, *, only_rows: bool = False) -> HTMLResponse:
        """Rollouts, newest first."""
        stopped = (RolloutState.PAUSED, RolloutState.ABORTING, RolloutState.ABORTED)
        rows = [
            (
                row,
                *rollout_view.STATES[row.state],
                rollout_view.why(row.reason, row.state) if row.state in stopped else "",
            )
            for row in page.items
        ]
        template = "rollout_rows.html" if only_rows else "rollouts.html"
        return self._show(template, "/rollouts", visitor, {"rollouts": rows}, only_rows)

    def rollout(
        self, visitor: Visitor, page: rollout_view.RolloutPage, *, may_manage: bool, only_body: bool = False
    ) -> HTMLResponse:
        """One rollout: its waves as columns, the gates, the decisions."""
        values = {"page": page, "may_manage": may_manage}
        template = "rollout_body.html" if only_body else "rollout.html"
        return self._show(template, "/rollouts", visitor, values, only_body)

    def system(self, visitor: Visitor, health: Health) -> HTMLResponse:
        """Parts of the service."""
        parts = [(name, *part_words(text)) for name, text in health.parts.items()]
        values = {"parts": parts, "version": health.version}
        return self._show("system.html", "/system", visitor, values, only_rows=False)

    def _show(
        self, template: str, here: str, visitor: Visitor, values: dict[str, Any], only_rows: bool
    ) -> HTMLResponse:
        frame = Frame(TITLE, NAVIGATION, here, datetime.now(UTC), visitor)
        if only_rows:
            return HTMLResponse(self._kit.fragment(template, frame=frame, **values), headers=dict(SECURITY_HEADERS))
        return self._kit.page(template, frame=frame, **values)


def trust_words(role: str, expires_at: datetime, now: datetime) -> tuple[str, str]:
    """Chip state and word of a trust document."""
    if expires_at <= now:
        return "fault", "expired"
    soon = timedelta(hours=4) if role in ("snapshot", "timestamp") else timedelta(days=60)
    return ("warning", "runs out") if expires_at - now < soon else ("ok", "holds")


def part_words(text: str) -> tuple[str, str, str]:
    """Chip state, chip word and sentence of a part's line in `/readyz`."""
    if text == "ok":
        return "ok", "ok", "works"
    if text.startswith("off"):
        return "off", "off", text.partition(":")[2].strip() or "switched off"
    if text in ("connecting", "standing by", "not tested yet"):
        return "busy", "working", text
    return "fault", "check", text


def field_boxes(
    opinion: SecondOpinion, context: OpinionContext, *, width_px: int, height_px: int, blind: bool = False
) -> dict[str, Any]:
    """What the page draws: boxes of both models; `cells` by place, and how wide the window round each is cut.

    The window is the same for all cells of the image, so that their sizes can be compared by eye.
    """
    cells = [{"bbox": bbox_of(cell)} for cell in opinion.cells]
    sides = [max(cell["bbox"][2:]) for cell in cells]
    red_px = rbc_diameter_px(opinion.detections, width_px=width_px, height_px=height_px)
    window_px = max([WINDOW_RED_CELLS * red_px if red_px else 0.0, *(1.2 * side for side in sides)], default=0.0)
    plain = {"width_px": width_px, "height_px": height_px, "um_per_px": context.um_per_px}
    boxes = [] if blind else _model_boxes(opinion, context)
    return plain | {"cells": cells, "window_px": round(window_px, 1), "boxes": boxes}


def _model_boxes(opinion: SecondOpinion, context: OpinionContext) -> list[dict[str, Any]]:
    boxes: list[dict[str, Any]] = []
    for index, cell in enumerate(opinion.cells):
        for source, found in (("edge", cell.edge), ("cloud", cell.cloud)):
            if found is not None:
                boxes.append(_box(source, found) | {"cell": index})
    paired = {("edge", c.edge.bbox) for c in opinion.cells if c.edge} | {
        ("cloud", c.cloud.bbox) for c in opinion.cells if c.cloud
    }
    for source, detections in (("edge", context.detections), ("cloud", opinion.detections)):
        boxes += [
            _box(source, found)
            for found in detections
            if not (found.cls is CellClassName.WBC and (source, found.bbox) in paired)
        ]
    return boxes


def _box(source: str, found: DetectionWire) -> dict[str, Any]:
    label = found.cell_type.label if found.cell_type else ""
    return {
        "source": source,
        "cls": found.cls.value,
        "bbox": found.bbox,
        "score": found.score,
        "counted": found.counted,
        "label": label,
    }


def _counts(source: str, detections: Sequence[DetectionWire]) -> dict[str, int]:
    counted = [found.cls for found in detections if found.counted]
    return {
        f"{source}_rbc": counted.count(CellClassName.RBC),
        f"{source}_platelets": counted.count(CellClassName.PLATELETS),
    }


def _bare_frame() -> Frame:
    return Frame(TITLE, (), "", datetime.now(UTC))
