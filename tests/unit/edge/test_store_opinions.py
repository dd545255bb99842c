"""What the larger model and people say of a picture is kept beside the device's own word."""

from __future__ import annotations

from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.store_sqlite import Store
from fleet.contract.http import CellLabel, SecondOpinion
from fleet.contract.messages import (
    OpinionReady,
    OpinionState,
)
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import opinion_of, slide


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


def read_by_a_person(opinion: SecondOpinion, label: str) -> SecondOpinion:
    """The same with a person's label on its cell, and a monocyte that both models missed."""
    cells = tuple(cell.model_copy(update={"reader": label}) for cell in opinion.cells)
    missed = (CellLabel(bbox=(9, 9, 40, 40), label="monocyte"),)
    return opinion.model_copy(update={"state": OpinionState.REVIEWED, "cells": cells, "missed": missed})


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
