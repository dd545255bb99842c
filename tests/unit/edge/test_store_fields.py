"""A field is stored whole or not at all, once a slide, under a slide whose name no other has."""

from __future__ import annotations

import json

import pytest

from edge_agent.errors import StoreFault, StoreFull
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.store_sqlite import Store
from fleet.contract.cells import Decision
from models.bundle.manifest import CellClass
from tests.unit.edge.edge_builders import ORDINARY, START, cell, named, new_field
from tests.unit.edge.store_builders import no_fields, slide


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


def test_a_failed_transaction_leaves_nothing_and_uses_no_number(store: Store) -> None:
    number = slide(store)
    with pytest.raises(StoreFault):
        store.record_field(new_field(1, slide_id=999), now=START)
    assert store.waiting().events == 0
    assert list(Reads(store.database).fields()) == []
    store.record_field(new_field(1, slide_id=number), now=START)
    assert [row.seq for row in store.take_events(limit=10)] == [0]


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


def test_a_closed_slide_is_followed_by_one_with_the_next_name(store: Store) -> None:
    first = store.open_slide("24-0187", target_white_cells=100, now=START)
    assert store.open_slide("24-0187", target_white_cells=100, now=START) == first
    result = no_fields(first.pseudonym)
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


def test_the_gallery_shows_the_worst_cells_first(store: Store) -> None:
    cells = tuple(
        cell(CellClass.WBC, at=at, cell_type=named(label, probability=p))
        for at, label, p in ((10, "neutrophil", 0.99), (60, "lymphocyte", 0.6), (120, "unidentified", 0.7))
    )
    store.record_field(new_field(1, slide_id=slide(store), cells=cells), now=START)
    assert [c.label for c in Reads(store.database).cells(None, 10)] == ["unidentified", "lymphocyte", "neutrophil"]
    assert len(Reads(store.database).cells("s", 2)) == 2
    assert Reads(store.database).cells("no such slide", 10) == []
