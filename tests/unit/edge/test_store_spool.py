"""The spool: what leaves first, what goes at its acknowledgement, and what is set aside and told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_sqlite import asides
from edge_agent.store.store_sqlite import Store
from fleet.contract.cells import Decision
from fleet.contract.messages import (
    SeqRange,
)
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import a_note, ack, kinds, opinion_of, slide, spoil


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


def test_a_refused_picture_is_kept_counted_and_told(store: Store) -> None:
    store.record_field(new_field(1, slide_id=slide(store), image_bytes=10), now=START)
    image = store.next_image()
    assert image is not None
    store.refuse_image(image.row_id, "413", now=START)
    assert (store.waiting().images, store.waiting().aside) == (0, 1)
    assert store.next_image() is None
    told = json.loads(store.take_events(limit=10)[-1].payload)
    assert (told["kind"], told["reason"], told["images"]) == ("dropped", "refused:413", 1)


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


def test_a_row_given_up_by_its_number_stays_in_the_store(store: Store) -> None:
    number = slide(store)
    for n in range(1, 4):
        store.record_field(new_field(n, slide_id=number, image_bytes=10), now=START)
    assert store.give_up(ack(0, 2)) == 2
    assert store.give_up(ack(0, 2)) == 0
    assert [row.seq for row in store.take_events(limit=9)] == [4]
    assert (store.waiting().images, store.waiting().aside) == (3, 2)


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
