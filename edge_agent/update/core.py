"""The model update as a passive core: `handle(event, now) -> actions`. No thread, no clock, no file.

Obligations:
1. The record is saved before anything is done that it speaks of; every act may be repeated.
2. Only a release that the signed list names is fetched, and only while that list has not expired.
3. A lower version of the desired state and a counter below the floor are refused, whoever signs.
4. What stops an update for a passing reason is tried again, ever more rarely and not for ever; what is wrong with the
   release itself is not tried again in that rollout; what smells of an attack not until the signed list is another.
5. A model is believed in only on enough evidence; in doubt the last one that was believed in runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_agent.moment import Moment
from edge_agent.update.delivery import Delivery
from edge_agent.update.offer import SignedList, judge_offer
from edge_agent.update.record import (
    Hold,
    Key,
    Model,
    Refused,
    UpdateRecord,
    barring,
    confirmed_by_soak,
    disturbed,
    lost,
    moved,
    restored,
)
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.soak import Verdict, judge
from edge_agent.update.states import RESTING, UNDER_WAY, UpdateTrigger
from edge_agent.update.traffic import (
    Action,
    Ask,
    Assemble,
    Assembled,
    AssemblyFailed,
    ChunkFalse,
    ChunkForeign,
    ChunkStored,
    Collect,
    DesiredNotTaken,
    DesiredTaken,
    Event,
    FollowChunks,
    InUse,
    KeepSteps,
    LinkChanged,
    NoRoom,
    Note,
    NoteCode,
    NotInUse,
    Prepare,
    Prepared,
    Save,
    Soaked,
    Started,
    StepsKept,
    StopTrial,
    Tick,
    TrialEnded,
    TrustNotTaken,
    TrustTaken,
    Try,
    Use,
)
from fleet.contract.base import ClockQuality
from fleet.contract.messages import Activation, Desired, SoakFigures, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, ReleaseTarget, UpdateCode

TRIAL_GRACE_S = 30.0
STEADY_S = 300.0
"""An unconfirmed model that has run for so long since a start did not bring the agent down."""
WITHDRAWN = "the release is no longer in the signed list"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the delivery is."""

    chunks: int
    missing: int


