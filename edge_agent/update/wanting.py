"""What is wanted and what is trusted: where an update begins, ends early, or is refused before it began.

Pure; used by the core alone.
"""

from __future__ import annotations

from typing import Any

from edge_agent.moment import Moment
from edge_agent.update.offer import SignedList, judge_offer
from edge_agent.update.proving import Proving
from edge_agent.update.record import Key, Model, Refused, restored
from edge_agent.update.stand import Stand
from edge_agent.update.states import RESTING, UNDER_WAY, UpdateTrigger
from edge_agent.update.traffic import DesiredNotTaken, NoteCode, TrustNotTaken, TrustTaken
from fleet.contract.messages import Activation, Desired, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, ReleaseTarget, UpdateCode

WITHDRAWN = "the release is no longer in the signed list"


class Wanting:
    """See the module."""

    def __init__(self, stand: Stand, proving: Proving) -> None:
        self._stand = stand
        self._proving = proving
        self._older: TrustNotTaken | None = None
        self._trust_until_s: float | None = None

    def linked(self, now: Moment) -> None:
        """The broker sends trust and wish at each connection; before that nothing can be said of what is missing."""
        self._trust_until_s = now.monotonic_s + self._stand.settings.trust_wait_s if self._stand.link else None

    def tick(self, now: Moment) -> None:
        """Trust that was waited for has not come in time."""
        if not self._stand.link or self._trust_until_s is None or now.monotonic_s < self._trust_until_s:
            return
        self._trust_until_s = None
        waits = None if self._older is None else self._untaken(self._older)
        if self._older is not None and waits is not None:
            self._tell_untrusted(self._older, waits, now)
        else:
            self.consider(now)

    def desired(self, desired: Desired, now: Moment) -> None:
        """A wish whose signature is good; an older one than is known is passed over."""
        known = self._stand.record.desired
        if known is not None and desired.version < known.version:
            self._stand.note(NoteCode.DESIRED_OLD, f"version {desired.version}, known is {known.version}")
            return
        refused = self._stand.record.state is UpdateState.REJECTED and self._stand.record.refused is not None
        if known is not None and desired.version == known.version:
            if refused:  # another one had come in between
                self._stand.move(UpdateTrigger.CLEARED, now)
                self.consider(now, fresh=True)
            return
        other = known is None or (known.release, known.counter, known.rollout) != (
            desired.release,
            desired.counter,
            desired.rollout,
        )
        changes: dict[str, Any] = {"desired": desired}
        if other and self._stand.record.state in RESTING:
            changes["attempts"] = 0
            self._stand.retry_s = None
        self._stand.save(self._stand.record.model_copy(update=changes))
        if refused:
            self._stand.move(UpdateTrigger.CLEARED, now)
        self._trust_until_s = now.monotonic_s + self._stand.settings.trust_wait_s if self._stand.link else None
        self.consider(now, fresh=True)

    def trust(self, event: TrustTaken, now: Moment) -> None:
        """A signed list: what it no longer names is given up, what it names may begin."""
        self._stand.signed = SignedList(event.releases, event.metadata, event.expires, event.chunks)
        self._older = self._stand.expired = None
        record = self._stand.record
        candidate = record.candidate
        if record.state in (UpdateState.DOWNLOADING, UpdateState.WAITING, UpdateState.VERIFIED):
            assert candidate is not None
            if event.releases.get((candidate.digest, candidate.counter)) != candidate:
                self._stand.refuse(UpdateCode.STALE, WITHDRAWN, now)
        elif record.state in (UpdateState.TRIAL, UpdateState.UNCONFIRMED):
            assert candidate is not None
            if event.releases.get((candidate.digest, candidate.counter)) != candidate:
                soak = self._stand.soak if record.state is UpdateState.UNCONFIRMED else None
                self._stand.retry_s = None
                code = UpdateCode.STALE
                self._stand.move(UpdateTrigger.FAILED, now, code=code, text=WITHDRAWN, soak=soak, boots=0, attempts=0)
        elif record.state is UpdateState.REJECTED and record.about is None and record.refused is None:
            self._stand.move(UpdateTrigger.CLEARED, now)
        self.consider(now, fresh=True)

    def trust_refused(self, event: TrustNotTaken, now: Moment) -> None:
        """Told where something is to be installed, or where it smells of an attack."""
        self._stand.note(NoteCode.TRUST_REFUSED, f"{event.code.value}: {event.text}")
        waits = self._untaken(event)
        if event.code is UpdateCode.ROLLBACK:
            # A broker that came back with what it had kept, or a replay: told only where a wish waits for newer trust.
            self._older = event
            if self._trust_until_s is None and (waits is not None or self._wants_another()):
                self._trust_until_s = now.monotonic_s + self._stand.settings.trust_wait_s
            return
        if event.code is UpdateCode.STALE and self._stand.signed is None:
            self._stand.expired = event
            if self._stand.record.state is UpdateState.VERIFIED:
                self._proving.maybe_activate(now)
                return
        if CODE_FAMILIES[event.code] is not CodeFamily.SECURITY and waits is None and not self._wants_another():
            return  # what has expired stops installing, and nothing is to be installed
        self._tell_untrusted(event, waits, now)

    def _tell_untrusted(self, event: TrustNotTaken, waits: Desired | None, now: Moment) -> None:
        if waits is None:
            self._not_taken(event.code, event.text, now)
        else:
            refused = Refused(wish=event.wish, rollout=waits.rollout)
            self._not_taken(event.code, event.text, now, about=_model_of(waits), refused=refused)

    def desired_refused(self, event: DesiredNotTaken, now: Moment) -> None:
        """The rollout of the wish before must not answer for it."""
        self._stand.note(NoteCode.DESIRED_REFUSED, f"{event.code.value}: {event.text}")
        self._not_taken(event.code, event.text, now, refused=Refused(wish=event.wish))

    def _not_taken(
        self,
        code: UpdateCode,
        text: str,
        now: Moment,
        *,
        about: Model | None = None,
        refused: Refused | None = None,
    ) -> None:
        """Bad metadata or a bad wish: shown when nothing is under way, which earlier good metadata have started."""
        record = self._stand.record
        told = record.state is UpdateState.REJECTED and record.code is code
        if record.state in UNDER_WAY or (told and refused in (None, record.refused)):
            return
        self._stand.move(UpdateTrigger.REFUSED, now, code=code, text=text, about=about, refused=refused)

    def _untaken(self, event: TrustNotTaken) -> Desired | None:
        """The wish that waits for trust, if it is a new one and asks for something to be installed."""
        waits, known = event.waits, self._stand.record.desired
        if waits is None or (known is not None and waits.version <= known.version):
            return None
        about = _model_of(waits)
        return None if about is None or about.key == self._stand.record.confirmed.key else waits

    def consider(self, now: Moment, *, fresh: bool = False) -> None:
        """Compares what is wanted with what is; the one place where an update begins, ends early or is refused.

        Args:
            fresh: something new is known, so that what was refused may be looked at again.
        """
        wanted = self._stand.record.desired
        if wanted is None:
            return
        key = None if wanted.release is None else (wanted.release, wanted.counter)
        if self._stand.record.candidate is not None:
            candidate = Model.of(self._stand.record.candidate)
            if key == candidate.key:
                if self._stand.record.state is UpdateState.VERIFIED:
                    self._proving.maybe_activate(now)
                return
            back = key is None or key == self._stand.record.confirmed.key
            trigger = UpdateTrigger.CANCELLED if back else UpdateTrigger.SUPERSEDED
            text = "no longer wanted" if back else "another release is wanted"
            self._stand.move(trigger, now, text=text, boots=0, attempts=0)
            if back:
                return
        if key is None or (self._stand.record.state is UpdateState.FAILED and not self._retry_now(key, fresh=fresh)):
            return
        if key == self._stand.record.confirmed.key:
            if self._stand.record.state is not UpdateState.CONFIRMED and self._stand.record.refused is None:
                self._stand.move(UpdateTrigger.IN_PLACE, now)
        elif self.may_restore(now):
            self._stand.enter(restored(self._stand.record, at=now.utc), now)
        elif not self._is_previous(key) or wanted.activation is not Activation.ACTIVATE or self._withdrawn(key):
            self._begin(key, now)

    def _retry_now(self, key: Key, *, fresh: bool) -> bool:
        """After a failure: the same release only when its pause is over, any other at once."""
        about = self._stand.record.about
        if about is None or about.key != key:
            return True
        return self._stand.retry_s is None and (not fresh or self._stand.record.attempts == 0)

    def _wants_another(self) -> bool:
        wanted = self._stand.record.desired
        return (
            wanted is not None
            and wanted.release is not None
            and ((wanted.release, wanted.counter) != self._stand.record.confirmed.key)
        )

    def may_restore(self, now: Moment) -> bool:
        """Whether the model before is what is wanted, and it is time."""
        wanted = self._stand.record.desired
        if wanted is None or wanted.release is None or not self._is_previous((wanted.release, wanted.counter)):
            return False
        return not self._withdrawn((wanted.release, wanted.counter)) and self._proving.may_activate(now, known=True)

    def _withdrawn(self, key: Key) -> bool:
        """Whether a list is known, and it does not name the release."""
        return self._stand.signed is not None and key not in self._stand.signed.releases

    def _is_previous(self, key: Key) -> bool:
        return self._stand.record.previous is not None and key == self._stand.record.previous.key

    def _begin(self, key: Key, now: Moment) -> None:
        offer = judge_offer(self._stand.record, key, self._stand.signed, now)
        if isinstance(offer, ReleaseTarget):
            self._trust_until_s = None
            metadata = "" if self._stand.signed is None else self._stand.signed.metadata
            self._stand.move(
                UpdateTrigger.WANTED, now, candidate=offer, metadata=metadata, boots=0, soak=None, disturbed=()
            )
            return
        if offer.barred:
            self._stand.note(NoteCode.BARRED, f"release {key[1]}: {offer.code.value}")
        # Offline, or just connected: the list may be on its way.
        waiting = self._trust_until_s is not None and now.monotonic_s < self._trust_until_s
        if not (offer.passing and (waiting or not self._stand.link)):
            older = self._older if offer.passing else None
            self._refuse_wish(key, *((offer.code, offer.text) if older is None else (older.code, older.text)), now)

    def _refuse_wish(self, key: Key, code: UpdateCode, text: str, now: Moment) -> None:
        record = self._stand.record
        about = Model(digest=key[0], counter=key[1])
        told = record.about is not None and record.about.key == key and record.code is code
        if told and record.state in (UpdateState.REJECTED, UpdateState.FAILED, UpdateState.ROLLED_BACK):
            return
        self._stand.move(UpdateTrigger.REFUSED, now, code=code, text=text, about=about)


def _model_of(desired: Desired) -> Model | None:
    """The model that is wanted."""
    return None if desired.release is None else Model(digest=desired.release, counter=desired.counter)
