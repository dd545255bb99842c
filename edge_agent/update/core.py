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
from typing import assert_never

from edge_agent.moment import Moment
from edge_agent.update.arriving import Arriving
from edge_agent.update.proving import Proving
from edge_agent.update.record import Hold, UpdateRecord
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.stand import Stand
from edge_agent.update.states import RESTING
from edge_agent.update.traffic import (
    Action,
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
    NotInUse,
    Prepared,
    Soaked,
    Started,
    StepsKept,
    Tick,
    TrialEnded,
    TrustNotTaken,
    TrustTaken,
    Try,
)
from edge_agent.update.wanting import Wanting
from fleet.contract.messages import SoakFigures, UpdateState


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the delivery is."""

    chunks: int
    missing: int


class UpdateCore:
    """One device's model: hands each event to the part that owns it, and does what each state asks for.

    `stand`: the record and how it moves on; `wanting`: what is wanted and trusted; `arriving`: the delivery;
    `proving`: turn, trial and soak.

    Args:
        record: as it was saved.
        settings: times and limits.
    """

    def __init__(self, record: UpdateRecord, settings: UpdateSettings) -> None:
        self._stand = Stand(record, settings, self._entered)
        self._arriving = Arriving(self._stand)
        self._proving = Proving(self._stand)
        self._wanting = Wanting(self._stand, self._proving)

    # --- what others see --------------------------------------------------------------------------------------------

    @property
    def record(self) -> UpdateRecord:
        """As it is now."""
        return self._stand.record

    @property
    def soak(self) -> SoakFigures | None:
        """Live figures of the model that proves itself."""
        return self._stand.soak

    @property
    def soak_text(self) -> str:
        """What is still missing, in words."""
        return self._proving.soak_text

    @property
    def progress(self) -> Progress | None:
        """Of the delivery under way; None when nothing is delivered or nothing is known yet."""
        release = self.record.candidate
        missing = self._arriving.delivery.missing
        if release is None or missing is None or self.record.state is UpdateState.UNCONFIRMED:
            return None
        return Progress(len({chunk.sha256 for chunk in release.chunks}), len(missing))

    @property
    def chunks_wanted(self) -> frozenset[str]:
        """Chunks that are waited for."""
        return frozenset(self._arriving.delivery.missing or ())

    def handle(self, event: Event, now: Moment) -> list[Action]:
        """Takes one event; the actions are to be carried out in order before the next event."""
        self._stand.out = []
        self._take(event, now)
        return self._stand.out

    def _take(self, event: Event, now: Moment) -> None:
        match event:
            case Started():
                self._started(now)
            case Tick():
                self._tick(event, now)
            case LinkChanged():
                self._stand.link = event.up
                self._wanting.linked(now)
                self._arriving.link_changed(event.up, now)
            case TrustTaken():
                self._wanting.trust(event, now)
            case TrustNotTaken():
                self._wanting.trust_refused(event, now)
            case DesiredTaken():
                self._wanting.desired(event.desired, now)
            case DesiredNotTaken():
                self._wanting.desired_refused(event, now)
            case Prepared():
                self._arriving.prepared(event, now)
            case NoRoom():
                self._arriving.no_room(event, now)
            case ChunkStored():
                self._arriving.chunk(event.sha256, now)
            case ChunkFalse():
                self._arriving.chunk_false(event.sha256, now)
            case ChunkForeign():
                self._arriving.chunk_foreign(event.sha256, now)
            case Assembled() | AssemblyFailed():
                self._arriving.assembled(event, now)
            case TrialEnded():
                self._proving.trial_ended(event, now)
            case InUse():
                self._proving.in_use(event, now)
            case NotInUse():
                self._proving.not_in_use(event, now)
            case Soaked():
                self._proving.soaked(event, now)
            case StepsKept():
                self._steps_kept(event.number)
            case _:
                assert_never(event)

    # --- acting -----------------------------------------------------------------------------------------------------

    def _entered(self, before: UpdateRecord, now: Moment) -> None:
        self._arriving.left(before, now)
        self._act(now)

    def _act(self, now: Moment) -> None:
        """What the state asks for; repeated at a start."""
        record, out = self.record, self._stand.out
        if record.state in RESTING:
            self._arriving.forget()
            self._proving.forget()
            passing = record.state is UpdateState.FAILED and self._stand.passing(record.code)
            chunks = passing or record.state is UpdateState.SUPERSEDED
            out += [FollowChunks(False), Collect(record.kept, chunks)]
            return
        assert record.candidate is not None
        match record.state:
            case UpdateState.DOWNLOADING:
                self._proving.not_due()
                self._arriving.begin(record.candidate, now)
            case UpdateState.VERIFIED:
                out.append(Collect(record.kept, chunks=False))
                self._proving.maybe_activate(now)
            case UpdateState.TRIAL:
                out.append(Try(record.candidate))
            case UpdateState.UNCONFIRMED:
                self._proving.soak(record.candidate)
            case _:
                pass

    def _started(self, now: Moment) -> None:
        stand = self._stand
        stand.since_s = now.monotonic_s
        if stand.record.untold:
            stand.out.append(KeepSteps(stand.record))
        if stand.record.state is UpdateState.FAILED and stand.passing(stand.record.code):
            stand.retry_s = now.monotonic_s + stand.pause_s()
        self._act(now)
        self._wanting.consider(now)

    def _steps_kept(self, number: int) -> None:
        untold = tuple(told for told in self.record.untold if told.number > number)
        # Saved with the next change: until then a start tells the same steps again, and the store knows their numbers.
        self._stand.record = self.record.model_copy(update={"untold": untold})

    def _tick(self, event: Tick, now: Moment) -> None:
        stand = self._stand
        self._proving.reading = event.reading
        waited_s = now.monotonic_s - stand.since_s
        match stand.record.state:
            case UpdateState.DOWNLOADING:
                self._arriving.tick_downloading(now)
            case UpdateState.WAITING if stand.record.hold is Hold.SPACE:
                self._arriving.tick_space(waited_s, now)
            case UpdateState.WAITING if stand.record.hold is Hold.BUSY:
                self._proving.tick_busy(now)
            case UpdateState.VERIFIED:
                self._proving.maybe_activate(now)
            case UpdateState.TRIAL:
                self._proving.tick_trial(waited_s, now)
            case UpdateState.UNCONFIRMED:
                self._proving.tick_soak(waited_s, now)
            case UpdateState.FAILED:
                if stand.retry_s is not None and now.monotonic_s >= stand.retry_s:
                    stand.retry_s = None
                    self._wanting.consider(now)
            case state if state in RESTING and self._wanting.may_restore(now):
                self._wanting.consider(now)
            case _:
                pass
        self._wanting.tick(now)
