"""A repair tells the truth about itself, also when a later start ends it, and fits into a small memory."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.composition import compose, open_store, repair_told
from edge_agent.config import load_settings
from edge_agent.inference.engine import open_engine
from edge_agent.inference.switch import Switch
from edge_agent.store.repair_sqlite import Repaired
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import FILE_NAME, Store
from tests.unit.edge.damaged_stores import as_after_a_power_cut, damage
from tests.unit.edge.edge_builders import START, new_field

AMPLE = Quotas(rows=10_000, image_bytes=1_000_000_000)
FIELDS = 6


def filled(folder: Path, *, image_bytes: int | None = None) -> Path:
    store = Store(folder, AMPLE, first_boot=1_790_000_000)
    slide = store.open_slide("s", target_white_cells=100, now=START).slide_id
    for n in range(1, FIELDS + 1):
        store.record_field(new_field(n, slide_id=slide, boot=store.boot, image_bytes=image_bytes), now=START)
    return as_after_a_power_cut(store)


def repaired_at(folder: Path) -> Repaired:
    with closing(Store(folder, AMPLE)) as store:
        assert store.repaired is not None
        return store.repaired


@pytest.mark.parametrize("account", [True, False], ids=["with its account", "of an agent that kept none"])
@pytest.mark.parametrize("at", [".damaged-1", ""])
def test_a_repair_that_a_later_start_ends_tells_what_the_first_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, account: bool
) -> None:
    (tmp_path / "other").mkdir()
    damage(filled(tmp_path / "other"), "counters")
    expected = repaired_at(tmp_path / "other")
    folder = tmp_path / "store"
    damage(path := filled(folder), "counters")
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        if target.name == FILE_NAME + at:
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as kill:
        kill.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(folder, AMPLE)
    if not account:
        with closing(sqlite3.connect(path.with_name(FILE_NAME + ".repaired"))) as connection, connection:
            connection.execute("DELETE FROM meta WHERE key = 'repair'")
    found = repaired_at(folder)
    assert (found.lost, found.salt_lost) == (expected.lost, expected.salt_lost)
    assert [found.saved[table] for table in ("fields", "spool")] == [FIELDS, FIELDS]
    if account:
        assert found.saved == expected.saved
    assert found.kept_as.is_file(), "the file that is named is there"
    assert f"{2 * FIELDS} rows" in repair_told(found).text


def test_the_pictures_of_a_damaged_spool_are_read_one_by_one(tmp_path: Path) -> None:
    image_bytes = 4_000_000
    damage(filled(tmp_path, image_bytes=image_bytes), "counters")
    tracemalloc.start()
    try:
        found = repaired_at(tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.saved["spool"] == 2 * FIELDS
    assert peak_bytes < FIELDS * image_bytes / 2


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    return disc_bundle(tmp_path_factory.mktemp("bundle") / "a")


@pytest.mark.parametrize("damaged", [True, False])
def test_the_first_scrape_already_says_that_this_start_has_repaired(
    tmp_path: Path, bundle: Path, damaged: bool
) -> None:
    path = filled(tmp_path)
    if damaged:
        damage(path, "counters")
    settings = load_settings(overrides={"data_dir": tmp_path, "source": str(tmp_path)}, environment={})
    with (
        closing(open_engine(bundle, threads=1, self_test=False)) as engine,
        closing(open_store(settings)) as store,
    ):
        text = compose(settings, Switch(engine), store).parts.metrics.text().decode()
    assert f"ahs_edge_store_repaired {float(damaged)}" in text
