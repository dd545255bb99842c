"""What the uplink core is told and what it asks for. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edge_agent.store.records import Cursors, SpoolEvent
from fleet.contract.cells import ModelRef
from fleet.contract.messages import (
    Capabilities,
    OpinionReady,
    SelfTestSummary,
    SeqRange,
    SoakFigures,
    UpdateState,
)

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent ends."""


@dataclass(frozen=True, slots=True)
class SpoolGrew:
    """There may be new rows."""


@dataclass(frozen=True, slots=True)
class CredentialsChanged:
    """There is another token than the one that was refused."""


@dataclass(frozen=True, slots=True)
class BusConnected:
    """CONNACK with success. Every bus event names the session it belongs to, so that late ones are told apart."""

    session: str


@dataclass(frozen=True, slots=True)
class BusFailed:
    """No connection came about, or an established one is gone."""

    session: str
    text: str


@dataclass(frozen=True, slots=True)
class BusRefused:
    """The broker does not want us: bad or expired token, or not authorised."""

    session: str
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class BusMessage:
    """Something arrived."""

    session: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BusPublishRefused:
    """The broker took a message and refused it (quota, size, ACL)."""

    session: str
    kind: str
    code: int


@dataclass(frozen=True, slots=True)
class RowsTaken:
    """Answer to TakeRows."""

    rows: tuple[SpoolEvent, ...]


@dataclass(frozen=True, slots=True)
class RowsFailed:
    """Answer to TakeRows when the store could not be read: says nothing of whether there are rows."""

    text: str


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Where the model update stands; see `fleet.contract.messages.Reported`."""

    state: UpdateState = UpdateState.IDLE
    code: str | None = None
    counter: int = 0
    previous: str | None = None
    desired_version: int = 0
    pending: str | None = None
    rollout: str | None = None
    soak: SoakFigures | None = None


NO_UPDATES = UpdateReport()


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What the device really runs; goes out as `up/reported` and inside the birth."""

    active: ModelRef
    self_test: SelfTestSummary | None = None
    degraded: tuple[str, ...] = ()
    update: UpdateReport = NO_UPDATES


@dataclass(frozen=True, slots=True)
class ReportChanged:
    """The report is another one now."""

    report: DeviceReport


@dataclass(frozen=True, slots=True)
class ChunksWanted:
    """Chunks are to be received, or no longer."""

    on: bool


@dataclass(frozen=True, slots=True)
class ChunksMissing:
    """These chunks of a release are not here."""

    release: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GaugesRead:
    """Answer to ReadGauges."""

    gauges: Mapping[str, float]


Event = (
    Tick
    | Stop
    | SpoolGrew
    | CredentialsChanged
    | BusConnected
    | BusFailed
    | BusRefused
    | BusMessage
    | BusPublishRefused
    | RowsTaken
    | RowsFailed
    | ReportChanged
    | ChunksWanted
    | ChunksMissing
    | GaugesRead
)
BusEvent = BusConnected | BusFailed | BusRefused | BusMessage | BusPublishRefused

# --- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a new connection; any older one is given up."""

    session: str
    will_topic: str
    will_payload: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Leave in order; the Will is not published."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """QoS 1, but chunks: nobody keeps those for an absent device."""

    topics: tuple[str, ...]
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """No longer, also not from a session that the broker has kept."""

    topics: tuple[str, ...]


class UpdateTopic(StrEnum):
    """What is handed on to the model update."""

    TRUST = "trust"
    DESIRED = "desired"
    CHUNK = "chunk"


@dataclass(frozen=True, slots=True)
class HandOn:
    """Something for the model update, unread; `name` is a chunk's hash, else empty."""

    topic: UpdateTopic
    name: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    """`kind` is the topic's kind, for counting."""

    topic: str
    payload: bytes
    kind: str
    qos: int = 1
    retain: bool = False
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class TakeRows:
    """Read the oldest events behind these rows of the spool, results first."""

    after: Cursors
    limit: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Delete these rows: the cloud has committed (or dead-lettered) them."""

    ranges: tuple[SeqRange, ...]
    rejected: tuple[SeqRange, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Set these rows aside: they alone are never acknowledged."""

    ranges: tuple[SeqRange, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """A second opinion has been announced in short."""

    message: OpinionReady


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Ask the cloud by HTTP for opinions that were missed."""


@dataclass(frozen=True, slots=True)
class ReadGauges:
    """Telemetry is due."""


class NoteCode(StrEnum):
    """What is worth a counter and a line in the log."""

    LATE_BUS_EVENT = "late_bus_event"
    MESSAGE_UNREADABLE = "message_unreadable"
    MESSAGE_UNKNOWN = "message_unknown"
    MESSAGE_FOREIGN = "message_foreign"
    MESSAGE_EXPIRED = "message_expired"
    DESIRED_IGNORED = "desired_ignored"
    ACK_UNKNOWN = "ack_unknown"
    OPERATION_REPEATED = "operation_repeated"
    OPERATION_REJECTED = "operation_rejected"
    RESULT_REJECTED = "result_rejected"
    RESENT = "resent"
    GIVEN_UP = "given_up"
    PUBLISH_REFUSED = "publish_refused"
    LINK_CHANGED = "link_changed"
    SPOOL_NOT_READ = "spool_not_read"


@dataclass(frozen=True, slots=True)
class Note:
    """Count this, and log it with its text."""

    code: NoteCode
    text: str = ""


Action = (
    Connect
    | Disconnect
    | Subscribe
    | Unsubscribe
    | HandOn
    | Publish
    | TakeRows
    | Acknowledge
    | GiveUp
    | Announce
    | CatchUp
    | ReadGauges
    | Note
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks.

    Attributes:
        instance: random, new with every start of the process; makes sessions unique.
    """

    device: str
    site: str
    boot: int
    agent_version: str
    instance: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Tuning:
    """Times and sizes of the uplink."""

    backoff_first_s: float = 1.0
    backoff_last_s: float = 60.0
    refused_retry_s: float = 300.0
    connect_deadline_s: float = 20.0
    ack_timeout_s: float = 15.0
    ack_timeout_last_s: float = 300.0
    probe_s: float = 15.0
    telemetry_s: float = 60.0
    batch_rows: int = 100
    batch_bytes: int = 120_000
    window_batches: int = 4
    halve_after_sends: int = 3
    give_up_after_sends: int = 5
    remembered_operations: int = field(default=64)
