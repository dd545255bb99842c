"""The console's cookie: signed, short-lived, and worth nothing once its token is revoked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cloud.errors import CloudError, Unauthenticated

COOKIE_NAME = "ahs_session"
MIN_SECRET_BYTES = 32


class SignInNeeded(CloudError):
    """A page was asked for without a session: the browser goes to the sign-in page and comes back."""

    def __init__(self, path: str, *, reason: str) -> None:
        super().__init__(f"{path} needs a session ({reason})")
        self.path = path
        self.reason = reason


class CookieSigner:
    """Writes and reads cookies that carry a token's id and an end.

    Args:
        secret: key of the HMAC, at least 32 bytes, the same on all replicas.
        lifetime_s: how long a cookie is good.
        now: the wall clock.
    """

    def __init__(
        self, secret: bytes, *, lifetime_s: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the session secret needs at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._now = now
        self.lifetime_s = lifetime_s

    def write(self, token_id: str) -> str:
        """A cookie's value for a token's id (never the token itself)."""
        ends = self._now() + timedelta(seconds=self.lifetime_s)
        body = _b64(json.dumps({"t": token_id, "e": int(ends.timestamp())}).encode())
        return f"{body}.{self._mark(body)}"

    def read(self, value: str) -> str:
        """The token's id; Unauthenticated for a cookie that is forged, broken or too old."""
        body, _, mark = value.partition(".")
        if not value.isascii() or not hmac.compare_digest(mark, self._mark(body)):
            raise Unauthenticated("the session cookie is not ours", code="session_invalid", hint="sign in again")
        document = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if self._now().timestamp() >= document["e"]:
            raise Unauthenticated("the session is over", code="session_expired", hint="sign in again")
        return str(document["t"])

    def _mark(self, body: str) -> str:
        return _b64(hmac.new(self._secret, body.encode(), hashlib.sha256).digest())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
