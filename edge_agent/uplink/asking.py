"""When to ask the cloud for second opinions: pauses after failures, silence after a refusal. Pure.

```mermaid
stateDiagram-v2
    [*] --> ready
    ready --> ready: answered
    ready --> waiting: link_down
    ready --> refused: refused
    waiting --> ready: due
    waiting --> ready: answered
    waiting --> waiting: link_down
    waiting --> refused: refused
    refused --> ready: due
    refused --> ready: answered
    refused --> waiting: link_down
    refused --> refused: refused
```
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum


class AskState(StrEnum):
    """How the way to the cloud's HTTP side is."""

    READY = "ready"
    WAITING = "waiting"
    REFUSED = "refused"


class AskTrigger(StrEnum):
    """What moves it."""

    ANSWERED = "answered"
    LINK_DOWN = "link_down"
    REFUSED = "refused"
    DUE = "due"


TRANSITIONS: dict[tuple[AskState, AskTrigger], AskState] = {
    (AskState.READY, AskTrigger.ANSWERED): AskState.READY,
    (AskState.READY, AskTrigger.LINK_DOWN): AskState.WAITING,
    (AskState.READY, AskTrigger.REFUSED): AskState.REFUSED,
    (AskState.WAITING, AskTrigger.DUE): AskState.READY,
    (AskState.WAITING, AskTrigger.ANSWERED): AskState.READY,
    (AskState.WAITING, AskTrigger.LINK_DOWN): AskState.WAITING,
    (AskState.WAITING, AskTrigger.REFUSED): AskState.REFUSED,
    (AskState.REFUSED, AskTrigger.DUE): AskState.READY,
    (AskState.REFUSED, AskTrigger.ANSWERED): AskState.READY,
    (AskState.REFUSED, AskTrigger.LINK_DOWN): AskState.WAITING,
    (AskState.REFUSED, AskTrigger.REFUSED): AskState.REFUSED,
}

BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 60.0
REFUSED_RETRY_S = 300.0
MAX_WANTED = 1000


class AskCore:
    """Decides when the next request may leave, and which opinions are still to be fetched.

    Args:
        catch_up_s: pause between two looks for opinions that no message announced.
    """

    def __init__(self, *, catch_up_s: float) -> None:
        self._catch_up_s = catch_up_s
        self._catch_up_at_s = 0.0
        self._failures = 0
        self._next_s = 0.0
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self.state = AskState.READY
        self.text = "not asked yet"

    def may_ask(self, now_s: float) -> bool:
        """Whether a request may leave now."""
        if self.state is not AskState.READY and now_s >= self._next_s:
            self.state = TRANSITIONS[self.state, AskTrigger.DUE]
        return self.state is AskState.READY

    def answered(self) -> None:
        """The cloud has answered, whatever it said of the one request."""
        self.state = TRANSITIONS[self.state, AskTrigger.ANSWERED]
        self._failures = 0
        self.text = "connected"

    def link_down(self, text: str, now_s: float, *, retry_after_s: float | None) -> None:
        """Nobody answered: wait, longer each time, or as long as the cloud asks for."""
        self.state = TRANSITIONS[self.state, AskTrigger.LINK_DOWN]
        wait_s = min(BACKOFF_FIRST_S * 2.0 ** min(self._failures, 16), BACKOFF_LAST_S)
        self._failures += 1
        self._next_s = now_s + max(wait_s, retry_after_s or 0.0)
        self.text = f"the cloud does not answer: {text}"

    def refused(self, text: str, now_s: float) -> None:
        """Our token is not accepted: asking again soon would change nothing."""
        self.state = TRANSITIONS[self.state, AskTrigger.REFUSED]
        self._next_s = now_s + REFUSED_RETRY_S
        self.text = f"the cloud refuses this device ({text}): renew its token"

    def credentials_changed(self, now_s: float) -> None:
        """There is another token: no need to wait."""
        if self.state is AskState.REFUSED:
            self._next_s = now_s

    def want(self, opinion_id: str) -> None:
        """Notes an opinion to be fetched; beyond MAX_WANTED the next catch-up finds it."""
        if len(self._wanted) < MAX_WANTED:
            self._wanted[opinion_id] = None
        else:
            self._catch_up_at_s = 0.0

    def next_wanted(self) -> str | None:
        """The opinion noted first."""
        return next(iter(self._wanted), None)

    def got(self, opinion_id: str) -> None:
        """It is here, or will never be."""
        self._wanted.pop(opinion_id, None)

    def catch_up_soon(self) -> None:
        """Look for missed opinions at the next occasion."""
        self._catch_up_at_s = 0.0

    def catch_up_due(self, now_s: float) -> bool:
        """Whether to look now."""
        return now_s >= self._catch_up_at_s

    def caught_up(self, now_s: float) -> None:
        """Has looked."""
        self._catch_up_at_s = now_s + self._catch_up_s
