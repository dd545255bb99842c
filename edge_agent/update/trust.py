"""The port to what this device trusts; `trust_tuf.TrustStore` is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fleet.contract.messages import Desired
from fleet.contract.release import ReleaseTarget, SignedDesired, Trust


class Releases(Protocol):
    """What the trusted list names."""

    @property
    def by_key(self) -> Mapping[tuple[str, int], ReleaseTarget]:
        """(digest, counter) -> its signed description."""
        ...

    @property
    def chunks(self) -> frozenset[str]:
        """Names of the chunks of all that is signed, also of what this program cannot read."""
        ...


class TrustKeeper(Protocol):
    """Verifies; every refusal is a `TrustRefused` with its code."""

    def refresh(self, trust: Trust, now: datetime, *, judge_expiry: bool = True) -> Releases:
        """Takes a trust message."""
        ...

    def check_archive(self, target: ReleaseTarget, path: Path) -> None:
        """Whether a file is the archive that was signed."""
        ...

    def verify_desired(self, signed: SignedDesired) -> Desired:
        """A wish whose signature is good."""
        ...
