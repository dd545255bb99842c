"""`ahs-edge spool` beside an agent whose store is open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import app
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import FILE_NAME, Store
from fleet.contract.messages import SeqRange
from tests.unit.edge.edge_builders import START, new_field
from tests.unit.edge.store_builders import spoil


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, Quotas(rows=1000, image_bytes=1_000_000), first_boot=1)) as store:
        slide = store.open_slide("s", target_white_cells=100, now=START).slide_id
        for n in (1, 2, 3):
            store.record_field(new_field(n, slide_id=slide, image_bytes=20), now=START)
        yield store


def command(store: Store, *arguments: str) -> Result:
    folder = store.database.path.parent
    return CliRunner().invoke(app, ["spool", *arguments, "--data-dir", str(folder)])


def test_rows_are_listed_in_the_order_in_which_they_leave_with_what_keeps_them(store: Store) -> None:
    spoil(store, 3, b"rubbish")
    assert [row.row_id for row in store.take_events(limit=10)] == [1, 5]
    done = command(store, "ls", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["kind"], row["row"]) for row in rows] == [
        ("event", 1), ("event", 3), ("event", 5), ("image", 2), ("image", 4), ("image", 6),
    ]  # fmt: skip
    assert [row["set_aside"] for row in rows if row["kind"] == "event"] == [None, "not_json", None]
    assert "set aside: not_json" in command(store, "ls", "--aside").stdout
    assert len(command(store, "ls", "--aside").stdout.splitlines()) == 1
    assert len(command(store, "ls", "--kind", "image").stdout.splitlines()) == 3
    assert command(store, "ls", "--kind", "fish").exit_code == 2


def test_a_row_is_shown_with_its_payload_even_when_that_is_no_json(store: Store, tmp_path: Path) -> None:
    spoil(store, 3, b"rubbish")
    assert json.loads(command(store, "show", "3").stdout)["payload"] == "rubbish"
    assert json.loads(command(store, "show", "1").stdout)["payload"]["capture_id"] == "bench-1/1/1"
    picture = tmp_path / "out.jpg"
    assert command(store, "show", "2", "--picture", str(picture)).exit_code == 0
    assert picture.read_bytes() == b"\xff" * 20
    assert command(store, "show", "99").exit_code == 2


def test_what_is_tried_again_leaves_behind_the_others_under_a_number_that_was_never_used(store: Store) -> None:
    good = store.take_events(limit=10)[1].payload
    spoil(store, 3, b"rubbish")
    cursors = (max(row.row_id for row in store.take_events(limit=10)), 0)
    spoil(store, 3, good.encode())
    assert command(store, "retry", "3").exit_code == 0
    (again,) = store.take_events(after=cursors, limit=10)
    assert again.payload == good
    assert store.waiting().aside == 0
    store.acknowledge((SeqRange(boot=1, first=again.seq, last=again.seq),), ())
    store.record_field(new_field(9, slide_id=1), now=START)
    (later,) = store.take_events(after=(again.row_id, 0), limit=10)
    assert later.row_id > again.row_id, "or it would be behind what the agent has gone past"


def test_only_what_is_set_aside_can_be_tried_again(store: Store) -> None:
    assert command(store, "retry").exit_code == 2
    done = command(store, "retry", "1", "99")
    assert (done.exit_code, "0 of 2" in done.stderr) == (2, True)
    store.refuse_image(2, "413", now=START)
    store.refuse_image(4, "413", now=START)
    assert "2 rows are sent again" in command(store, "retry", "--all").stderr
    assert (store.waiting().images, store.waiting().aside) == (3, 0)


def test_the_spool_is_exported_whole_or_only_what_is_set_aside_and_stays(store: Store, tmp_path: Path) -> None:
    spoil(store, 3, b"rubbish")
    store.take_events(limit=10)
    out = tmp_path / "all"
    assert command(store, "export", "--out", str(out)).exit_code == 0
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert len(list(out.glob("*.jpg"))) == len(list(out.glob("*-*.json"))) == 3
    assert command(store, "export", "--out", str(out)).exit_code == 2, "nothing is written over"
    assert command(store, "export", "--out", str(tmp_path / "aside"), "--aside").exit_code == 0
    assert len((tmp_path / "aside" / "events.jsonl").read_text().splitlines()) == 1
    assert (store.waiting().events, store.waiting().images, store.waiting().aside) == (2, 3, 1)


def test_a_command_beside_a_running_agent_does_not_make_its_end_look_clean(store: Store, tmp_path: Path) -> None:
    assert command(store, "retry", "--all").exit_code == 0
    store.database._connection.close()
    with closing(Database(tmp_path / FILE_NAME)) as database:
        assert database.unchecked
        assert len(list(Reads(database).fields())) == 3


def test_without_a_store_every_command_says_so_and_makes_none(tmp_path: Path) -> None:
    for arguments in (["ls"], ["show", "1"], ["retry", "--all"], ["export", "--out", str(tmp_path / "o")]):
        done = CliRunner().invoke(app, ["spool", *arguments, "--data-dir", str(tmp_path / "none")])
        assert (done.exit_code, "has the agent ever run" in done.stderr) == (5, True), arguments
    assert not (tmp_path / "none").exists()
