"""What stops an update.

UpdateError
├── TrustRefused      what was sent is not to be trusted, or not any more; carries the code that is reported
├── ArchiveRefused    what was signed is no bundle that can be used; carries the code that is reported
└── NoSpace           the disk does not take it: a person here makes room
"""

from __future__ import annotations

from edge_agent.errors import EdgeError
from fleet.contract.release import UpdateCode


class UpdateError(EdgeError):
    """Root of everything this package raises."""


class TrustRefused(UpdateError):
    """Not signed, rolled back, expired, or of another length or hash than was signed.

    Attributes:
        code: why, as it is reported.
    """

    def __init__(self, code: UpdateCode, text: str) -> None:
        super().__init__(f"{code.value}: {text}")
        self.code = code
        self.text = text


class ArchiveRefused(UpdateError):
    """Signed, but not a bundle that this program can use.

    Attributes:
        code: why, as it is reported.
    """

    def __init__(self, code: UpdateCode, text: str) -> None:
        super().__init__(f"{code.value}: {text}")
        self.code = code
        self.text = text


class NoSpace(UpdateError):
    """The disk is full, or does not write."""
