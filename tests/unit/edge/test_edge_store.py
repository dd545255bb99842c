"""The store: one transaction a field, numbers that never repeat, quotas that are told, faults that are answered."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import wire
from edge_agent.errors import StoreDamaged, StoreFault, StoreFull
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.schema import MIGRATIONS, SCHEMA_VERSION
from edge_agent.store.spool_rows_sqlite import SpoolRows
from edge_agent.store.spool_sqlite import Quotas, asides
from edge_agent.store.store_sqlite import FILE_NAME, Store
from fleet.contract.cells import Decision
from fleet.contract.http import CellLabel, CellOpinion, SecondOpinion
from fleet.contract.messages import (
    Alarm,
    OpinionReady,
    OpinionState,
    SeqRange,
    Severity,
    SlideResult,
    UpdateState,
    UpdateStep,
)
from models.bundle.manifest import CellClass
from tests.unit.edge.damaged_stores import as_after_a_power_cut, damage
from tests.unit.edge.edge_builders import DEVICE, MODEL, ORDINARY, START, cell, named, new_field

AMPLE = Quotas(rows=1000, image_bytes=10_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, AMPLE, first_boot=1)) as store:
        yield store


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


def read_by_a_person(opinion: SecondOpinion, label: str) -> SecondOpinion:
    """The same with a person's label on its cell, and a monocyte that both models missed."""
    cells = tuple(cell.model_copy(update={"reader": label}) for cell in opinion.cells)
    missed = (CellLabel(bbox=(9, 9, 40, 40), label="monocyte"),)
    return opinion.model_copy(update={"state": OpinionState.REVIEWED, "cells": cells, "missed": missed})


def test_a_field_is_stored_with_its_cells_counts_and_spool_rows(store: Store) -> None:
    assert store.record_field(new_field(1, slide_id=slide(store), image_bytes=500), now=START)
    reads = Reads(store.database)
    (field,) = reads.fields()
    assert (field.counts.rbc, field.counts.wbc, field.counts.platelets) == (2, 1, 1)
    assert [c.cls.value for c in field.detections] == ["RBC", "RBC", "Platelets", "WBC"]
    totals = reads.slide(1)
    assert (totals.fields, totals.rbc, totals.platelets, totals.white_cells) == (1, 2, 1, {"neutrophil": 1})
    waiting = store.waiting()
    assert (waiting.events, waiting.images, waiting.image_bytes) == (1, 1, 500)
    (row,) = store.take_events(limit=10)
    assert (json.loads(row.payload)["boot"], json.loads(row.payload)["seq"]) == (row.boot, row.seq) == (1, 0)


def test_a_field_of_a_replayable_source_is_stored_once_a_slide(store: Store) -> None:
    first = slide(store)
    assert store.record_field(new_field(1, slide_id=first), now=START)
    assert not store.record_field(new_field(1, slide_id=first), now=START)
    assert store.waiting().events == 1
    assert Reads(store.database).slide(first).fields == 1
    assert Reads(store.database).counters()[Counter.FIELDS_REPEATED] == 1


def test_a_withheld_field_is_kept_but_none_of_its_cells_is_counted(store: Store) -> None:
    number = slide(store)
    store.record_field(new_field(1, slide_id=number, decision=Decision.WITHHELD), now=START)
    totals = Reads(store.database).slide(number)
    assert (totals.fields, totals.withheld, totals.rbc, totals.white_cells) == (1, 1, 0, {})
    assert len(next(Reads(store.database).fields()).detections) == len(ORDINARY)
    assert Reads(store.database).cells(None, 10) == []


def test_every_opening_is_a_new_boot_and_starts_its_numbers_anew(tmp_path: Path) -> None:
    rows = []
    for boot in (1, 2, 3):
        with closing(Store(tmp_path, AMPLE, first_boot=1)) as store:
            assert store.boot == boot
            store.record_field(new_field(boot, slide_id=slide(store), boot=boot), now=START)
            rows = [(row.boot, row.seq) for row in store.take_events(limit=10)]
    assert rows == [(1, 0), (2, 0), (3, 0)]


