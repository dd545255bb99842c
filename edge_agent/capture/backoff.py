"""How long to wait before trying again. Pure."""

from __future__ import annotations

import random

from edge_agent.capture.settings import LinkSettings


class Backoff:
    """Doubling waits with a random share on top, so that many agents do not come back at the same moment."""

    def __init__(self, settings: LinkSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        """It works again: the next wait is the first one."""
        self._failures = 0

    def next_s(self) -> float:
        """The wait before the next attempt, seconds."""
        settings = self._settings
        # The exponent is bounded: after days without a camera 2.0 ** n would overflow.
        wait_s = min(settings.backoff_last_s, settings.backoff_first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return wait_s * (1.0 + settings.backoff_jitter_ratio * self._rng.random())
