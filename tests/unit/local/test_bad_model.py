"""The model that must be stopped: it works, and calls everything by another's name."""

from __future__ import annotations

from pathlib import Path

from fleet.local.bad_model import write_permuted
from models.bundle import read_bundle
from models.runtime import Pipeline, decode_image, self_test_bundle
from models.zoo import shipped


def test_a_permuted_model_finds_the_same_cells_calls_them_wrong_and_fails_its_self_test(tmp_path: Path) -> None:
    bad = write_permuted(shipped("edge"), tmp_path / "bad", version="6.6.6")
    good = read_bundle(shipped("edge"))
    assert (bad.manifest.version, bad.digest != good.digest) == ("6.6.6", True)
    picture = decode_image(next(data for name, data in sorted(good.files.items()) if name.endswith(".png")))
    before, after = Pipeline(good).analyse(picture), Pipeline(bad).analyse(picture)
    assert [cell.box for cell in before.detections] == [cell.box for cell in after.detections]
    named = [
        (mine.cell_type.label, theirs.cell_type.label)
        for mine, theirs in zip(before.detections, after.detections, strict=True)
        if mine.cell_type and theirs.cell_type
    ]
    assert named
    assert all(mine != theirs for mine, theirs in named)
    failures = {check.name for check in self_test_bundle(bad.path).failures}
    assert {"types_match_reference", "types_match_truth"} <= failures
