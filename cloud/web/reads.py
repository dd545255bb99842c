"""What the cloud's pages read and who may: one Protocol, so that pages and database can change apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from fleet.contract.http import DeviceSummary, Health, OpinionContext, OpinionPage, SecondOpinion


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks.

    Attributes:
        name: shown in the head of each page.
        role: viewer, technician, reviewer, engineer, operator, admin.
        site: the one site whose rows the visitor sees.
    """

    name: str
    role: str
    site: str


@dataclass(frozen=True, slots=True)
class Session:
    """An accepted sign-in: the cookie to set."""

    cookie_name: str
    cookie_value: str
    max_age_s: int


@dataclass(frozen=True, slots=True)
class OpinionDetail:
    """An uncertain image with both words on it: the edge's `context` and the cloud's `opinion`."""

    opinion: SecondOpinion
    context: OpinionContext


class PageReads(Protocol):
    """Everything is limited to the visitor's own site by the implementation."""

    async def visitor(self, request: Request) -> Visitor | None:
        """Who is signed in by the session cookie; None when nobody, or the session is over."""
        ...

    async def sign_in(self, request: Request, access_token: str) -> Session | None:
        """Opens a session for an access token; None when the token is wrong, expired, or a device's."""
        ...

    async def sign_out(self, request: Request) -> str:
        """Ends the session; returns the name of the cookie to delete."""
        ...

    async def devices(self, request: Request) -> tuple[DeviceSummary, ...]:
        """Devices of the visitor's site."""
        ...

    async def opinions(
        self, request: Request, *, state: str | None, device: str | None, cursor: str | None, limit: int
    ) -> OpinionPage:
        """Second opinions, newest first, of one state or of all."""
        ...

    async def opinion(self, request: Request, opinion_id: str) -> OpinionDetail | None:
        """One second opinion; None when the site has none of this id."""
        ...

    async def opinion_image(self, request: Request, opinion_id: str) -> bytes | None:
        """The picture it is about, JPEG."""
        ...

    async def health(self, request: Request) -> Health:
        """Parts of the cloud, as `/readyz` tells them."""
        ...
