"""Labels of a site: what is read, what is left out, what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.contract.codec import encode
from fleet.contract.dataset import DatasetExport
from models.runtime.imaging import encode_png
from tests.unit.training.site_labels import write_document
from training.errors import LabelsError
from training.label_folder import read_labels

Document = dict[str, Any]


@pytest.fixture
def document(tmp_path: Path) -> Document:
    """Two pictures with two labels each, written to the folder."""
    (tmp_path / "images").mkdir()
    images: list[Document] = []
    annotations: list[Document] = []
    for number in (1, 2):
        png = encode_png(np.full((64, 64, 3), 40 * number, np.uint8))
        name = f"{number}.png"
        (tmp_path / "images" / name).write_bytes(png)
        images.append({"id": number, "file_name": name, "sha256": hashlib.sha256(png).hexdigest()})
        for place, kind in ((5, "neutrophil"), (35, "monocyte")):
            box = [place, 5, 20, 22]
            annotations.append(
                {"id": len(annotations), "image_id": number, "bbox": box, "attributes": {"cell_type": kind}}
            )
    said = {"info": {"schema": "ahs.coco/1", "site": "north"}, "images": images, "annotations": annotations}
    write_document(tmp_path, said)
    return said


def test_each_label_becomes_a_cell_with_corners(document: Document, tmp_path: Path) -> None:
    folder = read_labels(tmp_path)
    assert (len(folder.images), folder.cells, folder.sites) == (2, 4, ("north",))
    assert [cell.box for cell in folder.images[0].cells] == [(5, 5, 25, 27), (35, 5, 55, 27)]
    assert [cell.label for cell in folder.images[0].cells] == [0, 2]


@pytest.mark.parametrize("kind", ["not_classed", "artefact", "blast", None])
def test_what_is_none_of_the_types_is_left_out_and_counted(
    document: Document, tmp_path: Path, kind: str | None
) -> None:
    document["annotations"][0]["attributes"] = {"cell_type": kind}
    write_document(tmp_path, document)
    folder = read_labels(tmp_path)
    assert folder.cells == 3
    assert folder.left_out == {kind or "without a type": 1}


def test_a_cell_that_two_labels_name_differently_is_left_out(document: Document, tmp_path: Path) -> None:
    other = {**document["annotations"][0], "id": 9, "attributes": {"cell_type": "basophil"}}
    document["annotations"].append(other)
    write_document(tmp_path, document)
    folder = read_labels(tmp_path)
    assert folder.cells == 3
    assert folder.left_out == {"disputed": 2}


def test_a_cell_that_is_named_twice_counts_once(document: Document, tmp_path: Path) -> None:
    document["annotations"].append({**document["annotations"][0], "id": 9})
    document["images"].append({**document["images"][0], "id": 7})
    document["annotations"].append({**document["annotations"][1], "id": 10, "image_id": 7})
    write_document(tmp_path, document)
    folder = read_labels(tmp_path)
    assert (len(folder.images), folder.cells) == (2, 4)
    assert folder.left_out == {"named twice": 2}


def _set(*path: str | int, to: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("info", "schema", to="ahs.coco/2"), "ahs.coco/2"),
        (_set("images", 0, "sha256", to="0" * 64), "is not the picture that was labelled"),
        (_set("images", 0, "file_name", to="../../outside.png"), "inside the folder"),
        (_set("images", 0, "file_name", to="/etc/hostname"), "inside the folder"),
        (_set("images", 0, "file_name", to="absent.png"), "cannot be read"),
        (_set("annotations", 0, "image_id", to=99), "not in the list"),
        (_set("annotations", 0, "bbox", to=[1, 1, 0, 5]), "holds nothing"),
        (_set("annotations", 0, "bbox", to=[1, 1, float("nan"), 5]), "holds nothing"),
        (_set("annotations", 0, "bbox", to="box"), "missing or of the wrong type"),
        (_set("images", to=None), "missing or of the wrong type"),
    ],
)
def test_a_wrong_entry_is_named(
    document: Document, tmp_path: Path, change: Callable[[Document], None], words: str
) -> None:
    change(document)
    write_document(tmp_path, document)
    with pytest.raises(LabelsError, match=words):
        read_labels(tmp_path)


def test_a_picture_that_was_swapped_is_refused(document: Document, tmp_path: Path) -> None:
    (tmp_path / "images/1.png").write_bytes((tmp_path / "images/2.png").read_bytes())
    with pytest.raises(LabelsError, match="hash differs"):
        read_labels(tmp_path)


def test_an_absent_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="exported data set"):
        read_labels(tmp_path / "nothing")


def test_what_the_cloud_exports_is_read(document: Document, tmp_path: Path) -> None:
    common = {
        "width": 64,
        "height": 64,
        "image_url": "/v1/second-opinions/1/image",
        "capture_id": "c",
        "device": "bench-1",
    }
    said = {"captured_at": "2026-11-24T10:00:00Z", "complete": True, "rbc_diameter_px": 21.5}
    word = {"reader": "Dr. Weiss", "labelled_at": "2026-11-24T11:00:00Z", "missed": False, "suggestion_shown": True}
    exported = DatasetExport.model_validate(
        {
            "info": {"site": "north", "filters": {}, "labels": {}, "manifest_sha256": "0" * 64},
            "categories": [],
            "images": [{**image, **common, **said, "opinion": "o"} for image in document["images"]],
            "annotations": [
                {**a, "id": a["id"] + 1, "category_id": 2, "area": 440, "attributes": {**a["attributes"], **word}}
                for a in document["annotations"]
            ],
        }
    )
    (tmp_path / "annotations.json").write_bytes(encode(exported))
    folder = read_labels(tmp_path)
    assert (folder.cells, folder.sites) == (4, ("north",))
    assert folder.images[0].rbc_diameter_px == 21.5
