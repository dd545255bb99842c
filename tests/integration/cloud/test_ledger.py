"""What devices report, committed once, on both databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from cloud.auth.tokens import Tokens
from cloud.devices.figures import read_figures
from cloud.devices.registry import DeviceRegistry
from cloud.ingest.ledger import Ledger
from cloud.ingest.rules import parse
from cloud.metrics import Metrics
from cloud.storage.tables import (
    DeadLetterRow,
    DeviceEventRow,
    DeviceRow,
    DeviceStateRow,
    FieldRecord,
    SlideResultRow,
)
from fleet.contract import topics
from fleet.contract.base import MAX_MESSAGE_BYTES
from fleet.contract.http import DeviceCreate

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "a1" * 32
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def field_event(seq: int, *, device: str = "bench-1", boot: int = 1, **changes: Any) -> dict[str, Any]:
    event = {
        "kind": "field",
        "boot": boot,
        "seq": seq,
        "capture_id": f"{device}/{boot}/{seq}",
        "captured_at": (START + timedelta(seconds=seq)).isoformat(),
        "decision": "accept",
        "counts": {"rbc": 100, "wbc": 1, "platelets": 5, "white_cells": {"neutrophil": 1}},
        "model": DIGEST,
        "latency_ms": 40.0,
    }
    return event | changes


def batch(events: list[dict[str, Any]], *, device: str = "bench-1", boot: int = 1) -> bytes:
    return json.dumps(
        {
            "message_id": "m" * 12,
            "device": device,
            "boot": boot,
            "seq": 7,
            "sent_at": datetime.now(UTC).isoformat(),
            "events": events,
        }
    ).encode()


def up(payload: bytes, *, device: str = "bench-1", kind: str = "event", retained: bool = False) -> Any:
    return parse(topics.up(device, kind), payload, retained=retained)


@pytest.fixture
async def ledger(storage: Any) -> Ledger:
    registry = DeviceRegistry(Tokens(), token_lifetime=timedelta(days=1))
    async with storage.writing() as session:
        for device, site in (("bench-1", "lab-a"), ("bench-2", "lab-b")):
            await registry.create_by_system(session, DeviceCreate(device=device, site=site))
    return Ledger(storage, Metrics())


async def rows(storage: Any, table: Any) -> int:
    async with storage.reading() as session:
        return int(await session.scalar(select(func.count()).select_from(table)) or 0)


async def state_of(storage: Any, device: str = "bench-1") -> DeviceStateRow:
    async with storage.reading() as session:
        state: DeviceStateRow | None = await session.get(DeviceStateRow, device)
    assert state is not None
    return state


async def test_a_batch_told_twice_is_committed_once_and_acknowledged_twice(ledger: Ledger, storage: Any) -> None:
    message = up(batch([field_event(1), field_event(2, decision="uncertain"), field_event(3, decision="withheld")]))

    first = await ledger.commit([message])
    second = await ledger.commit([message, message])

    assert first["bench-1"].committed == [(1, 1), (1, 2), (1, 3)]
    assert set(second["bench-1"].committed) == {(1, 1), (1, 2), (1, 3)}
    assert await rows(storage, FieldRecord) == 3
    state = await state_of(storage)
    assert (state.fields, state.uncertain, state.withheld) == (3, 1, 1)


async def test_every_row_carries_its_site_and_the_device_as_principal(ledger: Ledger, storage: Any) -> None:
    slide = {
        "kind": "slide",
        "boot": 1,
        "seq": 4,
        "slide": "7c1d",
        "opened_at": START.isoformat(),
        "closed_at": START.isoformat(),
        "fields": 40,
        "withheld": 1,
        "rbc": 4000,
        "platelets": 90,
        "white_cells": {"neutrophil": 61},
        "limits": {"neutrophil": [0.5, 0.7]},
        "model": DIGEST,
    }
    alarm = {"kind": "alarm", "boot": 1, "seq": 5, "raised_at": START.isoformat(), "severity": "warning", "code": "x"}
    gone = {"kind": "dropped", "boot": 1, "seq": 6, "dropped_at": START.isoformat(), "reason": "quota", "results": 3}

    await ledger.commit([up(batch([field_event(1), slide, alarm, gone]))])

    async with storage.reading() as session:
        owner = (await session.get(DeviceRow, "bench-1")).principal_id
        for table in (FieldRecord, SlideResultRow, DeviceEventRow):
            for row in (await session.scalars(select(table))).all():
                assert (row.site_id, row.recorded_by) == ("lab-a", owner)
        figures = await read_figures(session, now=datetime.now(UTC))
    assert (figures.dropped_results, figures.alarms) == (3, {"warning": 2})
    assert figures.fields == {"accept": 1, "uncertain": 0, "withheld": 0}


def undone_event(seq: int, **changes: Any) -> dict[str, Any]:
    event = {"kind": "undone", "boot": 1, "seq": seq, "capture_id": "bench-1/1/1", "undone_at": START.isoformat()}
    return event | changes


def bench_label_event(seq: int, **changes: Any) -> dict[str, Any]:
    event = {
        "kind": "bench_label",
        "boot": 1,
        "seq": seq,
        "capture_id": "bench-1/1/1",
        "bbox": [10, 20, 110.25, 98],
        "label": "monocyte",
        "before": "lymphocyte",
        "labelled_at": (START + timedelta(minutes=1)).isoformat(),
        "reader": "M. Schäfer",
        "model": DIGEST,
        "crop_jpeg": "/9j/2Q==",
    }
    return event | changes


async def test_what_a_technician_does_is_kept_beside_the_field_and_told_twice_is_there_once(
    ledger: Ledger, storage: Any
) -> None:
    events = [
        field_event(1),
        undone_event(2),
        bench_label_event(3),
        bench_label_event(4, withdrawn=True, reader=""),
        {"kind": "dropped", "boot": 1, "seq": 5, "dropped_at": START.isoformat(), "reason": "poison", "aside": 2},
    ]
    message = up(batch(events))
    for _ in range(2):
        outcome = (await ledger.commit([message]))["bench-1"]
        assert sorted(outcome.committed) == [(1, seq) for seq in range(1, 6)]
        assert outcome.rejected == []

    assert await rows(storage, FieldRecord) == 1
    async with storage.reading() as session:
        found = (await session.scalars(select(DeviceEventRow).order_by(DeviceEventRow.seq))).all()
    assert [(row.kind, row.code, row.severity) for row in found] == [
        ("undone", "field_undone", "info"),
        ("bench_label", "bench_label", "info"),
        ("bench_label", "bench_label_withdrawn", "info"),
        ("dropped", "poison", "warning"),
    ]
    assert [row.text for row in found] == [
        "bench-1/1/1",
        "bench-1/1/1 at 10.0, 20.0, 110.2, 98.0: lymphocyte is monocyte, says M. Schäfer",
        "bench-1/1/1 at 10.0, 20.0, 110.2, 98.0: lymphocyte is monocyte, says nobody named",
        "0 results and 0 images given up, 2 rows set aside",
    ]
    assert [row.happened_at - START for row in found[:2]] == [timedelta(0), timedelta(minutes=1)]
    assert (await state_of(storage)).fields == 1


async def test_another_event_under_a_place_that_is_taken_is_told(ledger: Ledger, storage: Any) -> None:
    await ledger.commit([up(batch([undone_event(1), bench_label_event(2)]))])
    outcome = (await ledger.commit([up(batch([bench_label_event(1), bench_label_event(2)]))]))["bench-1"]
    assert (outcome.committed, outcome.rejected) == ([(1, 2)], [(1, 1)])


async def test_nobody_undoes_or_labels_a_field_of_another_device(ledger: Ledger, storage: Any) -> None:
    foreign = [undone_event(1, capture_id="bench-2/1/1"), bench_label_event(2, capture_id="bench-2/1/1")]
    outcome = (await ledger.commit([up(batch(foreign))]))["bench-1"]
    assert (outcome.committed, sorted(outcome.rejected)) == ([], [(1, 1), (1, 2)])
    assert await rows(storage, DeviceEventRow) == 0


async def test_one_poisonous_event_is_rejected_and_the_rest_of_its_batch_committed(
    ledger: Ledger, storage: Any
) -> None:
    message = up(batch([field_event(1), {"kind": "field", "boot": 1, "seq": 2}, field_event(3)]))
    outcome = (await ledger.commit([message]))["bench-1"]

    assert (outcome.committed, outcome.rejected) == ([(1, 1), (1, 3)], [(1, 2)])
    async with storage.reading() as session:
        letter = await session.scalar(select(DeadLetterRow))
    assert (letter.code, letter.site_id, letter.boot, letter.seq, letter.times) == ("invalid", "lab-a", 1, 2, 1)


async def test_what_the_database_refuses_takes_only_its_own_event_with_it(ledger: Ledger, storage: Any) -> None:
    refusal = (
        "CREATE TRIGGER refuse BEFORE INSERT ON fields WHEN NEW.seq = 2 BEGIN SELECT RAISE(ABORT, 'no'); END"
        if storage.is_sqlite
        else "ALTER TABLE fields ADD CONSTRAINT refuse CHECK (seq <> 2)"
    )
    async with storage.writing() as session:
        await session.execute(text(refusal))

    outcome = (await ledger.commit([up(batch([field_event(1), field_event(2), field_event(3)]))]))["bench-1"]

    assert (sorted(outcome.committed), outcome.rejected) == ([(1, 1), (1, 3)], [(1, 2)])
    async with storage.reading() as session:
        assert (await session.scalar(select(DeadLetterRow.code))) == "not_storable"
    assert (await state_of(storage)).fields == 2


async def test_an_over_size_message_is_rejected_event_by_event_and_kept_in_part(ledger: Ledger, storage: Any) -> None:
    events = [field_event(seq, slide="s" * 60, reasons=["r" * 300] * 8) for seq in range(1, 150)]
    payload = batch(events)
    assert len(payload) > MAX_MESSAGE_BYTES

    outcome = (await ledger.commit([up(payload)]))["bench-1"]

    assert outcome.committed == []
    assert outcome.rejected == [(1, seq) for seq in range(1, 150)]
    async with storage.reading() as session:
        letter = await session.scalar(select(DeadLetterRow))
    assert (letter.code, letter.size_bytes) == ("too_large", len(payload))
    assert len(letter.payload) < 20_000


async def test_the_same_dead_letter_again_counts_up_instead_of_filling_the_table(ledger: Ledger, storage: Any) -> None:
    for _ in range(3):
        await ledger.commit([up(b"not json")])
    async with storage.reading() as session:
        letters = (await session.scalars(select(DeadLetterRow))).all()
    assert [(letter.code, letter.times) for letter in letters] == [("not_json", 3)]


async def test_identity_in_the_payload_must_be_the_topics(ledger: Ledger, storage: Any) -> None:
    stolen = up(batch([field_event(1, device="bench-2")], device="bench-2"), device="bench-1")
    capture = up(batch([field_event(2, capture_id="bench-2/1/2")]))

    outcomes = await ledger.commit([stolen, capture])

    assert outcomes["bench-1"].committed == []
    assert sorted(outcomes["bench-1"].rejected) == [(1, 1), (1, 2)]
    assert await rows(storage, FieldRecord) == 0


async def test_an_unknown_or_revoked_device_gets_no_word_and_no_row(ledger: Ledger, storage: Any) -> None:
    async with storage.writing() as session:
        await session.execute(update(DeviceRow).where(DeviceRow.device == "bench-2").values(revoked_at=START))

    outcomes = await ledger.commit(
        [
            up(batch([field_event(1, device="nobody")], device="nobody"), device="nobody"),
            up(batch([field_event(1, device="bench-2")], device="bench-2"), device="bench-2"),
        ]
    )

    assert outcomes == {}
    assert await rows(storage, FieldRecord) == 0
    async with storage.reading() as session:
        found = (await session.execute(select(DeadLetterRow.code, DeadLetterRow.site_id))).all()
    assert sorted(tuple(row) for row in found) == [("revoked_device", "lab-b"), ("unknown_device", "-")]


async def test_all_that_an_unknown_or_revoked_device_sends_is_one_row_with_a_count(
    ledger: Ledger, storage: Any
) -> None:
    async with storage.writing() as session:
        await session.execute(update(DeviceRow).where(DeviceRow.device == "bench-2").values(revoked_at=START))

    for seq in range(1, 4):
        for device in ("nobody", "bench-2"):
            await ledger.commit([up(batch([field_event(seq, device=device)], device=device), device=device)])
    await ledger.commit([up(b"{}", device="nobody", kind="status")])

    async with storage.reading() as session:
        query = select(DeadLetterRow.device, DeadLetterRow.code, DeadLetterRow.times)
        found = {tuple(row) for row in (await session.execute(query)).all()}
    assert found == {("nobody", "unknown_device", 4), ("bench-2", "revoked_device", 3)}


async def test_a_device_that_lost_its_store_is_told_instead_of_losing_fields_silently(
    ledger: Ledger, storage: Any
) -> None:
    await ledger.commit([up(batch([field_event(1)]))])
    later = field_event(1, captured_at=(START + timedelta(days=3)).isoformat())

    outcome = (await ledger.commit([up(batch([later]))]))["bench-1"]

    assert (outcome.committed, outcome.rejected) == ([], [(1, 1)])
    async with storage.reading() as session:
        assert (await session.scalar(select(DeadLetterRow.code))) == "ledger_conflict"


def status(session: str, presence: str, *, retained: bool = False) -> Any:
    body = {"device": "bench-1", "session": session, "presence": presence, "agent_version": "0.1.0"}
    return up(json.dumps(body).encode(), kind="status", retained=retained)


async def test_the_late_will_of_an_old_session_does_not_take_the_device_offline(ledger: Ledger, storage: Any) -> None:
    await ledger.commit([status("session-a", "online")])
    await ledger.commit([status("session-b", "online")])
    await ledger.commit([status("session-a", "offline")])
    assert (await state_of(storage)).presence == "online"

    await ledger.commit([status("session-b", "offline")])
    assert (await state_of(storage)).presence == "offline"
    await ledger.commit([status("session-b", "online"), status("session-a", "online", retained=True)])
    assert (await state_of(storage)).presence == "offline"


def birth(session: str, *, boot: int = 1, seq: int = 1, site: str = "lab-a", active: str = DIGEST) -> Any:
    envelope = {
        "message_id": "m" * 12,
        "device": "bench-1",
        "boot": boot,
        "seq": seq,
        "sent_at": START.isoformat(),
    }
    body = envelope | {
        "site": site,
        "session": session,
        "capabilities": {
            "agent_version": "0.1.0",
            "python": "3.11",
            "onnxruntime": "1.20",
            "cpu_cores": 2,
            "memory_bytes": 1,
            "source": "simulated",
            "max_packet_bytes": 65536,
        },
        "reported": envelope | {"active": {"name": "edge", "version": "1.0.0", "digest": active}},
    }
    return up(json.dumps(body).encode(), kind="birth")


async def test_a_birth_brings_presence_capabilities_and_the_model(ledger: Ledger, storage: Any) -> None:
    await ledger.commit([birth("session-a")])

    state = await state_of(storage)

    assert (state.presence, state.session, state.agent_version) == ("online", "session-a", "0.1.0")
    assert state.reported is not None
    assert state.reported["active"]["digest"] == DIGEST


async def test_a_birth_of_another_site_is_a_dead_letter(ledger: Ledger, storage: Any) -> None:
    await ledger.commit([birth("session-a", site="lab-b")])
    assert (await state_of(storage)).presence == "unknown"
    assert await rows(storage, DeadLetterRow) == 1


async def test_a_reported_state_that_comes_late_does_not_undo_a_newer_one(ledger: Ledger, storage: Any) -> None:
    old, new = "sha256:" + "01" * 32, "sha256:" + "02" * 32
    await ledger.commit([birth("session-a", boot=2, seq=9, active=new)])
    body = {
        "message_id": "m" * 12,
        "device": "bench-1",
        "boot": 2,
        "seq": 3,
        "sent_at": START.isoformat(),
        "active": {"name": "edge", "version": "1.0.0", "digest": old},
    }
    await ledger.commit([up(json.dumps(body).encode(), kind="reported")])
    reported = (await state_of(storage)).reported
    assert reported is not None
    assert reported["active"]["digest"] == new


async def test_expired_telemetry_is_counted_and_not_shown(ledger: Ledger, storage: Any) -> None:
    def telemetry(not_after: datetime, value: float) -> Any:
        body = {
            "message_id": "m" * 12,
            "device": "bench-1",
            "boot": 1,
            "seq": 1,
            "sent_at": START.isoformat(),
            "not_after": not_after.isoformat(),
            "gauges": {"spool_rows": value},
        }
        return up(json.dumps(body).encode(), kind="telemetry")

    await ledger.commit([telemetry(datetime.now(UTC) + timedelta(minutes=1), 5)])
    await ledger.commit([telemetry(START - timedelta(days=1), 9)])

    assert (await state_of(storage)).gauges == {"spool_rows": 5.0}