class UpdateCore:
    """One device's model.

    Args:
        record: as it was saved.
        settings: times and limits.
    """

    def __init__(self, record: UpdateRecord, settings: UpdateSettings) -> None:
        self.record = record
        self._settings = settings
        self._signed: SignedList | None = None
        self._older: TrustNotTaken | None = None
        self._expired: TrustNotTaken | None = None
        self._delivery = Delivery(settings)
        self._link = False
        self._reading = False
        self._since_s = 0.0
        self._space_s = 0.0
        self._retry_s: float | None = None
        self._trust_until_s: float | None = None
        self._due_s: float | None = None
        self._soak_s: float | None = None
        self.soak: SoakFigures | None = None
        self.soak_text = ""
        self._out: list[Action] = []

    # --- what others see --------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress | None:
        """Of the delivery under way; None when nothing is delivered or nothing is known yet."""
        release = self.record.candidate
        missing = self._delivery.missing
        if release is None or missing is None or self.record.state is UpdateState.UNCONFIRMED:
            return None
        return Progress(len({chunk.sha256 for chunk in release.chunks}), len(missing))

    @property
    def chunks_wanted(self) -> frozenset[str]:
        """Chunks that are waited for."""
        return frozenset(self._delivery.missing or ())

    def handle(self, event: Event, now: Moment) -> list[Action]:
        """Takes one event; the actions are to be carried out in order before the next event."""
        self._out = []
        self._take(event, now)
        return self._out

    def _take(self, event: Event, now: Moment) -> None:
        match event:
            case Started():
                self._started(now)
            case Tick():
                self._tick(event, now)
            case LinkChanged():
                self._link_changed(event.up, now)
            case TrustTaken():
                self._trust(event, now)
            case TrustNotTaken():
                self._trust_refused(event, now)
            case DesiredTaken():
                self._desired(event.desired, now)
            case DesiredNotTaken():
                self._desired_refused(event, now)
            case Prepared():
                self._prepared(event, now)
            case NoRoom():
                self._no_room(event, now)
            case ChunkStored():
                self._chunk(event.sha256, now)
            case ChunkFalse():
                self._chunk_false(event.sha256, now)
            case ChunkForeign():
                self._chunk_foreign(event.sha256, now)
            case Assembled() | AssemblyFailed():
                self._assembled(event, now)
            case TrialEnded():
                self._trial_ended(event, now)
            case InUse():
                self._in_use(event, now)
            case NotInUse():
                self._not_in_use(event, now)
            case Soaked():
                self._soaked(event, now)
            case StepsKept():
                self._steps_kept(event.number)

    # --- saving, moving, acting -------------------------------------------------------------------------------------

    def _save(self, record: UpdateRecord) -> None:
        self.record = record
        self._out.append(Save(record))
        if record.untold:
            self._out.append(KeepSteps(record))

    def _move(self, trigger: UpdateTrigger, now: Moment, **changes: Any) -> None:
        """A transition: saved, then acted on."""
        self._enter(moved(self.record, trigger, at=now.utc, **changes), now)

    def _enter(self, record: UpdateRecord, now: Moment) -> None:
        before = self.record
        if before.state is UpdateState.DOWNLOADING:
            self._delivery.pause(now.monotonic_s)
        self._since_s = now.monotonic_s
        self._save(record)
        if before.state is UpdateState.TRIAL and record.state is not UpdateState.UNCONFIRMED:
            self._out.append(StopTrial())
        if before.state is UpdateState.UNCONFIRMED or record.confirmed != before.confirmed:
            self._out.append(Use(record.confirmed))
        self._act(now)

    def _act(self, now: Moment) -> None:
        """What the state asks for; repeated at a start."""
        record = self.record
        if record.state in RESTING:
            self._delivery, self._soak_s = Delivery(self._settings), None
            passing = record.state is UpdateState.FAILED and self._passing(record.code)
            chunks = passing or record.state is UpdateState.SUPERSEDED
            self._out += [FollowChunks(False), Collect(record.kept, chunks)]
            return
        assert record.candidate is not None
        match record.state:
            case UpdateState.DOWNLOADING:
                self._due_s = None
                self._delivery.go_on(now.monotonic_s)
                self._out.append(Prepare(record.candidate))
            case UpdateState.VERIFIED:
                self._out.append(Collect(record.kept, chunks=False))
                self._maybe_activate(now)
            case UpdateState.TRIAL:
                self._out.append(Try(record.candidate))
            case UpdateState.UNCONFIRMED:
                self._soak_s, self.soak = None, None
                self._out.append(Use(Model.of(record.candidate), shadow=record.confirmed))
            case _:
                pass

    def _started(self, now: Moment) -> None:
        self._since_s = now.monotonic_s
        if self.record.untold:
            self._out.append(KeepSteps(self.record))
        if self.record.state is UpdateState.FAILED and self._passing(self.record.code):
            self._retry_s = now.monotonic_s + self._pause_s()
        self._act(now)
        self._consider(now)

    def _steps_kept(self, number: int) -> None:
        untold = tuple(told for told in self.record.untold if told.number > number)
        # Saved with the next change: until then a start tells the same steps again, and the store knows their numbers.
        self.record = self.record.model_copy(update={"untold": untold})

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: Moment) -> None:
        self._reading = event.reading
        waited_s = now.monotonic_s - self._since_s
        match self.record.state:
            case UpdateState.DOWNLOADING:
                self._tick_downloading(now)
            case UpdateState.WAITING if self.record.hold is Hold.SPACE:
                self._tick_space(waited_s, now)
            case UpdateState.WAITING if self.record.hold is Hold.BUSY:
                if not (self._may_activate(now) and self._must_wait(now)):
                    self._move(UpdateTrigger.FREED, now)
            case UpdateState.VERIFIED:
                self._maybe_activate(now)
            case UpdateState.TRIAL:
                if waited_s > self._settings.trial_timeout_s + TRIAL_GRACE_S:
                    self._fail(UpdateCode.TIMEOUT, "the trial did not end", now)
            case UpdateState.UNCONFIRMED:
                if waited_s > self._settings.soak_limit_s:
                    self._fail(UpdateCode.TIMEOUT, f"not enough evidence: {self.soak_text}", now)
                elif waited_s >= STEADY_S:
                    self._steady()
            case UpdateState.FAILED:
                if self._retry_s is not None and now.monotonic_s >= self._retry_s:
                    self._retry_s = None
                    self._consider(now)
            case state if state in RESTING and self._may_restore(now):
                self._consider(now)
            case _:
                pass
        if self._link and self._trust_until_s is not None and now.monotonic_s >= self._trust_until_s:
            self._trust_until_s = None
            waits = None if self._older is None else self._untaken(self._older)
            if self._older is not None and waits is not None:
                self._tell_untrusted(self._older, waits, now)
            else:
                self._consider(now)

    def _tick_downloading(self, now: Moment) -> None:
        if not self._delivery.waits:
            return
        slow = self._delivery.too_slow(now.monotonic_s)
        if slow:
            self._fail(UpdateCode.SLOW, slow, now)
        elif self._delivery.ask_due(now.monotonic_s):
            self._ask(now)

    def _tick_space(self, waited_s: float, now: Moment) -> None:
        assert self.record.candidate is not None
        if waited_s > self._settings.download_deadline_s:
            self._fail(UpdateCode.SPACE, self.record.text, now)
        elif now.monotonic_s >= self._space_s:
            self._space_s = now.monotonic_s + self._settings.space_retry_s
            self._out.append(Prepare(self.record.candidate))

    # --- what is wanted ---------------------------------------------------------------------------------------------

    def _desired(self, desired: Desired, now: Moment) -> None:
        known = self.record.desired
        if known is not None and desired.version < known.version:
            self._out.append(Note(NoteCode.DESIRED_OLD, f"version {desired.version}, known is {known.version}"))
            return
        refused = self.record.state is UpdateState.REJECTED and self.record.refused is not None
        if known is not None and desired.version == known.version:
            if refused:  # another one had come in between
                self._move(UpdateTrigger.CLEARED, now)
                self._consider(now, fresh=True)
            return
        other = known is None or (known.release, known.counter, known.rollout) != (
            desired.release,
            desired.counter,
            desired.rollout,
        )
        changes: dict[str, Any] = {"desired": desired}
        if other and self.record.state in RESTING:
            changes["attempts"] = 0
            self._retry_s = None
        self._save(self.record.model_copy(update=changes))
        if refused:
            self._move(UpdateTrigger.CLEARED, now)
        self._trust_until_s = now.monotonic_s + self._settings.trust_wait_s if self._link else None
        self._consider(now, fresh=True)

    def _trust(self, event: TrustTaken, now: Moment) -> None:
        self._signed = SignedList(event.releases, event.metadata, event.expires)
        self._older = self._expired = None
        record = self.record
        candidate = record.candidate
        if record.state in (UpdateState.DOWNLOADING, UpdateState.WAITING, UpdateState.VERIFIED):
            assert candidate is not None
            if event.releases.get((candidate.digest, candidate.counter)) != candidate:
                self._refuse(UpdateCode.STALE, WITHDRAWN, now)
        elif record.state in (UpdateState.TRIAL, UpdateState.UNCONFIRMED):
            assert candidate is not None
            if event.releases.get((candidate.digest, candidate.counter)) != candidate:
                soak = self.soak if record.state is UpdateState.UNCONFIRMED else None
                self._retry_s = None
                code = UpdateCode.STALE
                self._move(UpdateTrigger.FAILED, now, code=code, text=WITHDRAWN, soak=soak, boots=0, attempts=0)
        elif record.state is UpdateState.REJECTED and record.about is None and record.refused is None:
            self._move(UpdateTrigger.CLEARED, now)
        self._consider(now, fresh=True)

    def _trust_refused(self, event: TrustNotTaken, now: Moment) -> None:
        self._out.append(Note(NoteCode.TRUST_REFUSED, f"{event.code.value}: {event.text}"))
        waits = self._untaken(event)
        if event.code is UpdateCode.ROLLBACK:
            # A broker that came back with what it had kept, or a replay: told only where a wish waits for newer trust.
            self._older = event
            if self._trust_until_s is None and (waits is not None or self._wants_another()):
                self._trust_until_s = now.monotonic_s + self._settings.trust_wait_s
            return
        if event.code is UpdateCode.STALE and self._signed is None:
            self._expired = event
            if self.record.state is UpdateState.VERIFIED:
                self._maybe_activate(now)
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

    def _desired_refused(self, event: DesiredNotTaken, now: Moment) -> None:
        """The rollout of the wish before must not answer for it."""
        self._out.append(Note(NoteCode.DESIRED_REFUSED, f"{event.code.value}: {event.text}"))
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
        record = self.record
        told = record.state is UpdateState.REJECTED and record.code is code
        if record.state in UNDER_WAY or (told and refused in (None, record.refused)):
            return
        self._move(UpdateTrigger.REFUSED, now, code=code, text=text, about=about, refused=refused)

    def _untaken(self, event: TrustNotTaken) -> Desired | None:
        """The wish that waits for trust, if it is a new one and asks for something to be installed."""
        waits, known = event.waits, self.record.desired
        if waits is None or (known is not None and waits.version <= known.version):
            return None
        about = _model_of(waits)
        return None if about is None or about.key == self.record.confirmed.key else waits

    def _consider(self, now: Moment, *, fresh: bool = False) -> None:
        """Compares what is wanted with what is; the one place where an update begins, ends early or is refused.

        Args:
            fresh: something new is known, so that what was refused may be looked at again.
        """
        wanted = self.record.desired
        if wanted is None:
            return
        key = None if wanted.release is None else (wanted.release, wanted.counter)
        if self.record.candidate is not None:
            candidate = Model.of(self.record.candidate)
            if key == candidate.key:
                if self.record.state is UpdateState.VERIFIED:
                    self._maybe_activate(now)
                return
            back = key is None or key == self.record.confirmed.key
            trigger = UpdateTrigger.CANCELLED if back else UpdateTrigger.SUPERSEDED
            text = "no longer wanted" if back else "another release is wanted"
            self._move(trigger, now, text=text, boots=0, attempts=0)
            if back:
                return
        if key is None or (self.record.state is UpdateState.FAILED and not self._retry_now(key, fresh=fresh)):
            return
        if key == self.record.confirmed.key:
            if self.record.state is not UpdateState.CONFIRMED and self.record.refused is None:
                self._move(UpdateTrigger.IN_PLACE, now)
        elif self._may_restore(now):
            self._enter(restored(self.record, at=now.utc), now)
        elif not self._is_previous(key) or wanted.activation is not Activation.ACTIVATE or self._withdrawn(key):
            self._begin(key, now)

    def _retry_now(self, key: Key, *, fresh: bool) -> bool:
        """After a failure: the same release only when its pause is over, any other at once."""
        about = self.record.about
        if about is None or about.key != key:
            return True
        return self._retry_s is None and (not fresh or self.record.attempts == 0)

    def _wants_another(self) -> bool:
        wanted = self.record.desired
        return (
            wanted is not None
            and wanted.release is not None
            and ((wanted.release, wanted.counter) != self.record.confirmed.key)
        )

    def _may_restore(self, now: Moment) -> bool:
        """Whether the model before is what is wanted, and it is time."""
        wanted = self.record.desired
        if wanted is None or wanted.release is None or not self._is_previous((wanted.release, wanted.counter)):
            return False
        return not self._withdrawn((wanted.release, wanted.counter)) and self._may_activate(now, known=True)

    def _withdrawn(self, key: Key) -> bool:
        """Whether a list is known, and it does not name the release."""
        return self._signed is not None and key not in self._signed.releases

    def _is_previous(self, key: Key) -> bool:
        return self.record.previous is not None and key == self.record.previous.key

    def _begin(self, key: Key, now: Moment) -> None:
        offer = judge_offer(self.record, key, self._signed, now)
        if isinstance(offer, ReleaseTarget):
            self._trust_until_s = None
            metadata = "" if self._signed is None else self._signed.metadata
            self._move(UpdateTrigger.WANTED, now, candidate=offer, metadata=metadata, boots=0, soak=None, disturbed=())
            return
        if offer.barred:
            self._out.append(Note(NoteCode.BARRED, f"release {key[1]}: {offer.code.value}"))
        # Offline, or just connected: the list may be on its way.
        waiting = self._trust_until_s is not None and now.monotonic_s < self._trust_until_s
        if not (offer.passing and (waiting or not self._link)):
            older = self._older if offer.passing else None
            self._refuse_wish(key, *((offer.code, offer.text) if older is None else (older.code, older.text)), now)

    def _refuse_wish(self, key: Key, code: UpdateCode, text: str, now: Moment) -> None:
        record = self.record
        about = Model(digest=key[0], counter=key[1])
        told = record.about is not None and record.about.key == key and record.code is code
        if told and record.state in (UpdateState.REJECTED, UpdateState.FAILED, UpdateState.ROLLED_BACK):
            return
        self._move(UpdateTrigger.REFUSED, now, code=code, text=text, about=about)

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def _fail(self, code: UpdateCode, text: str, now: Moment) -> None:
        """The candidate is given up, for now or for good."""
        record = self.record
        attempts = record.attempts + 1
        barred = record.barred
        again = self._passing(code) and attempts < self._settings.max_attempts
        again = again and record.state is not UpdateState.UNCONFIRMED
        if not again:
            security = CODE_FAMILIES[code] is CodeFamily.SECURITY
            barred = barring(record, code, metadata=record.metadata if security else None)
        changes: dict[str, Any] = {"soak": self.soak} if record.state is UpdateState.UNCONFIRMED else {}
        self._move(
            UpdateTrigger.FAILED, now, code=code, text=text, attempts=attempts, barred=barred, boots=0, **changes
        )
        self._retry_s = now.monotonic_s + self._pause_s() if again else None

    def _refuse(self, code: UpdateCode, text: str, now: Moment) -> None:
        """What was being fetched must not be installed."""
        security = CODE_FAMILIES[code] is CodeFamily.SECURITY
        barred = barring(self.record, code, metadata=self.record.metadata) if security else self.record.barred
        self._move(UpdateTrigger.REFUSED, now, code=code, text=text, barred=barred, attempts=0)

    def _stop(self, code: UpdateCode, text: str, now: Moment) -> None:
        if CODE_FAMILIES[code] is CodeFamily.SECURITY or code is UpdateCode.STALE:
            self._refuse(code, text, now)
        else:
            self._fail(code, text, now)

    def _passing(self, code: UpdateCode | None) -> bool:
        retryable = code is not None and CODE_FAMILIES[code] is CodeFamily.RETRYABLE
        return retryable and self.record.attempts < self._settings.max_attempts

    def _pause_s(self) -> float:
        doubled_s = self._settings.retry_first_s * 2.0 ** min(max(self.record.attempts - 1, 0), 16)
        return min(doubled_s, self._settings.retry_last_s)

    # --- delivery ---------------------------------------------------------------------------------------------------

    def _link_changed(self, up: bool, now: Moment) -> None:
        self._link = up
        # The broker sends trust and wish at each connection; before that nothing can be said of what is missing.
        self._trust_until_s = now.monotonic_s + self._settings.trust_wait_s if up else None
        record = self.record
        if up and record.state is UpdateState.WAITING and record.hold is Hold.LINK:
            self._move(UpdateTrigger.RESUMED, now)
        elif not up and record.state is UpdateState.DOWNLOADING and not self._delivery.assembling:
            self._move(UpdateTrigger.HELD, now, hold=Hold.LINK, text="no connection")

    def _prepared(self, event: Prepared, now: Moment) -> None:
        record = self.record
        release = record.candidate
        waits_for_room = record.state is UpdateState.WAITING and record.hold is Hold.SPACE
        if release is None or not self._is_candidate(event.key):
            return self._late("chunks were looked for")
        if waits_for_room:
            return self._move(UpdateTrigger.RESUMED, now)
        if record.state is not UpdateState.DOWNLOADING:
            return self._late("chunks were looked for")
        self._delivery.known(event.missing, now.monotonic_s)
        if not event.missing:
            self._whole(release)
        elif not self._link:
            self._move(UpdateTrigger.HELD, now, hold=Hold.LINK, text="no connection")
        else:
            self._out.append(FollowChunks(True))
            self._ask(now)
        return None

    def _no_room(self, event: NoRoom, now: Moment) -> None:
        if not self._is_candidate(event.key):
            return self._late("there was no room")
        self._space_s = now.monotonic_s + self._settings.space_retry_s
        if self.record.state is UpdateState.DOWNLOADING:
            self._out.append(FollowChunks(False))
            self._move(UpdateTrigger.HELD, now, hold=Hold.SPACE, text=event.text)
        return None

    def _ask(self, now: Moment) -> None:
        assert self.record.candidate is not None
        self._out.append(Ask(Model.of(self.record.candidate), self._delivery.ask(now.monotonic_s)))

    def _chunk(self, sha256: str, now: Moment) -> None:
        release = self.record.candidate
        if release is None or not self._delivery.arrived(sha256, now.monotonic_s):
            return
        if not self._delivery.missing and self.record.state is UpdateState.DOWNLOADING:
            self._whole(release)

    def _whole(self, release: ReleaseTarget) -> None:
        self._delivery.assembling = True
        self._out += [FollowChunks(False), Assemble(release)]

    def _chunk_false(self, sha256: str, now: Moment) -> None:
        self._out.append(Note(NoteCode.CHUNK_FALSE, sha256))
        if self.record.state is not UpdateState.DOWNLOADING:
            return
        self._disturbed(UpdateCode.HASH, f"{sha256[:12]} was not what its name says; it is asked for again", now)
        false = self._delivery.false()
        if false >= self._settings.max_bad_chunks:
            self._refuse(UpdateCode.HASH, f"{false} chunks were not what their names say", now)

    def _chunk_foreign(self, sha256: str, now: Moment) -> None:
        """Chunks are sent to all: one of another signed release is on its way to another device, or comes late."""
        if not self._delivery.waits or self._signed is None or sha256 in self._signed.chunks:
            return
        self._out.append(Note(NoteCode.CHUNK_UNSIGNED, sha256))
        if self.record.state is not UpdateState.DOWNLOADING:
            return
        self._disturbed(UpdateCode.CHUNK, f"{sha256[:12]} came, which belongs to nothing signed", now)
        unsigned = self._delivery.unsigned()
        if unsigned >= self._settings.max_bad_chunks:
            text = f"{unsigned} chunks that belong to nothing signed came in the place of those that were asked for"
            self._refuse(UpdateCode.CHUNK, text, now)

    def _disturbed(self, code: UpdateCode, text: str, now: Moment) -> None:
        if code not in self.record.disturbed:
            self._save(disturbed(self.record, at=now.utc, code=code, text=text))

    def _assembled(self, event: Assembled | AssemblyFailed, now: Moment) -> None:
        if self.record.state is not UpdateState.DOWNLOADING or not self._is_candidate(event.key):
            return self._late("the release was put together")
        self._delivery.assembling = False
        if isinstance(event, AssemblyFailed):
            return self._stop(event.code, event.text, now)
        return self._move(UpdateTrigger.DELIVERED, now)

    # --- activation -------------------------------------------------------------------------------------------------

    def _may_activate(self, now: Moment, *, known: bool = False) -> bool:
        """Whether it is this device's turn; `known`: the model has proved itself here before."""
        wanted = self.record.desired
        if wanted is None or wanted.activation is not Activation.ACTIVATE:
            return False
        if now.quality is not ClockQuality.UNSYNCED:
            if wanted.not_before is not None and now.utc < wanted.not_before:
                return False
            if wanted.not_after is not None and now.utc > wanted.not_after:
                return False
        return known or self._signed is not None

    def _maybe_activate(self, now: Moment) -> None:
        if self._expired is not None:  # no list is known since the start but one that is over
            self._refuse(UpdateCode.STALE, self._expired.text, now)
            return
        if not self._may_activate(now):
            self._due_s = None
            return
        if self._signed is not None and self._signed.expired(now):
            self._refuse(UpdateCode.STALE, "the signed list has expired", now)
        elif self._must_wait(now):
            self._move(UpdateTrigger.HELD, now, hold=Hold.BUSY, text="a slide is being read")
        else:
            self._move(UpdateTrigger.ACTIVATED, now, boots=0)

    def _must_wait(self, now: Moment) -> bool:
        """Whether a slide is being read, and has not been waited for long enough since the update was due."""
        if self._due_s is None:
            self._due_s = now.monotonic_s
        return self._reading and now.monotonic_s - self._due_s < self._settings.wait_for_slide_s

    def _trial_ended(self, event: TrialEnded, now: Moment) -> None:
        if self.record.state is not UpdateState.TRIAL or not self._is_candidate(event.key):
            return self._late("a trial ended")
        if event.code is not None:
            return self._fail(event.code, event.text, now)
        return self._move(UpdateTrigger.PASSED, now, boots=0, text=event.text)

    def _in_use(self, event: InUse, now: Moment) -> None:
        if self.record.state is UpdateState.UNCONFIRMED and self._is_candidate(event.key):
            self._soak_s = now.monotonic_s

    def _not_in_use(self, event: NotInUse, now: Moment) -> None:
        record = self.record
        if record.state is UpdateState.UNCONFIRMED and self._is_candidate(event.key):
            self._fail(event.code, event.text, now)
        elif event.key == record.confirmed.key and record.previous is not None:
            self._enter(lost(record, record.previous, at=now.utc, code=event.code, text=event.text), now)

    def _soaked(self, event: Soaked, now: Moment) -> None:
        if self.record.state is not UpdateState.UNCONFIRMED or not self._is_candidate(event.key):
            return
        self.soak = event.evidence.figures()
        if event.evidence.fields:
            self._steady()
        if self._soak_s is None:
            return
        verdict, self.soak_text = judge(event.evidence, self._settings, elapsed_s=now.monotonic_s - self._soak_s)
        if verdict is Verdict.BAD:
            self._fail(UpdateCode.QUALITY, self.soak_text, now)
        elif verdict is Verdict.GOOD:
            self._enter(confirmed_by_soak(self.record, at=now.utc, soak=self.soak), now)

    def _steady(self) -> None:
        """This start was no crash: a workstation that is switched off says nothing against the model."""
        if self.record.boots:
            self._save(self.record.model_copy(update={"boots": 0}))

    # --- small ------------------------------------------------------------------------------------------------------

    def _is_candidate(self, key: Key) -> bool:
        release = self.record.candidate
        return release is not None and key == (release.digest, release.counter)

    def _late(self, what: str) -> None:
        self._out.append(Note(NoteCode.ANSWER_LATE, f"{what} for a release that is not wanted any more"))


def _model_of(desired: Desired) -> Model | None:
    """The model that is wanted."""
    return None if desired.release is None else Model(digest=desired.release, counter=desired.counter)