def test_a_store_that_replaces_a_lost_one_never_uses_a_boot_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.store.store_sqlite.time.time", lambda: 1_790_000_000.7)
    boots = []
    for _ in range(3):
        with closing(Store(tmp_path / "lost", AMPLE)) as store:
            boots.append(store.boot)
    monkeypatch.setattr("edge_agent.store.store_sqlite.time.time", lambda: 1_790_003_600.0)
    with closing(Store(tmp_path / "new", AMPLE)) as store:
        boots.append(store.boot)
    assert boots == [1_790_000_000, 1_790_000_001, 1_790_000_002, 1_790_003_600]


def test_results_that_the_cloud_refuses_are_told_of_once_they_are_counted(store: Store) -> None:
    told: list[int] = []
    store.on_rejected = told.append
    number = slide(store)
    for n in range(1, 4):
        store.record_field(new_field(n, slide_id=number), now=START)
    store.acknowledge(ack(0), ())
    assert told == []
    store.acknowledge((), ack(1, 2))
    store.acknowledge((), ack(1, 2))
    assert told == [2]
    assert Reads(store.database).counters()[Counter.RESULTS_REJECTED] == 2


def test_a_first_start_that_was_killed_between_two_steps_of_the_schema_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("edge_agent.store.database_sqlite.MIGRATIONS", (*MIGRATIONS, "as far as the kill;"))
        killed.setattr("edge_agent.store.database_sqlite.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(StoreFault):
            Store(tmp_path, AMPLE)
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.record_field(new_field(1, slide_id=slide(store)), now=START)


def test_a_failed_transaction_leaves_nothing_and_uses_no_number(store: Store) -> None:
    number = slide(store)
    with pytest.raises(StoreFault):
        store.record_field(new_field(1, slide_id=999), now=START)
    assert store.waiting().events == 0
    assert list(Reads(store.database).fields()) == []
    store.record_field(new_field(1, slide_id=number), now=START)
    assert [row.seq for row in store.take_events(limit=10)] == [0]


def test_acknowledged_rows_go_and_an_acknowledgement_may_come_twice(store: Store) -> None:
    number = slide(store)
    for n in range(1, 6):
        store.record_field(new_field(n, slide_id=number), now=START)
    assert store.acknowledge((SeqRange(boot=1, first=0, last=2),), ack(3)) == 4
    assert store.acknowledge((SeqRange(boot=1, first=0, last=2),), ()) == 0
    assert store.acknowledge(ack(4, boot=7), ()) == 0
    assert [row.seq for row in store.take_events(limit=10)] == [4]
    counters = Reads(store.database).counters()
    assert (counters[Counter.RESULTS_SENT], counters[Counter.RESULTS_REJECTED]) == (3, 1)


def test_acknowledging_an_event_never_deletes_a_picture_with_a_number_beside_it(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store), image_bytes=10), now=START)
    store.acknowledge((SeqRange(boot=1, first=0, last=50),), ())
    assert (store.waiting().events, store.waiting().images) == (0, 1)


def test_an_answered_picture_leaves_the_spool_with_its_opinion_in_one_step(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store), image_bytes=10), now=START)
    image = store.next_image()
    assert image is not None
    store.note_attempt(image.row_id, https_bytes=321)
    store.answer(opinion_of(image.capture_id), row_id=image.row_id, now=START)
    store.answer(opinion_of(image.capture_id), row_id=image.row_id, now=START)
    reads = Reads(store.database)
    assert store.next_image() is None
    assert [(o.capture_id, o.state, o.labels) for o in reads.opinions()] == [
        ("bench-1/1/1", "answered", {"monocyte": 1})
    ]
    assert reads.counters()[Counter.IMAGES_SENT] == 1
    assert reads.counters()[Counter.HTTPS_BYTES] == 321
    (card,) = reads.cells(None, 10)
    assert (card.label, card.second_label, card.second_source) == ("neutrophil", "monocyte", "larger model")
    assert reads.crop(card.cell_id) == b"jpeg"


