"""Where the update stands: the record and what is known beside it, and the few ways in which it moves on. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_agent.moment import Moment
from edge_agent.update.offer import SignedList
from edge_agent.update.record import Key, UpdateRecord, barring, moved
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.states import UpdateTrigger
from edge_agent.update.traffic import Action, KeepSteps, Note, NoteCode, Save, StopTrial, TrustNotTaken, Use
from fleet.contract.messages import SoakFigures, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, UpdateCode

Entered = Callable[[UpdateRecord, Moment], None]
"""Told of each new state, with the record before it: does what the state asks for."""


class Stand:
    """Shared by the parts of the core. A move is saved first and then acted on.

    Args:
        record: as it was saved.
        settings: times and limits.
        entered: told of each state that is reached.

    Attributes:
        record: as it is now.
        out: what is to be done, in order.
        signed: the last signed list that was taken since the start.
        expired: the refusal of an expired list, while no other is known since the start.
        soak: live figures of the model that proves itself.
        link: whether the broker is there.
        since_s: when this state was reached, or the agent started.
        retry_s: when a failed release is tried again; None when it is not waited for.
    """

    def __init__(self, record: UpdateRecord, settings: UpdateSettings, entered: Entered) -> None:
        self.record = record
        self.settings = settings
        self.out: list[Action] = []
        self.signed: SignedList | None = None
        self.expired: TrustNotTaken | None = None
        self.soak: SoakFigures | None = None
        self.link = False
        self.since_s = 0.0
        self.retry_s: float | None = None
        self._entered = entered

    # --- moving -----------------------------------------------------------------------------------------------------

    def save(self, record: UpdateRecord) -> None:
        """Keeps a record that is in the same state, with the steps that are not told yet."""
        self.record = record
        self.out.append(Save(record))
        if record.untold:
            self.out.append(KeepSteps(record))

    def move(self, trigger: UpdateTrigger, now: Moment, **changes: Any) -> None:
        """A transition: saved, then acted on."""
        self.enter(moved(self.record, trigger, at=now.utc, **changes), now)

    def enter(self, record: UpdateRecord, now: Moment) -> None:
        """A record after a transition: saved, then acted on."""
        before = self.record
        self.since_s = now.monotonic_s
        self.save(record)
        if before.state is UpdateState.TRIAL and record.state is not UpdateState.UNCONFIRMED:
            self.out.append(StopTrial())
        if before.state is UpdateState.UNCONFIRMED or record.confirmed != before.confirmed:
            self.out.append(Use(record.confirmed))
        self._entered(before, now)

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def fail(self, code: UpdateCode, text: str, now: Moment) -> None:
        """The candidate is given up, for now or for good."""
        record = self.record
        attempts = record.attempts + 1
        barred = record.barred
        again = self.passing(code) and attempts < self.settings.max_attempts
        again = again and record.state is not UpdateState.UNCONFIRMED
        if not again:
            security = CODE_FAMILIES[code] is CodeFamily.SECURITY
            barred = barring(record, code, metadata=record.metadata if security else None)
        changes: dict[str, Any] = {"soak": self.soak} if record.state is UpdateState.UNCONFIRMED else {}
        self.move(UpdateTrigger.FAILED, now, code=code, text=text, attempts=attempts, barred=barred, boots=0, **changes)
        self.retry_s = now.monotonic_s + self.pause_s() if again else None

    def refuse(self, code: UpdateCode, text: str, now: Moment) -> None:
        """What was being fetched must not be installed."""
        security = CODE_FAMILIES[code] is CodeFamily.SECURITY
        barred = barring(self.record, code, metadata=self.record.metadata) if security else self.record.barred
        self.move(UpdateTrigger.REFUSED, now, code=code, text=text, barred=barred, attempts=0)

    def stop(self, code: UpdateCode, text: str, now: Moment) -> None:
        """One of the two, as the code asks for."""
        if CODE_FAMILIES[code] is CodeFamily.SECURITY or code is UpdateCode.STALE:
            self.refuse(code, text, now)
        else:
            self.fail(code, text, now)

    def passing(self, code: UpdateCode | None) -> bool:
        """Whether a failure with this code is followed by another attempt."""
        retryable = code is not None and CODE_FAMILIES[code] is CodeFamily.RETRYABLE
        return retryable and self.record.attempts < self.settings.max_attempts

    def pause_s(self) -> float:
        """How long before the next attempt."""
        doubled_s = self.settings.retry_first_s * 2.0 ** min(max(self.record.attempts - 1, 0), 16)
        return min(doubled_s, self.settings.retry_last_s)

    # --- small ------------------------------------------------------------------------------------------------------

    def is_candidate(self, key: Key) -> bool:
        """Whether this release is under way."""
        release = self.record.candidate
        return release is not None and key == (release.digest, release.counter)

    def note(self, code: NoteCode, text: str) -> None:
        """What is worth a counter and a line in the log."""
        self.out.append(Note(code, text))

    def late(self, what: str) -> None:
        """An answer that nobody waits for any more."""
        self.note(NoteCode.ANSWER_LATE, f"{what} for a release that is not wanted any more")
