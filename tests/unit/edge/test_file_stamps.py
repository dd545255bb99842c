"""The store keeps what the files of a watched folder were like."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_agent.capture.errors import SourceTimeout
from edge_agent.capture.frame import FileStamp, Frame
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import FrameSource
from edge_agent.composition import _resumed
from edge_agent.config import Settings
from edge_agent.recording import SourceName
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from tests.unit.edge.edge_builders import START, new_field


def test_the_stamp_of_a_file_is_stored_with_its_field_and_the_newest_counts(tmp_path: Path) -> None:
    store = Store(tmp_path, Quotas(rows=100, image_bytes=10**6), first_boot=1)
    try:
        slide = store.open_slide("s", target_white_cells=10, now=START).slide_id
        first = replace(new_field(1, slide_id=slide), file_stamp=FileStamp("set/001.png", "10:1:aa"))
        store.record_field(first, now=START)
        reads = Reads(store.database)
        assert reads.file_stamps(["set/001.png", "set/002.png"]) == {"set/001.png": "10:1:aa"}
        again = replace(
            new_field(2, slide_id=slide), source_ref="set/001.png#bb", file_stamp=FileStamp("set/001.png", "11:2:bb")
        )
        assert store.record_field(again, now=START)
        assert reads.file_stamps(["set/001.png"]) == {"set/001.png": "11:2:bb"}
        refs = ["set/001.png", "set/001.png#bb"]
        assert reads.known_refs("folder", refs, slide_id=None) == set(refs), "a stamp is no file that was stored"
    finally:
        store.close()


def test_the_agents_own_source_asks_the_store_for_stamps_and_reads_a_name_that_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    settings = Settings.model_construct(source=SourceSettings(spec=str(folder), watch=True, settle_s=0.05, poll_s=0.02))
    store = Store(tmp_path / "data", Quotas(rows=100, image_bytes=10**6), first_boot=1)
    reads, name = Reads(store.database), SourceName("folder", True)
    try:
        slide = store.open_slide("s", target_white_cells=10, now=START).slide_id
        for number in (1, 2, 3):
            if number < 3:
                cv2.imwrite(str(folder / "Snap-001.png"), np.full((40 + number, 60, 3), 128, np.uint8))
            with _resumed(settings, reads, name, slide, lambda dropped: None) as source:
                frame = next_frame(source, within_s=20.0 if number < 3 else 1.0)
            if frame is not None:
                field = replace(
                    new_field(number, slide_id=slide), source_ref=frame.source_ref, file_stamp=frame.file_stamp
                )
                assert store.record_field(field, now=START)
        assert len(list(reads.fields())) == 2, "two pictures under one name, neither twice"
    finally:
        store.close()


def next_frame(source: FrameSource, *, within_s: float) -> Frame | None:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            return source.read(0.05)
        except SourceTimeout:
            continue
    return None