def test_an_announced_opinion_is_fetched_unless_the_whole_of_it_is_here(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    whole = opinion_of("bench-1/1/1")
    short = OpinionReady(
        opinion=whole.id, capture_id="bench-1/1/1", state=OpinionState.ANSWERED, source="m", not_after=START
    )
    assert store.announce(short, now=START)
    store.answer(whole, row_id=None, now=START)
    assert not store.announce(short, now=START)
    assert store.announce(short.model_copy(update={"state": OpinionState.REVIEWED}), now=START)


def test_a_persons_word_takes_the_larger_models_place(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    whole = opinion_of("bench-1/1/1")
    store.answer(whole, row_id=None, now=START)
    store.answer(read_by_a_person(whole, "basophil"), row_id=None, now=START)
    reads = Reads(store.database)
    (card,) = reads.cells(None, 10)
    assert (card.label, card.second_label, card.second_source) == ("neutrophil", "basophil", "reader")
    (opinion,) = reads.opinions()
    assert (opinion.state, opinion.source, opinion.labels) == ("reviewed", "reader", {"basophil": 1, "monocyte": 1})


def test_a_person_labels_also_what_only_the_device_saw(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    whole = opinion_of("bench-1/1/1")
    alone = whole.model_copy(update={"cells": (whole.cells[0].model_copy(update={"cloud": None}),)})
    store.answer(alone, row_id=None, now=START)
    assert Reads(store.database).cells(None, 10)[0].second_label is None
    store.answer(read_by_a_person(alone, "artefact"), row_id=None, now=START)
    (card,) = Reads(store.database).cells(None, 10)
    assert (card.second_label, card.second_source) == ("artefact", "reader")


def test_a_label_changed_after_the_end_of_a_reading_is_fetched_again(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    whole = read_by_a_person(opinion_of("bench-1/1/1"), "basophil")
    store.answer(whole, row_id=None, now=START)
    short = OpinionReady(
        opinion=whole.id,
        capture_id="bench-1/1/1",
        state=OpinionState.REVIEWED,
        source="reader",
        labels={"monocyte": 1, "basophil": 1},
        not_after=START,
    )
    assert not store.announce(short, now=START)
    assert store.announce(short.model_copy(update={"labels": {"monocyte": 2}}), now=START)


def test_a_refused_picture_is_kept_counted_and_told(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store), image_bytes=10), now=START)
    image = store.next_image()
    assert image is not None
    store.refuse_image(image.row_id, "413", now=START)
    assert (store.waiting().images, store.waiting().aside) == (0, 1)
    assert store.next_image() is None
    told = json.loads(store.take_events(limit=10)[-1].payload)
    assert (told["kind"], told["reason"], told["images"]) == ("dropped", "refused:413", 1)


def spoil(store: Store, row_id: int, payload: bytes) -> None:
    with store.database.transaction() as connection:
        connection.execute("UPDATE spool SET payload = CAST(? AS TEXT) WHERE id = ?", (payload, row_id))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"kind":"field","boot":1,"se', "not_json"),
        (b'{"kind":"field","boot":1,"seq":1,"slide":"\xff"}', "not_utf_8"),
        (b'{"kind":"field","boot":1,"seq":1,"focus":NaN}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'["field",1,1]', "no_event"),
        (b'{"boot":1,"seq":1}', "no_event"),
        (b'{"kind":"field","boot":1,"seq":7}', "wrong_number"),
        (b'{"kind":"field","boot":1,"seq":1,"slide":"' + b"x" * 300_000 + b'"}', "too_large"),
    ],
)
def test_a_result_that_cannot_be_sent_is_set_aside_counted_and_told_and_the_others_go_on(
    store: Store, payload: bytes, reason: str
) -> None:
    told: list[int] = []
    store.on_set_aside = told.append
    number = slide(store)
    for n in range(1, 5):
        store.record_field(new_field(n, slide_id=number), now=START)
    spoil(store, 2, payload)
    assert [row.seq for row in store.take_events(limit=100)] == [0, 2, 3]
    assert [row.seq for row in store.take_events(limit=100)] == [0, 2, 3]
    assert told == [1]
    assert Reads(store.database).counters()[Counter.RESULTS_SET_ASIDE] == 1
    assert (store.waiting().events, store.waiting().aside) == (3, 1)
    with store.database.reading() as connection:
        assert asides(connection) == {2: reason}


def test_a_page_of_nothing_but_results_that_cannot_be_sent_does_not_look_like_the_end(store: Store) -> None:
    number = slide(store)
    for n in range(1, 8):
        store.record_field(new_field(n, slide_id=number), now=START)
    for row_id in range(1, 6):
        spoil(store, row_id, b"rubbish")
    assert [row.seq for row in store.take_events(limit=2)] == [5]
    assert [row.seq for row in store.take_events(limit=2)] == [5, 6]


def test_what_is_set_aside_is_the_first_to_go_over_a_quota(tmp_path: Path) -> None:
    with closing(Store(tmp_path, Quotas(rows=20, image_bytes=1000))) as store:
        number = slide(store)
        for n in range(1, 16):
            store.record_field(new_field(n, slide_id=number, image_bytes=60), now=START)
        image = store.next_image(excluding=(2, 4, 6))
        assert image is not None
        store.refuse_image(image.row_id, "413", now=START)
        spoil(store, 9, b"rubbish")
        assert store.take_events(limit=100)
        assert store.waiting().aside == 2
        for n in range(16, 23):
            store.record_field(new_field(n, slide_id=number, image_bytes=60), now=START)
        waiting = store.waiting()
        assert waiting.aside == 0
        first = json.loads(store.take_events(limit=1)[0].payload)
        assert first["capture_id"] != "bench-1/1/1", "one more went, the oldest"


def a_note(store: Store, code: str = "x") -> None:
    store.alarm(Alarm(boot=0, seq=0, raised_at=START, severity=Severity.INFO, code=code, text=""), now=START)


def kinds(store: Store, limit: int = 1000) -> list[str]:
    return [json.loads(row.payload)["kind"] for row in store.take_events(limit=limit)]


def test_results_leave_before_notes_however_late_they_come(store: Store) -> None:
    number = slide(store)
    for _ in range(3):
        a_note(store)
    store.record_field(new_field(1, slide_id=number), now=START)
    assert kinds(store) == ["field", "alarm", "alarm", "alarm"]
    assert kinds(store, limit=2) == ["field", "alarm"]
    first = store.take_events(limit=3)
    cursors = (first[0].row_id, first[-1].row_id)
    store.record_field(new_field(2, slide_id=number), now=START)
    later = store.take_events(after=cursors, limit=10)
    assert [json.loads(row.payload)["kind"] for row in later] == ["field", "alarm"]


def test_pictures_in_doubt_leave_before_those_of_the_audit_stream(store: Store) -> None:
    number = slide(store)
    doubt, audit = Decision.UNCERTAIN, Decision.ACCEPT
    for n, (decision, marked) in enumerate([(audit, True), (doubt, False), (audit, True), (doubt, True)], start=1):
        field = new_field(n, slide_id=number, decision=decision, image_bytes=10)
        assert field.image is not None
        image = replace(field.image, context=field.image.context.model_copy(update={"audit": marked}))
        store.record_field(replace(field, image=image), now=START)
    left = []
    while (image_ := store.next_image()) is not None:
        left.append(image_.capture_id)
        store.answer(opinion_of(image_.capture_id), row_id=image_.row_id, now=START)
    assert left == [f"bench-1/1/{n}" for n in (2, 4, 1, 3)]


def test_over_its_quotas_the_spool_gives_up_notes_before_results_and_audit_before_doubt(tmp_path: Path) -> None:
    quotas = Quotas(rows=20, image_bytes=10**6, images=10)
    with closing(Store(tmp_path, quotas)) as store:
        number = slide(store)
        for n in range(1, 9):
            a_note(store)
            decision = Decision.UNCERTAIN if n % 2 else Decision.ACCEPT
            field = new_field(n, slide_id=number, decision=decision, image_bytes=10)
            assert field.image is not None
            image = replace(field.image, context=field.image.context.model_copy(update={"audit": not n % 2}))
            store.record_field(replace(field, image=image), now=START)
        for n in range(9, 15):
            store.record_field(new_field(n, slide_id=number, decision=Decision.UNCERTAIN, image_bytes=10), now=START)
        found = kinds(store)
        assert found.count("field") == 14
        assert found.count("alarm") < 8
        assert found.count("dropped") >= 1
        with store.database.reading() as connection:
            rows = connection.execute("SELECT priority, COUNT(*) FROM spool WHERE kind = 'image' GROUP BY priority")
            held = dict(rows.fetchall())
        assert held == {2: 10}, "all four of the audit stream went, none in doubt"
        counters = Reads(store.database).counters()
        assert counters[Counter.IMAGES_DROPPED] == 4
        assert counters[Counter.RESULTS_DROPPED] == 8 - found.count("alarm")


def test_a_quota_in_bytes_holds_for_results_too(tmp_path: Path) -> None:
    with closing(Store(tmp_path, Quotas(rows=10_000, image_bytes=1, event_bytes=20_000))) as store:
        number = slide(store)
        for n in range(1, 200):
            store.record_field(new_field(n, slide_id=number), now=START)
        rows = store.take_events(limit=1000)
        assert sum(len(row.payload) for row in rows) <= 21_000
        kept = [json.loads(row.payload)["capture_id"] for row in rows if '"kind":"field"' in row.payload]
        assert kept[-1] == "bench-1/1/199"
        dropped = Reads(store.database).counters()[Counter.RESULTS_DROPPED]
        assert dropped == 199 - len(kept)


def test_slides_and_labels_outlive_the_fields_they_stand_on(tmp_path: Path) -> None:
    with closing(Store(tmp_path, Quotas(rows=100, image_bytes=1))) as store:
        number = slide(store)
        result = SlideResult(
            boot=0, seq=0, slide="p", opened_at=START, closed_at=START, fields=0, withheld=0, rbc=0, platelets=0,
            white_cells={}, limits={}, model=MODEL.digest,
        )  # fmt: skip
        store.append(result, now=START)
        for n in range(1, 150):
            store.record_field(new_field(n, slide_id=number), now=START)
        found = kinds(store)
        assert found.count("slide") == 1
        assert found.count("field") < 149


def test_a_row_given_up_by_its_number_stays_in_the_store(store: Store) -> None:
    number = slide(store)
    for n in range(1, 4):
        store.record_field(new_field(n, slide_id=number, image_bytes=10), now=START)
    assert store.give_up(ack(0, 2)) == 2
    assert store.give_up(ack(0, 2)) == 0
    assert [row.seq for row in store.take_events(limit=9)] == [4]
    assert (store.waiting().images, store.waiting().aside) == (3, 2)


def test_over_its_quota_the_spool_gives_up_the_oldest_counts_them_and_says_so(tmp_path: Path) -> None:
    with closing(Store(tmp_path, Quotas(rows=20, image_bytes=1000))) as store:
        number = slide(store)
        for n in range(1, 41):
            store.record_field(new_field(n, slide_id=number, image_bytes=300), now=START)
        rows = [json.loads(row.payload) for row in store.take_events(limit=1000)]
        told = [row for row in rows if row["kind"] == "dropped"]
        results, images = sum(row["results"] for row in told), sum(row["images"] for row in told)
        kept = [row["capture_id"] for row in rows if row["kind"] == "field"]
        assert len(kept) + results == 40
        assert kept == [f"bench-1/1/{n}" for n in range(41 - len(kept), 41)]
        assert store.waiting().images + images == 40
        assert store.waiting().image_bytes <= 1000
        counters = Reads(store.database).counters()
        assert (counters[Counter.RESULTS_DROPPED], counters[Counter.IMAGES_DROPPED]) == (results, images)
        assert Reads(store.database).slide(number).fields == 40


def test_a_closed_slide_is_followed_by_one_with_the_next_name(store: Store) -> None:
    first = store.open_slide("24-0187", target_white_cells=100, now=START)
    assert store.open_slide("24-0187", target_white_cells=100, now=START) == first
    result = SlideResult(
        boot=0,
        seq=0,
        slide=first.pseudonym,
        opened_at=START,
        closed_at=START,
        fields=0,
        withheld=0,
        rbc=0,
        platelets=0,
        white_cells={},
        limits={},
        model=MODEL.digest,
    )
    assert store.close_slide(first.slide_id, result, now=START)
    assert not store.close_slide(first.slide_id, result, now=START)
    assert store.waiting().events == 1
    assert store.open_slide("24-0187", target_white_cells=100, now=START).name == "24-0187-2"
    assert "24-0187" not in first.pseudonym


def test_the_same_field_may_be_read_for_another_slide(store: Store) -> None:
    first = slide(store)
    store.record_field(new_field(1, slide_id=first), now=START)
    with store.database.transaction() as connection:
        connection.execute("UPDATE slides SET closed_at = '2026-01-01T00:00:00Z'")
    second = slide(store)
    other = new_field(1, slide_id=second, boot=2)
    assert store.record_field(other, now=START)
    reads = Reads(store.database)
    assert reads.known_refs("folder", ["set/001.png", "set/002.png"], slide_id=second) == {"set/001.png"}
    assert reads.last_ref("folder", slide_id=second) == "set/001.png"


def test_on_a_full_disk_nothing_committed_is_lost_and_it_goes_on_when_there_is_room(store: Store) -> None:
    number = slide(store)
    store.record_field(new_field(1, slide_id=number), now=START)
    with store.database.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    store.database.limit_pages(pages + 2)
    stored, said = 1, ""
    try:
        for n in range(2, 500):
            store.record_field(new_field(n, slide_id=number, image_bytes=2000), now=START)
            stored += 1
    except StoreFull as exc:
        said = str(exc)
    assert "free some disk space" in said
    assert Reads(store.database).slide(number).fields == stored == len(list(Reads(store.database).fields()))
    assert store.waiting().events == stored
    store.database.limit_pages(pages + 1000)
    assert store.record_field(new_field(stored + 1, slide_id=number), now=START)
    seqs = [row.seq for row in store.take_events(limit=1000)]
    assert seqs == sorted(set(seqs))


def filled(folder: Path, fields: int = 59) -> Store:
    store = Store(folder, AMPLE)
    number = slide(store)
    for n in range(1, fields + 1):
        store.record_field(new_field(n, slide_id=number, image_bytes=3000), now=START)
    return store


def test_damage_to_what_everything_needs_is_found_at_the_next_start(tmp_path: Path) -> None:
    damage(path := as_after_a_power_cut(filled(tmp_path)), "counters")
    with pytest.raises(StoreDamaged, match="start the agent again"):
        Database(path)


def test_damage_to_the_rest_is_found_by_the_check_that_runs_beside_the_work(tmp_path: Path) -> None:
    damage(path := as_after_a_power_cut(filled(tmp_path)), "detections")
    for _ in range(2):
        with closing(Database(path)) as database:
            assert database.unchecked, "as long as it was not found sound, each start checks again"
            with pytest.raises(StoreDamaged, match="start the agent again"):
                database.check()


def test_a_sound_store_is_checked_once_after_an_unclean_end(tmp_path: Path) -> None:
    as_after_a_power_cut(filled(tmp_path))
    with closing(Store(tmp_path, AMPLE)) as store:
        assert store.database.unchecked
        store.database.check()
    with closing(Store(tmp_path, AMPLE)) as store:
        assert not store.database.unchecked


def test_who_reads_does_not_wait_for_who_writes_nor_the_other_way_round(store: Store) -> None:
    number = slide(store)
    store.record_field(new_field(1, slide_id=number), now=START)
    reads, seen = Reads(store.database), list[int]()

    def look() -> None:
        seen.append(len(reads.cells(None, 10)))

    with store.database.transaction() as connection:
        connection.execute("DELETE FROM detections")
        beside = threading.Thread(target=look, daemon=True)
        beside.start()
        beside.join(30)
        assert seen == [1], "the reader waits for the writer, or sees what is not committed"
    assert reads.cells(None, 10) == []
    with store.database.reading() as connection:
        before = connection.execute("SELECT COUNT(*) FROM fields").fetchone()[0]
        beside = threading.Thread(
            target=lambda: store.record_field(new_field(2, slide_id=number), now=START), daemon=True
        )
        beside.start()
        beside.join(30)
        assert not beside.is_alive(), "the writer waits for the reader"
        assert connection.execute("SELECT COUNT(*) FROM fields").fetchone()[0] == before, "one state for one reading"
    assert reads.slide(number).fields == 2


def test_readers_are_kept_few_and_write_nothing(store: Store) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(store.database.reading())
    assert len(store.database._readers) <= 3
    with pytest.raises(StoreFault), store.database.reading() as connection:
        connection.execute("DELETE FROM counters")


def test_no_question_asked_while_fields_are_read_walks_through_a_table(store: Store) -> None:
    filled = slide(store)
    for n in range(1, 30):
        store.record_field(new_field(n, slide_id=filled, image_bytes=10), now=START)
    asked: list[str] = []
    reads = Reads(store.database)
    with store.database.reading() as reader:
        reader.set_trace_callback(asked.append)
    store.database._connection.set_trace_callback(asked.append)
    reads.cells(None, 50)
    reads.cells("s", 50)
    reads.known_refs("folder", ["a", "b"], slide_id=None)
    reads.known_refs("folder", ["a", "b"], slide_id=filled)
    reads.last_ref("folder", slide_id=filled)
    reads.slide(filled)
    reads.waiting_copy("bench-1/1/1")
    store.waiting()
    store.take_events(limit=10)
    store.acknowledge(ack(0), ())
    store.record_field(new_field(90, slide_id=filled, image_bytes=10), now=START)
    queries = {text for text in asked if text.lstrip().upper().startswith(("SELECT", "DELETE", "UPDATE"))}
    assert len(queries) > 10
    small = {"meta", "counters", "spool_totals", "slides", "slide_white_cells"}
    with store.database.reading() as connection:
        for query in queries:
            for step in connection.execute(f"EXPLAIN QUERY PLAN {query}"):
                words = str(step["detail"]).split()
                assert words[0] != "SCAN" or words[1] in small, (query, step["detail"])


def test_a_store_of_a_newer_agent_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, AMPLE).close()
    database = Database(tmp_path / FILE_NAME)
    database._connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreDamaged, match="newer agent"):
        Store(tmp_path, AMPLE)


