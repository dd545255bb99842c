"""Pictures at the end of a run show what they say; hashes tell one set from another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.bundle.manifest import CellClass
from models.runtime.detector import Candidates
from training.data.hashes import set_hash
from training.metrics import TrueCells
from training.samples import CAPTION_PX, FOUND_RGB, TILE_PX, TRUTH_RGB, crop_sheet, field_picture


def test_a_field_shows_truth_and_findings_above_the_threshold() -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    truth = TrueCells(np.array([[40, 40, 120, 120]], np.float32), np.array([0]))
    boxes = np.array([[300, 100, 420, 220], [300, 300, 420, 420]], np.float32)
    found = Candidates(boxes, np.array([0.9, 0.1], np.float32), np.array([1, 0], np.int32))
    drawn = field_picture(image, truth, found, threshold=0.3)
    assert drawn.shape == (360, 480, 3)
    colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
    assert colours == {(90, 90, 90), TRUTH_RGB, FOUND_RGB[CellClass.WBC]}


def test_crops_stand_over_their_captions_in_rows() -> None:
    crops = [np.full((64, 64, 3), 200, np.uint8)] * 9
    assert crop_sheet(crops, ["monocyte > lymphocyte"] * 9).shape == (2 * (TILE_PX + CAPTION_PX), 8 * TILE_PX, 3)
    assert crop_sheet([], []).shape == (TILE_PX + CAPTION_PX, 8 * TILE_PX, 3)


def test_a_sets_hash_follows_its_list_and_each_picture(tmp_path: Path) -> None:
    listing, first, second = tmp_path / "list.json", tmp_path / "a", tmp_path / "b"
    for path in (listing, first, second):
        path.write_bytes(path.name.encode())
    whole = set_hash(listing, [first, second])
    assert whole == set_hash(listing, [second, first])
    assert whole != set_hash(listing, [first])
    second.write_bytes(b"other")
    assert whole != set_hash(listing, [first, second])
    listing.write_bytes(b"other")
    assert whole != set_hash(listing, [first])
