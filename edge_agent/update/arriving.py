"""The release on its way to this device: what is missing is asked for, what arrives is counted, the whole put together.

Pure; used by the core alone.
"""

from __future__ import annotations

from edge_agent.moment import Moment
from edge_agent.update.delivery import Delivery
from edge_agent.update.record import Hold, Model, UpdateRecord, disturbed
from edge_agent.update.stand import Stand
from edge_agent.update.states import UpdateTrigger
from edge_agent.update.traffic import (
    Ask,
    Assemble,
    Assembled,
    AssemblyFailed,
    FollowChunks,
    NoRoom,
    NoteCode,
    Prepare,
    Prepared,
)
from fleet.contract.messages import UpdateState
from fleet.contract.release import ReleaseTarget, UpdateCode


class Arriving:
    """See the module.

    Attributes:
        delivery: of the release under way.
    """

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._space_s = 0.0
        self.delivery = Delivery(stand.settings)

    def begin(self, release: ReleaseTarget, now: Moment) -> None:
        """It begins, or goes on after a pause or a start."""
        self.delivery.go_on(now.monotonic_s)
        self._stand.out.append(Prepare(release))

    def left(self, before: UpdateRecord, now: Moment) -> None:
        """Another state was reached: time in it is no time of the delivery."""
        if before.state is UpdateState.DOWNLOADING:
            self.delivery.pause(now.monotonic_s)

    def forget(self) -> None:
        """Nothing is under way."""
        self.delivery = Delivery(self._stand.settings)

    def tick_downloading(self, now: Moment) -> None:
        """What is missing is asked for again, or is given up as too slow."""
        if not self.delivery.waits:
            return
        slow = self.delivery.too_slow(now.monotonic_s)
        if slow:
            self._stand.fail(UpdateCode.SLOW, slow, now)
        elif self.delivery.ask_due(now.monotonic_s):
            self._ask(now)

    def tick_space(self, waited_s: float, now: Moment) -> None:
        """Room on the disk is looked for again, or given up."""
        assert self._stand.record.candidate is not None
        if waited_s > self._stand.settings.download_deadline_s:
            self._stand.fail(UpdateCode.SPACE, self._stand.record.text, now)
        elif now.monotonic_s >= self._space_s:
            self._space_s = now.monotonic_s + self._stand.settings.space_retry_s
            self._stand.out.append(Prepare(self._stand.record.candidate))

    def link_changed(self, up: bool, now: Moment) -> None:
        """Without a connection nothing arrives, and time does not count."""
        record = self._stand.record
        if up and record.state is UpdateState.WAITING and record.hold is Hold.LINK:
            self._stand.move(UpdateTrigger.RESUMED, now)
        elif not up and record.state is UpdateState.DOWNLOADING and not self.delivery.assembling:
            self._stand.move(UpdateTrigger.HELD, now, hold=Hold.LINK, text="no connection")

    def prepared(self, event: Prepared, now: Moment) -> None:
        """It is known which chunks are not here."""
        record = self._stand.record
        release = record.candidate
        waits_for_room = record.state is UpdateState.WAITING and record.hold is Hold.SPACE
        if release is None or not self._stand.is_candidate(event.key):
            return self._stand.late("chunks were looked for")
        if waits_for_room:
            return self._stand.move(UpdateTrigger.RESUMED, now)
        if record.state is not UpdateState.DOWNLOADING:
            return self._stand.late("chunks were looked for")
        self.delivery.known(event.missing, now.monotonic_s)
        if not event.missing:
            self._whole(release)
        elif not self._stand.link:
            self._stand.move(UpdateTrigger.HELD, now, hold=Hold.LINK, text="no connection")
        else:
            self._stand.out.append(FollowChunks(True))
            self._ask(now)
        return None

    def no_room(self, event: NoRoom, now: Moment) -> None:
        """The disk is full."""
        if not self._stand.is_candidate(event.key):
            return self._stand.late("there was no room")
        self._space_s = now.monotonic_s + self._stand.settings.space_retry_s
        if self._stand.record.state is UpdateState.DOWNLOADING:
            self._stand.out.append(FollowChunks(False))
            self._stand.move(UpdateTrigger.HELD, now, hold=Hold.SPACE, text=event.text)
        return None

    def _ask(self, now: Moment) -> None:
        assert self._stand.record.candidate is not None
        self._stand.out.append(Ask(Model.of(self._stand.record.candidate), self.delivery.ask(now.monotonic_s)))

    def chunk(self, sha256: str, now: Moment) -> None:
        """A chunk lies on the disk."""
        release = self._stand.record.candidate
        if release is None or not self.delivery.arrived(sha256, now.monotonic_s):
            return
        if not self.delivery.missing and self._stand.record.state is UpdateState.DOWNLOADING:
            self._whole(release)

    def _whole(self, release: ReleaseTarget) -> None:
        self.delivery.assembling = True
        self._stand.out += [FollowChunks(False), Assemble(release)]

    def chunk_false(self, sha256: str, now: Moment) -> None:
        """Passed over and asked for again, so many times."""
        self._stand.note(NoteCode.CHUNK_FALSE, sha256)
        if self._stand.record.state is not UpdateState.DOWNLOADING:
            return
        self._disturbed(UpdateCode.HASH, f"{sha256[:12]} was not what its name says; it is asked for again", now)
        false = self.delivery.false()
        if false >= self._stand.settings.max_bad_chunks:
            self._stand.refuse(UpdateCode.HASH, f"{false} chunks were not what their names say", now)

    def chunk_foreign(self, sha256: str, now: Moment) -> None:
        """Chunks are sent to all: one of another signed release is on its way to another device, or comes late."""
        if not self.delivery.waits or self._stand.signed is None or sha256 in self._stand.signed.chunks:
            return
        self._stand.note(NoteCode.CHUNK_UNSIGNED, sha256)
        if self._stand.record.state is not UpdateState.DOWNLOADING:
            return
        self._disturbed(UpdateCode.CHUNK, f"{sha256[:12]} came, which belongs to nothing signed", now)
        unsigned = self.delivery.unsigned()
        if unsigned >= self._stand.settings.max_bad_chunks:
            text = f"{unsigned} chunks that belong to nothing signed came in the place of those that were asked for"
            self._stand.refuse(UpdateCode.CHUNK, text, now)

    def _disturbed(self, code: UpdateCode, text: str, now: Moment) -> None:
        if code not in self._stand.record.disturbed:
            self._stand.save(disturbed(self._stand.record, at=now.utc, code=code, text=text))

    def assembled(self, event: Assembled | AssemblyFailed, now: Moment) -> None:
        """The whole is verified and in its slot, or is not to be used."""
        if self._stand.record.state is not UpdateState.DOWNLOADING or not self._stand.is_candidate(event.key):
            return self._stand.late("the release was put together")
        self.delivery.assembling = False
        if isinstance(event, AssemblyFailed):
            return self._stand.stop(event.code, event.text, now)
        return self._stand.move(UpdateTrigger.DELIVERED, now)
