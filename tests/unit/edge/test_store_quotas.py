"""Over its quotas the spool gives up what matters least, counts it and says so."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from fleet.contract.cells import Decision
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import a_note, kinds, no_fields, slide, spoil


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


def test_slides_and_labels_outlive_the_fields_they_stand_on(tmp_path: Path) -> None:
    with closing(Store(tmp_path, Quotas(rows=100, image_bytes=1))) as store:
        number = slide(store)
        store.append(no_fields("p"), now=START)
        for n in range(1, 150):
            store.record_field(new_field(n, slide_id=number), now=START)
        found = kinds(store)
        assert found.count("slide") == 1
        assert found.count("field") < 149
