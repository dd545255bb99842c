"""The cloud's HTTP side, by the one typed client. Translates its errors into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol, TypeVar

from edge_agent.config import CloudSettings, read_token
from edge_agent.errors import ConfigurationError, LinkDown, PeerRejected
from fleet.client import CloudClient, Rejected
from fleet.client import LinkDown as ClientLinkDown
from fleet.contract.http import OpinionContext, OpinionSummary, SecondOpinion

UNAUTHORISED = frozenset({401, 403})
PAGE_ROWS = 100
MAX_PAGES = 20

T = TypeVar("T")


class Cloud(Protocol):
    """Second opinions. Every method raises LinkDown (try again) or PeerRejected (do not)."""

    def ask(self, jpeg: bytes, context: OpinionContext) -> SecondOpinion:
        """The larger model's word on a field; the same question gets the same answer."""
        ...

    def fetch(self, opinion_id: str) -> SecondOpinion:
        """One opinion in full."""
        ...

    def mine(self, since: datetime) -> Iterator[OpinionSummary]:
        """This device's opinions since a time."""
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...


class HttpCloud:
    """See `Cloud`. Used by one thread. The token file is read again after a refusal, so that a new token is found."""

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._client: CloudClient | None = None

    def ask(self, jpeg: bytes, context: OpinionContext) -> SecondOpinion:
        """POST /v1/second-opinions."""
        return self._call(lambda client: client.second_opinion(jpeg, context))

    def fetch(self, opinion_id: str) -> SecondOpinion:
        """GET /v1/second-opinions/{id}."""
        return self._call(lambda client: client.get_opinion(opinion_id))

    def mine(self, since: datetime) -> Iterator[OpinionSummary]:
        """GET /v1/second-opinions?device=me, page by page, at most MAX_PAGES."""
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            at = cursor
            page = self._call(
                lambda client, at=at: client.list_opinions(device="me", since=since, cursor=at, limit=PAGE_ROWS)  # type: ignore[misc]
            )
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def close(self) -> None:
        """Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _call(self, request: Callable[[CloudClient], T]) -> T:
        client = self._client or self._opened()
        try:
            return request(client)
        except ClientLinkDown as exc:
            raise LinkDown(str(exc), retry_after_s=exc.retry_after_s) from exc
        except Rejected as exc:
            credentials = exc.status in UNAUTHORISED
            if credentials:
                with contextlib.suppress(OSError):
                    self.close()
            raise PeerRejected(str(exc), status=exc.status, credentials=credentials) from exc

    def _opened(self) -> CloudClient:
        settings = self._settings
        try:
            token = read_token(settings.token_file)
            self._client = CloudClient(settings.url or "", token, timeout_s=settings.timeout_s, proxy=settings.proxy)
        except (ValueError, ConfigurationError) as exc:
            # A token file that is gone or spoiled is put right by a person, like a token that has expired.
            raise PeerRejected(str(exc), status=0, credentials=True) from exc
        return self._client
