"""Why a request brought no answer, by who must act.

ClientError
├── LinkDown    nobody decided anything: try again later (after `retry_after_s` when it is known)
├── Rejected    the cloud refused, and said so in a problem document: do not send the same again
└── Damaged     what came is not what was named: it is not used, and the operator of the cloud has to look
"""

from __future__ import annotations

from fleet.contract.http import Problem


class ClientError(Exception):
    """A request brought no answer that can be used."""


class LinkDown(ClientError):
    """No connection, no answer in time, an overloaded or broken server, or something in between that answered.

    A page of a captive portal and an error of a proxy are of this kind too: only a problem document proves that the
    cloud itself has refused.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.status = status


class Rejected(ClientError):
    """The peer understood and refused (4xx), or the request is known beforehand to be refused."""

    def __init__(self, problem: Problem) -> None:
        words = [f"{problem.status} {problem.title}", problem.detail, problem.hint]
        super().__init__(": ".join(word for word in words if word))
        self.problem = problem

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """Stable machine-readable code, empty when the cloud gave none."""
        return self.problem.code


class Damaged(ClientError):
    """Bytes that are not those of their hash, or a name that no file may have."""
