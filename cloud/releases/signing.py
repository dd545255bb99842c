"""The online key: what the cloud itself signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cloud.config import ReleaseSettings
from cloud.errors import ConfigurationError
from fleet.contract.messages import Desired
from fleet.contract.release import SignedDesired, Trust
from fleet.release.errors import KeyProblem
from fleet.release.keys import load_key, sign_desired
from fleet.release.repository import resigned


@dataclass(frozen=True, slots=True)
class OnlineKey:
    """Signs what changes by itself: snapshot, timestamp, and what each device is to run.

    Attributes:
        resign: a trust and now -> the trust with a new snapshot and timestamp, each one version higher; WrongKey when
            the root names another key. Blocking: milliseconds.
        sign: a device's wish, signed; well below a millisecond.
    """

    snapshot_life: timedelta
    timestamp_life: timedelta
    resign: Callable[[Trust, datetime], Trust]
    sign: Callable[[Desired], SignedDesired]


def load_online_key(settings: ReleaseSettings) -> OnlineKey | None:
    """The configured key; None when there is none, and releases are off. ConfigurationError for one that is no key."""
    if settings.online_key_file is None:
        return None
    try:
        signer = load_key(settings.online_key_file)
    except KeyProblem as exc:
        raise ConfigurationError(f"releases.online_key_file: {exc}") from exc
    snapshot_life, timestamp_life = timedelta(days=settings.snapshot_days), timedelta(hours=settings.timestamp_hours)
    return OnlineKey(
        snapshot_life,
        timestamp_life,
        lambda trust, now: resigned(trust, signer, now, timestamp_for=timestamp_life, snapshot_for=snapshot_life),
        lambda desired: sign_desired(signer, desired),
    )
