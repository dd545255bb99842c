"""What the device remembers of its models and of the update under way. Pure; saved before anything is done.

`confirmed` is the model that is believed in. While an update is `unconfirmed` the candidate runs, and forgetting the
candidate is the whole of a rollback: whatever happens in between, the record names a model that is good.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from edge_agent.update.states import UNDER_WAY, UpdateTrigger, advance
from fleet.contract.base import Count, Digest, WireModel
from fleet.contract.messages import Desired, SoakFigures, UpdateState, UpdateStep
from fleet.contract.release import CODE_FAMILIES, CodeFamily, ReleaseTarget, UpdateCode

MAX_STARTS = 20
"""Unclean starts with one unconfirmed model: ended also when it reads some fields before each."""
MAX_BARRED = 64
MAX_UNTOLD = 256
TEXT_LENGTH = 500

Key = tuple[str, int]
"""(digest, counter): a release."""


class Model(WireModel):
    """A release that is, or was to be, installed."""

    digest: Digest
    counter: Count
    name: str = ""
    version: str = ""

    @property
    def key(self) -> Key:
        """Digest and counter."""
        return self.digest, self.counter

    @classmethod
    def of(cls, release: ReleaseTarget) -> Model:
        """The model of a release."""
        return cls(digest=release.digest, counter=release.counter, name=release.name, version=release.version)


class Hold(StrEnum):
    """Why an update waits."""

    BUSY = "busy"
    LINK = "link"
    SPACE = "space"


class Barred(WireModel):
    """A release that is not tried again.

    Attributes:
        rollout: only while it is offered by this rollout; None with `metadata`.
        metadata: only while the signed metadata are these.
    """

    digest: Digest
    counter: Count
    code: UpdateCode
    rollout: str | None = None
    metadata: str | None = None


class Refused(WireModel):
    """A wish that was refused before it was taken.

    Attributes:
        wish: names it; the same one again is no other refusal.
        rollout: of it; None when nothing that stands in it may be believed.
    """

    wish: str = Field("", max_length=64)
    rollout: str | None = Field(None, max_length=64)


class Told(WireModel):
    """A step with its number: the store takes each number once."""

    number: Count
    step: UpdateStep


class UpdateRecord(WireModel):
    """See the module.

    Attributes:
        state, code, text, hold: where the update stands.
        confirmed: last model that proved itself.
        previous: the one before it.
        candidate: release under way; None at rest.
        metadata: name of the signed list that the candidate was taken from.
        about: release that the last outcome is about; None when it was no release.
        refused: wish that the last outcome is about, when that wish was never taken.
        desired: last desired state taken.
        floor: releases with a lower counter are refused.
        boots: unclean starts with the candidate running or on trial, since it last read a field.
        starts: all of them, however far it came in between.
        attempts: at the candidate, so far.
        disturbed: codes that were told of the delivery under way, though it went on.
        barred: releases that are not tried again.
        soak: figures that the last verdict was made on.
        journal: names this record; steps of another one are other steps.
        steps: number of the last step.
        untold: steps that the store may not have yet.
    """

    schema_: Literal["ahs.update-record/1"] = Field("ahs.update-record/1", alias="schema")
    state: UpdateState = UpdateState.IDLE
    code: UpdateCode | None = None
    text: str = ""
    hold: Hold | None = None
    confirmed: Model
    previous: Model | None = None
    candidate: ReleaseTarget | None = None
    metadata: str = ""
    about: Model | None = None
    refused: Refused | None = None
    desired: Desired | None = None
    floor: Count = 0
    boots: Count = 0
    starts: Count = 0
    attempts: Count = 0
    disturbed: tuple[UpdateCode, ...] = ()
    barred: tuple[Barred, ...] = ()
    soak: SoakFigures | None = None
    journal: str = Field(min_length=8, max_length=64)
    steps: Count = 0
    untold: tuple[Told, ...] = ()

    @property
    def running(self) -> Model:
        """The model that is to run."""
        if self.state is UpdateState.UNCONFIRMED and self.candidate is not None:
            return Model.of(self.candidate)
        return self.confirmed

    @property
    def before(self) -> Model | None:
        """The model to go back to."""
        return self.confirmed if self.state is UpdateState.UNCONFIRMED else self.previous

    @property
    def kept(self) -> tuple[Model, ...]:
        """Models whose slots must stay: also that of an attempt which is likely to be repeated."""
        passing = self.code is not None and CODE_FAMILIES[self.code] is CodeFamily.RETRYABLE
        other = Model.of(self.candidate) if self.candidate is not None else self.about if passing else None
        return tuple(model for model in (self.confirmed, self.previous, other) if model is not None)

    @property
    def rollout(self) -> str | None:
        """Rollout that the last desired state belongs to."""
        return None if self.desired is None else self.desired.rollout

    @property
    def concerns(self) -> str | None:
        """Rollout that the last outcome is about."""
        return self.rollout if self.refused is None else self.refused.rollout


def moved(
    record: UpdateRecord,
    trigger: UpdateTrigger,
    *,
    at: datetime,
    code: UpdateCode | None = None,
    text: str = "",
    **changes: Any,
) -> UpdateRecord:
    """The record after a transition, with the step that tells of it.

    A release that is no longer under way stays named in `about`.
    """
    after = advance(record.state, trigger)
    about = changes.get("about", record.about)
    if after in UNDER_WAY:
        candidate = changes.get("candidate", record.candidate)
        about = None if candidate is None else Model.of(candidate)
    elif record.candidate is not None:
        about = changes.get("about", Model.of(record.candidate))
        changes["candidate"] = None
    changes["about"] = None if after in (UpdateState.IDLE, UpdateState.CONFIRMED) else about
    told = changes["about"] or about
    if told is None and after is UpdateState.CONFIRMED:
        told = changes.get("confirmed", record.confirmed)
    refused: Refused | None = changes.get("refused")
    step = UpdateStep(
        boot=0,
        seq=0,
        happened_at=at,
        release=None if told is None else told.digest,
        counter=0 if told is None else told.counter,
        rollout=record.rollout if refused is None else refused.rollout,
        before=record.state,
        after=after,
        code=None if code is None else code.value,
        text=text[:TEXT_LENGTH],
    )
    number = record.steps + 1
    untold = (*record.untold, Told(number=number, step=step))[-MAX_UNTOLD:]
    return record.model_copy(
        update={
            "hold": None,
            "starts": 0,
            **changes,
            "refused": refused,
            "state": after,
            "code": code,
            "text": text[:TEXT_LENGTH],
            "steps": number,
            "untold": untold,
        }
    )


def disturbed(record: UpdateRecord, *, at: datetime, code: UpdateCode, text: str) -> UpdateRecord:
    """The delivery goes on, and what came in the place of its chunks is told once: a step with a code, no outcome."""
    codes = (*record.disturbed, code)
    after = moved(record, UpdateTrigger.DISTURBED, at=at, code=code, text=text, disturbed=codes)
    return after.model_copy(update={"code": None})


def confirmed_by_soak(record: UpdateRecord, *, at: datetime, soak: SoakFigures) -> UpdateRecord:
    """The candidate is believed in from now on."""
    model = record.running
    lowest = min(model.counter, record.confirmed.counter)
    return moved(
        record,
        UpdateTrigger.PROVEN,
        at=at,
        confirmed=model,
        previous=record.confirmed,
        floor=max(record.floor, lowest),
        boots=0,
        attempts=0,
        soak=soak,
    )


def restored(record: UpdateRecord, *, at: datetime) -> UpdateRecord:
    """The model before runs again, because it is what is wanted."""
    if record.previous is None:
        raise ValueError("there is no model before")
    return moved(
        record,
        UpdateTrigger.RESTORED,
        at=at,
        confirmed=record.previous,
        previous=record.confirmed,
        soak=None,
        text="back to the model before",
    )


def lost(record: UpdateRecord, model: Model, *, at: datetime, code: UpdateCode, text: str) -> UpdateRecord:
    """The confirmed model cannot be used any more; `model` takes its place."""
    return moved(
        record,
        UpdateTrigger.LOST,
        at=at,
        code=code,
        text=text,
        about=record.confirmed,
        confirmed=model,
        previous=None,
        boots=0,
    )


def booted(record: UpdateRecord, *, at: datetime, max_boots: int) -> UpdateRecord:
    """The record at a start of the agent: a model that brings the agent down again and again is dropped."""
    if record.state not in (UpdateState.UNCONFIRMED, UpdateState.TRIAL):
        return record
    boots, starts = record.boots + 1, record.starts + 1
    if boots <= max_boots and starts <= max(MAX_STARTS, max_boots):
        return record.model_copy(update={"boots": boots, "starts": starts})
    return moved(
        record,
        UpdateTrigger.FAILED,
        at=at,
        code=UpdateCode.LOAD,
        text=f"the agent ended {max(boots, starts)} times while this model was tried or not yet confirmed",
        boots=0,
        barred=barring(record, UpdateCode.LOAD, metadata=None),
    )


def barring(record: UpdateRecord, code: UpdateCode, *, metadata: str | None) -> tuple[Barred, ...]:
    """The barred releases with the candidate among them."""
    if record.candidate is None:
        return record.barred
    model = Model.of(record.candidate)
    rollout = None if metadata is not None else (record.rollout or "")
    entry = Barred(digest=model.digest, counter=model.counter, code=code, rollout=rollout, metadata=metadata)
    others = tuple(item for item in record.barred if item != entry)
    return (*others, entry)[-MAX_BARRED:]


def barred_by(record: UpdateRecord, key: Key, *, metadata: str) -> UpdateCode | None:
    """Why a release is not tried again now, if so."""
    for item in record.barred:
        if (item.digest, item.counter) != key:
            continue
        if item.metadata == metadata or (item.metadata is None and item.rollout == (record.rollout or "")):
            return item.code
    return None