def test_a_report_can_be_read_beside_a_running_agent_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store)), now=START)
    with closing(Database(tmp_path / FILE_NAME, read_only=True)) as beside:
        assert len(list(Reads(beside).fields())) == 1
        with pytest.raises(StoreFault), beside.transaction() as connection:
            connection.execute("DELETE FROM fields")
    with pytest.raises(StoreFault, match="has the agent ever run"):
        Database(tmp_path / "elsewhere.sqlite3", read_only=True)


def test_the_gallery_shows_the_worst_cells_first(store: Store) -> None:
    cells = tuple(
        cell(CellClass.WBC, at=at, cell_type=named(label, probability=p))
        for at, label, p in ((10, "neutrophil", 0.99), (60, "lymphocyte", 0.6), (120, "unidentified", 0.7))
    )
    store.record_field(new_field(1, slide_id=slide(store), cells=cells), now=START)
    assert [c.label for c in Reads(store.database).cells(None, 10)] == ["unidentified", "lymphocyte", "neutrophil"]
    assert len(Reads(store.database).cells("s", 2)) == 2
    assert Reads(store.database).cells("no such slide", 10) == []


STEPS = st.lists(
    st.one_of(
        st.just(("field",)),
        st.tuples(st.just("ack"), st.integers(0, 30), st.integers(0, 5)),
        st.just(("reopen",)),
        st.just(("crash",)),
    ),
    max_size=40,
)


