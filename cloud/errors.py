"""What can go wrong in the cloud, by who must act.

CloudError
├── ConfigurationError      the operator: the settings cannot work; the program stops
├── StorageUnavailable      nobody decided: the database or the image store does not answer; retried
├── Busy                    the asker, later: more work than is taken (503, or 429 for one device alone)
├── ModelMissing            the operator: no second-opinion bundle is loaded; askers get 503 and keep their image
├── Refused                 the asker: the request can never be granted as it is (4xx); `problem` says why
│   ├── Unauthenticated     no token, or one that is wrong, expired or revoked (401)
│   ├── Forbidden           a token that is good, but not for this (403)
│   ├── NotFound            nothing of that name in the asker's site (404)
│   ├── Conflict            it is there already (409)
│   ├── TooLarge            more bytes or pixels than are taken (413)
│   └── Unprocessable       readable, but wrong (422)
└── LeaseLost               a worker that is no longer the leader tried to write; it stands down
"""

from __future__ import annotations

from typing import ClassVar


class CloudError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigurationError(CloudError):
    """The settings cannot work; the message says which and what to do."""


class StorageUnavailable(CloudError):
    """The database or the image store does not answer."""


class LeaseLost(CloudError):
    """This worker's epoch is over."""


class Refused(CloudError):
    """A request that is answered with a 4xx problem document.

    Args:
        detail: what is wrong, for a person.
        code: stable, for a program.
        hint: what to do.
    """

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"

    def __init__(self, detail: str, *, code: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.hint = hint


class Unauthenticated(Refused):
    """No usable token."""

    status = 401
    title = "Not signed in"


class Forbidden(Refused):
    """The token is good, but not for this."""

    status = 403
    title = "Not allowed"


class NotFound(Refused):
    """Nothing of that name in the asker's site."""

    status = 404
    title = "Not found"


class Conflict(Refused):
    """It exists already, or has changed meanwhile."""

    status = 409
    title = "Conflict"


class TooLarge(Refused):
    """More than is taken."""

    status = 413
    title = "Too large"


class Unprocessable(Refused):
    """Readable, but wrong."""

    status = 422
    title = "Cannot be processed"


class Busy(CloudError):
    """More work than is taken at the moment.

    Args:
        retry_after_s: when to try again.
        status: 503 for the whole service, 429 for one device alone.
    """

    def __init__(self, detail: str, *, retry_after_s: int, status: int = 503) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.status = status


class ModelMissing(CloudError):
    """No second-opinion model is loaded, or it has not passed its self-test."""
