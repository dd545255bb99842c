"""What the tests of the store share: quotas that hold everything, rows, opinions."""

from __future__ import annotations

import json

from edge_agent import wire
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from fleet.contract.http import CellOpinion, SecondOpinion
from fleet.contract.messages import (
    Alarm,
    OpinionState,
    SeqRange,
    Severity,
    SlideResult,
)
from models.bundle.manifest import CellClass
from tests.unit.edge.edge_builders import DEVICE, MODEL, START, cell, named

AMPLE = Quotas(rows=1000, image_bytes=10_000_000)


def slide(store: Store) -> int:
    return store.open_slide("s", target_white_cells=100, now=START).slide_id


def ack(*numbers: int, boot: int = 1) -> tuple[SeqRange, ...]:
    return tuple(SeqRange(boot=boot, first=n, last=n) for n in numbers)


def opinion_of(capture_id: str) -> SecondOpinion:
    edge = wire.detection(cell(CellClass.WBC, at=120, cell_type=named("neutrophil")))
    cloud = wire.detection(cell(CellClass.WBC, at=121, cell_type=named("monocyte")))
    return SecondOpinion(
        id=f"op-{capture_id.replace('/', '-')}",
        site="lab-1",
        device=DEVICE,
        capture_id=capture_id,
        image_sha256="b" * 64,
        state=OpinionState.ANSWERED,
        created_at=START,
        answered_at=START,
        model=MODEL,
        latency_ms=5,
        detections=(cloud,),
        cells=(CellOpinion(edge=edge, cloud=cloud, agree=False),),
        needs_review=False,
    )


def a_note(store: Store, code: str = "x") -> None:
    store.alarm(Alarm(boot=0, seq=0, raised_at=START, severity=Severity.INFO, code=code, text=""), now=START)


def kinds(store: Store, limit: int = 1000) -> list[str]:
    return [json.loads(row.payload)["kind"] for row in store.take_events(limit=limit)]


def spoil(store: Store, row_id: int, payload: bytes) -> None:
    with store.database.transaction() as connection:
        connection.execute("UPDATE spool SET payload = CAST(? AS TEXT) WHERE id = ?", (payload, row_id))


def no_fields(pseudonym: str) -> SlideResult:
    """What is said at the end of a slide on which nothing was read."""
    return SlideResult(
        boot=0, seq=0, slide=pseudonym, opened_at=START, closed_at=START, fields=0, withheld=0, rbc=0, platelets=0,
        white_cells={}, limits={}, model=MODEL.digest,
    )  # fmt: skip