def test_a_step_of_the_update_is_stored_once_by_its_number_in_its_journal(tmp_path: Path) -> None:
    step = UpdateStep(
        boot=0, seq=0, happened_at=START, before=UpdateState.IDLE, after=UpdateState.DOWNLOADING, counter=2
    )
    with closing(Store(tmp_path, AMPLE)) as store:
        told = [store.append_step(step, journal="journal-1", number=n, now=START) for n in (1, 2, 1, 2, 3)]
        assert told == [True, True, False, False, True]
    with closing(Store(tmp_path, AMPLE)) as store:
        assert not store.append_step(step, journal="journal-1", number=3, now=START)
        assert store.append_step(step, journal="journal-2", number=1, now=START), "a record made anew begins at one"
        assert store.waiting().events == 4


@settings(max_examples=25)
@given(STEPS)
def test_whatever_happens_each_result_is_waiting_or_was_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    store = Store(folder, AMPLE)
    expected: set[tuple[int, int]] = set()
    seqs: dict[int, int] = {}
    number = 0
    try:
        for step in steps:
            if step[0] == "field":
                number += 1
                store.record_field(new_field(number, slide_id=slide(store), boot=store.boot), now=START)
                seq = seqs.get(store.boot, 0)
                seqs[store.boot] = seq + 1
                expected.add((store.boot, seq))
            elif step[0] == "ack":
                first, more = int(str(step[1])), int(str(step[2]))
                store.acknowledge((SeqRange(boot=store.boot, first=first, last=first + more),), ())
                expected -= {(store.boot, n) for n in range(first, first + more + 1)}
            else:
                store.close() if step[0] == "reopen" else store.database._connection.close()
                store = Store(folder, AMPLE)
            found = {(row.boot, row.seq) for row in store.take_events(limit=1000)}
            assert found == expected
    finally:
        store.close()


