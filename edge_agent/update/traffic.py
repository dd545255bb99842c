"""What the update core is told and what it asks for. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edge_agent.update.record import Key, Model, UpdateRecord
from edge_agent.update.soak import Evidence
from fleet.contract.messages import Desired
from fleet.contract.release import ReleaseTarget, UpdateCode

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The agent runs; the model of the record is in use."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed.

    Attributes:
        reading: whether a slide is being read at this moment.
    """

    reading: bool = False


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The way to the broker opened or closed."""

    up: bool


@dataclass(frozen=True, slots=True)
class TrustTaken:
    """A trust message was verified.

    Attributes:
        releases: what it signs.
        metadata: names the signed list of releases; another list, another name.
        expires: from then on nothing of it may be installed; None when that is not judged.
        chunks: names of the chunks of all that is signed, also of releases that this program cannot read.
    """

    releases: Mapping[Key, ReleaseTarget]
    metadata: str
    expires: datetime | None
    chunks: frozenset[str]


@dataclass(frozen=True, slots=True)
class TrustNotTaken:
    """A trust message was refused.

    Attributes:
        waits: a wish for this device, signed by a key that is trusted already, that cannot be taken before there is
            good trust; None when there is none.
        wish: names that wish.
    """

    code: UpdateCode
    text: str
    waits: Desired | None = None
    wish: str = ""


@dataclass(frozen=True, slots=True)
class DesiredTaken:
    """A desired state whose signature is good."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class DesiredNotTaken:
    """A desired state was refused; nothing that stands in it may be believed.

    Attributes:
        wish: names it; another wish, another name.
    """

    code: UpdateCode
    text: str
    wish: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Answer to Prepare: which chunks are not here."""

    key: Key
    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Answer to Prepare or Assemble, or to a chunk that could not be written: the disk is full."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """A chunk arrived, is what its name says, and lies on the disk."""

    sha256: str


@dataclass(frozen=True, slots=True)
class ChunkFalse:
    """Bytes arrived under the name of a chunk that are not that chunk."""

    sha256: str


@dataclass(frozen=True, slots=True)
class ChunkForeign:
    """A chunk arrived that is not of this release."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Assembled:
    """Answer to Assemble: the release is whole, verified and in its slot."""

    key: Key


@dataclass(frozen=True, slots=True)
class AssemblyFailed:
    """Answer to Assemble."""

    key: Key
    code: UpdateCode
    text: str


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """Answer to Try; without a code it passed."""

    key: Key
    code: UpdateCode | None
    text: str


@dataclass(frozen=True, slots=True)
class InUse:
    """Answer to Use: this model answers from now on."""

    key: Key


@dataclass(frozen=True, slots=True)
class NotInUse:
    """Answer to Use: it could not be opened; what answered before still does."""

    key: Key
    code: UpdateCode
    text: str


@dataclass(frozen=True, slots=True)
class Soaked:
    """What both models have shown so far."""

    key: Key
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class StepsKept:
    """The store has the steps up to this number."""

    number: int


Event = (
    Started
    | Tick
    | LinkChanged
    | TrustTaken
    | TrustNotTaken
    | DesiredTaken
    | DesiredNotTaken
    | Prepared
    | NoRoom
    | ChunkStored
    | ChunkFalse
    | ChunkForeign
    | Assembled
    | AssemblyFailed
    | TrialEnded
    | InUse
    | NotInUse
    | Soaked
    | StepsKept
)

# --- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the record, durably, before any further action."""

    record: UpdateRecord


@dataclass(frozen=True, slots=True)
class Prepare:
    """See what is here of a release: chunks on the disk, parts of installed models; look for room."""

    release: ReleaseTarget


@dataclass(frozen=True, slots=True)
class FollowChunks:
    """Receive chunks, or no longer."""

    on: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Say which chunks are missing."""

    release: Model
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assemble:
    """Put the chunks together, verify the whole, move it into its slot."""

    release: ReleaseTarget


@dataclass(frozen=True, slots=True)
class Try:
    """The archive is verified again, then its self-test runs in a process of its own."""

    release: ReleaseTarget


@dataclass(frozen=True, slots=True)
class StopTrial:
    """End that process, if it runs."""


@dataclass(frozen=True, slots=True)
class Use:
    """Let this model answer; with `shadow`, that one reads every field as well and both are compared."""

    model: Model
    shadow: Model | None = None


@dataclass(frozen=True, slots=True)
class KeepSteps:
    """Put these steps into the store's spool."""

    record: UpdateRecord


@dataclass(frozen=True, slots=True)
class Collect:
    """Delete what belongs to no model that is kept; chunks as well, unless they may still be of use."""

    keep: tuple[Model, ...]
    chunks: bool


class NoteCode(StrEnum):
    """What is worth a counter and a line in the log."""

    DESIRED_OLD = "desired_old"
    DESIRED_REFUSED = "desired_refused"
    TRUST_REFUSED = "trust_refused"
    ANSWER_LATE = "answer_late"
    CHUNK_FALSE = "chunk_false"
    CHUNK_UNSIGNED = "chunk_unsigned"
    ASKED_AGAIN = "asked_again"
    BARRED = "barred"


@dataclass(frozen=True, slots=True)
class Note:
    """Count this, and log it with its text."""

    code: NoteCode
    text: str = ""


Action = Save | Prepare | FollowChunks | Ask | Assemble | Try | StopTrial | Use | KeepSteps | Collect | Note
