"""An update core with a disk, a broker and a model that do as they are told, stepped by hand."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from edge_agent.moment import Moment
from edge_agent.update.core import UpdateCore
from edge_agent.update.record import Key, Model, UpdateRecord
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.soak import Evidence
from edge_agent.update.traffic import (
    Action,
    Ask,
    Assemble,
    Assembled,
    AssemblyFailed,
    ChunkStored,
    Collect,
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
    TrustTaken,
    Try,
    Use,
)
from fleet.contract.base import ClockQuality
from fleet.contract.messages import Activation, Desired, UpdateState
from fleet.contract.release import ChunkRef, ReleaseTarget, UpdateCode
from tests.unit.edge.edge_builders import DEVICE, START

T = TypeVar("T")

SETTINGS = UpdateSettings(
    soak_fields=4,
    soak_s=10.0,
    min_white_cells=4,
    chunk_timeout_s=60.0,
    download_deadline_s=300.0,
    need_first_s=5.0,
    need_last_s=20.0,
    trust_wait_s=30.0,
    wait_for_slide_s=100.0,
    trial_timeout_s=50.0,
    max_attempts=3,
    retry_first_s=40.0,
    max_bad_chunks=3,
    max_boots=2,
    soak_limit_s=1000.0,
    space_retry_s=20.0,
)


def release(counter: int, *, chunks: int = 3, schema: str = "ahs.bundle/1", shared: str = "") -> ReleaseTarget:
    """Release `counter`: its digest and chunks are named after it."""
    names = [f"{counter:02x}{n:02x}".ljust(64, "0") for n in range(chunks)]
    if shared:
        names[0] = shared
    return ReleaseTarget(
        digest=f"sha256:{counter:064x}",
        name="blobs",
        version=f"1.{counter}.0",
        counter=counter,
        bundle_schema=schema,
        size_bytes=10 * chunks,
        chunks=tuple(ChunkRef(sha256=name, size_bytes=10) for name in names),
        created_at=START,
        checked=True,
    )


def key(target: ReleaseTarget) -> Key:
    return target.digest, target.counter


def model(counter: int) -> Model:
    return Model.of(release(counter))


def good_evidence(fields: int = 4, *, differ: int = 0, **more: Any) -> Evidence:
    """Fields with two white cells each, read alike unless told otherwise."""
    cells = 2 * fields
    evidence = Evidence(
        fields=fields, seen=cells, both_named=cells, differ=differ, new_white=cells, old_white=cells,
    )  # fmt: skip
    evidence.new_ms.extend([10.0] * fields)
    evidence.old_ms.extend([10.0] * fields)
    return replace(evidence, **more)


@dataclass
class Disk:
    """What lies there: survives a restart. `faults` are answers that come instead of success, in order."""

    saved: UpdateRecord
    chunks: set[str] = field(default_factory=set)
    slots: set[Key] = field(default_factory=set)
    steps: list[tuple[int, str]] = field(default_factory=list)
    faults: dict[str, deque[Any]] = field(default_factory=dict)

    def fault(self, act: str) -> Any:
        waiting = self.faults.get(act)
        return waiting.popleft() if waiting else None


class Killed(Exception):
    """The process ended here."""


class UpdateBench:
    """See the module.

    Args:
        disk: of an earlier bench, for a restart; else release 1 is confirmed, installed by the factory.
        kill_at_save: the process is killed right after the n-th save from now, before anything else.
    """

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        settings: UpdateSettings = SETTINGS,
        kill_at_save: int | None = None,
        at_s: float = 0.0,
    ) -> None:
        first = UpdateRecord(confirmed=model(1), floor=1, journal="journal-1")
        self.disk = disk or Disk(first, slots={model(1).key})
        self.core = UpdateCore(self.disk.saved, settings)
        self.at_s = at_s
        self.quality = ClockQuality.OK
        self.done: list[Action] = []
        self.following = False
        self.asked: list[tuple[str, ...]] = []
        self.trial: TrialEnded | None = None
        self.trying: Model | None = None
        self.auto_trial = True
        self.in_use: tuple[Model, Model | None] = (self.disk.saved.running, None)
        self.reading = False
        self._kill = kill_at_save
        self.saves = 0
        self.sees: list[UpdateState] = []
        self.unread: frozenset[str] = frozenset()

    # --- what happens -----------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> list[Action]:
        found: list[Action] = []
        waiting: deque[Event] = deque([event])
        while waiting:
            now = Moment(1000.0 + self.at_s, START + timedelta(seconds=self.at_s), self.quality)
            for action in self.core.handle(waiting.popleft(), now):
                found.append(action)
                answer = self._act(action)
                if answer is not None:
                    waiting.append(answer)
        self.done += found
        return found

    def start(self, *, link: bool = True) -> UpdateBench:
        self.tell(Started())
        if link:
            self.tell(LinkChanged(True))
        return self

    def wait(self, seconds: float) -> list[Action]:
        self.at_s += seconds
        return self.tell(Tick(self.reading))

    def trust(self, *targets: ReleaseTarget, metadata: str = "list-1", life_s: float = 1e6) -> list[Action]:
        expires = START + timedelta(seconds=self.at_s + life_s)
        chunks = frozenset(chunk.sha256 for target in targets for chunk in target.chunks) | self.unread
        return self.tell(TrustTaken({key(target): target for target in targets}, metadata, expires, chunks))

    def want(
        self,
        target: ReleaseTarget | None,
        version: int = 1,
        *,
        activation: Activation = Activation.ACTIVATE,
        rollout: str = "r-1",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> list[Action]:
        desired = Desired(
            device=DEVICE,
            version=version,
            release=None if target is None else target.digest,
            counter=0 if target is None else target.counter,
            rollout=rollout,
            activation=activation,
            not_before=not_before,
            not_after=not_after,
        )
        return self.tell(DesiredTaken(desired))

    def deliver(self, target: ReleaseTarget, *, but: int = 0) -> list[Action]:
        """Chunks arrive, all but the last `but` of those that are missing."""
        found: list[Action] = []
        missing = sorted(self.core.chunks_wanted)
        for sha256 in missing[: len(missing) - but]:
            self.disk.chunks.add(sha256)
            found += self.tell(ChunkStored(sha256))
        return found

    def soak(self, evidence: Evidence) -> list[Action]:
        candidate = self.core.record.candidate
        assert candidate is not None
        return self.tell(Soaked(key(candidate), evidence))

    def end_trial(self, code: UpdateCode | None = None, text: str = "") -> list[Action]:
        assert self.trying is not None
        ended, self.trying = self.trying, None
        return self.tell(TrialEnded(ended.key, code, text))

    # --- what is done -----------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> Event | None:
        match action:
            case Save(record=record):
                self.disk.saved = record
                self.saves += 1
                if not self.sees or self.sees[-1] is not record.state:
                    self.sees.append(record.state)
                if self._kill is not None and self.saves >= self._kill:
                    raise Killed
            case KeepSteps(record=record):
                return self._keep(record)
            case Prepare(release=target):
                fault = self.disk.fault("prepare")
                if fault is not None:
                    return NoRoom(key(target), str(fault))
                here = self.disk.chunks | self._in_slots()
                names = {chunk.sha256 for chunk in target.chunks}
                return Prepared(key(target), frozenset() if key(target) in self.disk.slots else frozenset(names - here))
            case FollowChunks(on=on):
                self.following = on
            case Ask(missing=missing):
                self.asked.append(missing)
            case Assemble(release=target):
                fault = self.disk.fault("assemble")
                if fault is not None:
                    return AssemblyFailed(key(target), fault, "told to")
                self.disk.slots.add(key(target))
                return Assembled(key(target))
            case Try(release=target):
                self.trying = Model.of(target)
            case StopTrial():
                self.trying = None
            case Use(model=wanted, shadow=shadow):
                fault = self.disk.fault("use")
                if fault is not None:
                    return NotInUse(wanted.key, fault, "told to")
                assert wanted.key in self.disk.slots, "a model that is not installed cannot be used"
                self.in_use = (wanted, shadow)
                return InUse(wanted.key)
            case Collect(keep=keep, chunks=chunks):
                kept = {each.key for each in keep}
                assert {self.core.record.confirmed.key, self.in_use[0].key} <= kept
                self.disk.slots &= kept
                if not chunks:
                    self.disk.chunks.clear()
            case Note():
                pass
        return None

    def _keep(self, record: UpdateRecord) -> Event:
        known = self.disk.steps[-1][0] if self.disk.steps else 0
        for told in record.untold:
            if told.number > known:
                self.disk.steps.append((told.number, f"{told.step.after}:{told.step.code or ''}"))
        return StepsKept(record.untold[-1].number)

    def _in_slots(self) -> set[str]:
        return {chunk.sha256 for _, counter in self.disk.slots for chunk in release(counter).chunks}

    # --- what is seen -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> UpdateState:
        return self.core.record.state

    def stands(self, state: UpdateState) -> bool:
        """Whether the update is in this state."""
        return self.state is state

    def uses(self, wanted: Model, *, shadow: Model | None = None) -> bool:
        """Whether these two read."""
        return self.in_use == (wanted, shadow)

    @property
    def told(self) -> list[str]:
        """Steps as the store has them: `state:code`."""
        return [text for _, text in self.disk.steps]


def of(kind: type[T], actions: list[Action]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


def notes(actions: list[Action]) -> list[NoteCode]:
    return [note.code for note in of(Note, actions)]


TWO = release(2)
ALL = (release(1), TWO, release(3))