SPOOL_STEPS = st.lists(
    st.one_of(
        st.just(("field", 0)),
        st.just(("note", 0)),
        st.tuples(st.just("ack"), st.integers(0, 40)),
        st.tuples(st.just("reject"), st.integers(0, 40)),
        st.tuples(st.just("spoil"), st.integers(0, 40)),
        st.just(("retry", 0)),
        st.just(("take", 0)),
        st.just(("reopen", 0)),
        st.just(("crash", 0)),
    ),
    max_size=60,
)


@settings(max_examples=25)
@given(SPOOL_STEPS)
def test_whatever_happens_each_number_is_waiting_sent_refused_given_up_or_set_aside(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    quotas = Quotas(rows=12, image_bytes=1)
    store = Store(folder, quotas)
    used = number = 0
    try:
        for step, at in steps:
            waiting = [row.row_id for row in store.take_events(limit=1000)]
            if step == "field":
                number += 1
                store.record_field(new_field(number, slide_id=slide(store), boot=store.boot), now=START)
            elif step == "note":
                a_note(store)
            elif step == "ack":
                store.acknowledge((SeqRange(boot=store.boot, first=at, last=at + 1),), ())
            elif step == "reject":
                store.acknowledge((), (SeqRange(boot=store.boot, first=at, last=at),))
            elif step == "spoil" and waiting:
                spoil(store, waiting[at % len(waiting)], b"rubbish")
            elif step == "retry":
                with closing(SpoolRows(folder, write=True)) as rows:
                    rows.retry(None)
            elif step in ("reopen", "crash"):
                used += store._numbering.seq
                store.close() if step == "reopen" else store.database._connection.close()
                store = Store(folder, quotas)
            sound = store.take_events(limit=1000)
            held, counters = store.waiting(), Reads(store.database).counters()
            ended = sum(
                counters[name] for name in (Counter.RESULTS_SENT, Counter.RESULTS_REJECTED, Counter.RESULTS_DROPPED)
            )
            assert len(sound) == held.events, "what is listed as waiting can be sent"
            assert held.events + held.aside + ended == used + store._numbering.seq
    finally:
        store.close()
