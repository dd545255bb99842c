"""The release that is here: when its turn has come, its trial, and whether the live fields speak for it.

Pure; used by the core alone.
"""

from __future__ import annotations

from edge_agent.moment import Moment
from edge_agent.update.record import Hold, Model, confirmed_by_soak, lost
from edge_agent.update.soak import Verdict, judge
from edge_agent.update.stand import Stand
from edge_agent.update.states import UpdateTrigger
from edge_agent.update.traffic import InUse, NotInUse, Soaked, TrialEnded, Use
from fleet.contract.base import ClockQuality
from fleet.contract.messages import Activation, UpdateState
from fleet.contract.release import ReleaseTarget, UpdateCode

TRIAL_GRACE_S = 30.0
STEADY_S = 300.0
"""An unconfirmed model that has run for so long since a start did not bring the agent down."""


class Proving:
    """See the module.

    Attributes:
        reading: whether a slide is being read at this moment.
        soak_text: what is still missing, in words.
    """

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._due_s: float | None = None
        self._soak_s: float | None = None
        self.reading = False
        self.soak_text = ""

    def not_due(self) -> None:
        """A release that is still on its way has no turn."""
        self._due_s = None

    def forget(self) -> None:
        """Nothing is under way."""
        self._soak_s = None

    def tick_busy(self, now: Moment) -> None:
        """It waits for the slide no longer than it must."""
        if not (self.may_activate(now) and self.must_wait(now)):
            self._stand.move(UpdateTrigger.FREED, now)

    def tick_trial(self, waited_s: float, now: Moment) -> None:
        """The trial ends by itself; this is for the case that it does not."""
        if waited_s > self._stand.settings.trial_timeout_s + TRIAL_GRACE_S:
            self._stand.fail(UpdateCode.TIMEOUT, "the trial did not end", now)

    def tick_soak(self, waited_s: float, now: Moment) -> None:
        """Too little evidence for too long is never a pass."""
        if waited_s > self._stand.settings.soak_limit_s:
            self._stand.fail(UpdateCode.TIMEOUT, f"not enough evidence: {self.soak_text}", now)
        elif waited_s >= STEADY_S:
            self.steady()

    def soak(self, release: ReleaseTarget) -> None:
        """The release answers, beside the model before; also after a start."""
        self._soak_s, self._stand.soak = None, None
        self._stand.out.append(Use(Model.of(release), shadow=self._stand.record.confirmed))

    def may_activate(self, now: Moment, *, known: bool = False) -> bool:
        """Whether it is this device's turn; `known`: the model has proved itself here before."""
        wanted = self._stand.record.desired
        if wanted is None or wanted.activation is not Activation.ACTIVATE:
            return False
        if now.quality is not ClockQuality.UNSYNCED:
            if wanted.not_before is not None and now.utc < wanted.not_before:
                return False
            if wanted.not_after is not None and now.utc > wanted.not_after:
                return False
        return known or self._stand.signed is not None

    def maybe_activate(self, now: Moment) -> None:
        """What is verified goes on trial if it is its turn, waits for the slide, or has missed its list's time."""
        if self._stand.expired is not None:  # no list is known since the start but one that is over
            self._stand.refuse(UpdateCode.STALE, self._stand.expired.text, now)
            return
        if not self.may_activate(now):
            self._due_s = None
            return
        if self._stand.signed is not None and self._stand.signed.expired(now):
            self._stand.refuse(UpdateCode.STALE, "the signed list has expired", now)
        elif self.must_wait(now):
            self._stand.move(UpdateTrigger.HELD, now, hold=Hold.BUSY, text="a slide is being read")
        else:
            self._stand.move(UpdateTrigger.ACTIVATED, now, boots=0)

    def must_wait(self, now: Moment) -> bool:
        """Whether a slide is being read, and has not been waited for long enough since the update was due."""
        if self._due_s is None:
            self._due_s = now.monotonic_s
        return self.reading and now.monotonic_s - self._due_s < self._stand.settings.wait_for_slide_s

    def trial_ended(self, event: TrialEnded, now: Moment) -> None:
        """The self-test in a process of its own has said its word."""
        if self._stand.record.state is not UpdateState.TRIAL or not self._stand.is_candidate(event.key):
            return self._stand.late("a trial ended")
        if event.code is not None:
            return self._stand.fail(event.code, event.text, now)
        return self._stand.move(UpdateTrigger.PASSED, now, boots=0, text=event.text)

    def in_use(self, event: InUse, now: Moment) -> None:
        """The model answers: from now on its soak is counted."""
        if self._stand.record.state is UpdateState.UNCONFIRMED and self._stand.is_candidate(event.key):
            self._soak_s = now.monotonic_s

    def not_in_use(self, event: NotInUse, now: Moment) -> None:
        """A model could not be opened: a new one has failed, of a proven one the one before takes its place."""
        record = self._stand.record
        if record.state is UpdateState.UNCONFIRMED and self._stand.is_candidate(event.key):
            self._stand.fail(event.code, event.text, now)
        elif event.key == record.confirmed.key and record.previous is not None:
            self._stand.enter(lost(record, record.previous, at=now.utc, code=event.code, text=event.text), now)

    def soaked(self, event: Soaked, now: Moment) -> None:
        """Judges what both models have shown so far."""
        if self._stand.record.state is not UpdateState.UNCONFIRMED or not self._stand.is_candidate(event.key):
            return
        self._stand.soak = event.evidence.figures()
        if event.evidence.fields:
            self.steady()
        if self._soak_s is None:
            return
        verdict, self.soak_text = judge(event.evidence, self._stand.settings, elapsed_s=now.monotonic_s - self._soak_s)
        if verdict is Verdict.BAD:
            self._stand.fail(UpdateCode.QUALITY, self.soak_text, now)
        elif verdict is Verdict.GOOD:
            self._stand.enter(confirmed_by_soak(self._stand.record, at=now.utc, soak=self._stand.soak), now)

    def steady(self) -> None:
        """This start was no crash: a workstation that is switched off says nothing against the model."""
        if self._stand.record.boots:
            self._stand.save(self._stand.record.model_copy(update={"boots": 0}))
