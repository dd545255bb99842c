"""From a picture to cells with types."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import UNIDENTIFIED, Bundle, CellClass, write_bundle
from models.runtime import (
    ImageError,
    InferenceError,
    ModelLoadError,
    Networks,
    Pipeline,
    PipelineClosedError,
    open_networks,
    pipeline,
)
from models.runtime.results import FloatArray
from models.runtime.session import Network


@pytest.fixture
def slide() -> Any:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import draw_field

    return draw_field()


def test_cells_are_found_and_white_cells_get_the_type_that_was_drawn(blob_bundle: Bundle, slide: Any) -> None:
    seen = Pipeline(blob_bundle, keep_embeddings=True).analyse(slide.image)
    assert (seen.width_px, seen.height_px) == (640, 480)
    drawn = sorted(cell.cell_type for cell in slide.cells if cell.cell_type)
    assert sorted(d.cell_type.label for d in seen.counted(CellClass.WBC) if d.cell_type) == drawn
    assert len(seen.counted(CellClass.RBC)) == sum(cell.cls == "RBC" for cell in slide.cells)
    for found in seen.detections:
        assert (found.cell_type is not None) == (found.cls is CellClass.WBC)
        if found.cell_type is not None:
            assert sum(found.cell_type.probabilities.values()) == pytest.approx(1)
            assert found.cell_type.embedding is not None
    assert [d.score for d in seen.detections] == sorted((d.score for d in seen.detections), reverse=True)
    assert set(seen.stage_ms) == {"preprocess", "detect", "decode", "type"}
    assert seen.latency_ms == pytest.approx(sum(seen.stage_ms.values()))


def test_embeddings_are_only_kept_when_asked_for(blob_bundle: Bundle, slide: Any) -> None:
    seen = Pipeline(blob_bundle).analyse(slide.image)
    assert all(d.cell_type is None or d.cell_type.embedding is None for d in seen.detections)


def test_weaker_detections_are_listed_when_asked_but_neither_counted_nor_named(
    blob_bundle: Bundle, slide: Any, tmp_path: Path
) -> None:
    from tests.unit.runtime.blob_bundle import bundle_files, manifest_fields

    fields = manifest_fields()
    fields["detector"]["thresholds"] = {"RBC": 0.93, "WBC": 0.93, "Platelets": 0.93}
    strict = Pipeline(write_bundle(tmp_path / "strict", fields, bundle_files()))
    counted, listed = strict.analyse(slide.image), strict.analyse(slide.image, min_score=0.3)
    assert all(d.counted and d.score >= 0.93 for d in counted.detections)
    weak = [d for d in listed.detections if not d.counted]
    assert weak
    assert all(0.3 <= d.score < 0.93 and d.cell_type is None for d in weak)
    assert [d for d in listed.detections if d.counted] == list(counted.detections)


def test_a_white_cell_cut_by_the_edge_is_named_too(blob_bundle: Bundle) -> None:
    image = np.full((480, 640, 3), 200, np.uint8)
    ys, xs = np.mgrid[:480, :640]
    image[(xs - 2) ** 2 + (ys - 200) ** 2 < 40**2] = (30, 30, 220)
    (found,) = Pipeline(blob_bundle).analyse(image).counted(CellClass.WBC)
    assert found.box[0] == 0.0
    assert found.cell_type is not None
    assert found.cell_type.label in ("neutrophil", UNIDENTIFIED)


class _Counting:
    """Passes through, and remembers the batches."""

    def __init__(self, inner: Network) -> None:
        self.inner, self.batches = inner, list[int]()

    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        self.batches.append(len(tensor))
        return self.inner.run(tensor)


def test_white_cells_are_embedded_in_batches_of_bounded_size(
    blob_bundle: Bundle, slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_BATCH", 2)
    whole = Pipeline(blob_bundle, keep_embeddings=True).analyse(slide.image)
    opened = open_networks(blob_bundle)
    embedder = _Counting(opened.embedder)
    seen = Pipeline(blob_bundle, networks=Networks(opened.detector, embedder)).analyse(slide.image)
    assert embedder.batches == [2, 2]
    assert [d.cell_type and d.cell_type.label for d in seen.detections] == [
        d.cell_type and d.cell_type.label for d in whole.detections
    ]


def test_many_threads_get_what_one_gets(blob_bundle: Bundle, slide: Any) -> None:
    shared = Pipeline(blob_bundle)
    alone = shared.analyse(slide.image).detections
    with ThreadPoolExecutor(4) as pool:
        for seen in pool.map(lambda _: shared.analyse(slide.image).detections, range(12)):
            assert seen == alone


def test_a_closed_pipeline_says_so(blob_bundle: Bundle, slide: Any) -> None:
    closed = Pipeline(blob_bundle)
    closed.warm_up()
    closed.close()
    closed.close()
    with pytest.raises(PipelineClosedError):
        closed.analyse(slide.image)


def test_what_is_no_picture_is_refused(blob_bundle: Bundle) -> None:
    with pytest.raises(ImageError, match="uint8 RGB"):
        Pipeline(blob_bundle).analyse(np.zeros((48, 64), np.uint8))


class _Broken:
    """A network that answers with nan."""

    def __init__(self, inner: Network) -> None:
        self.inner = inner

    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        return [output * np.float32("nan") for output in self.inner.run(tensor)]


@pytest.mark.parametrize("which", ["detector", "embedder"])
def test_a_network_that_gives_nan_is_an_error_not_an_empty_field(blob_bundle: Bundle, slide: Any, which: str) -> None:
    opened = open_networks(blob_bundle)
    parts = {"detector": opened.detector, "embedder": opened.embedder}
    parts[which] = _Broken(parts[which])
    broken = Pipeline(blob_bundle, networks=Networks(**parts))
    with pytest.raises(InferenceError, match="not finite"):
        broken.analyse(slide.image)
    with pytest.raises(ModelLoadError, match="not finite"):
        broken.warm_up()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_px": 256}, r"detector\.onnx takes an input of \[1, 3, 320, 320\]"),
        ({"strides": [8, 16]}, "has 1 outputs, the manifest names 2 strides"),
    ],
)
def test_a_manifest_that_does_not_fit_its_detector_is_refused_when_opened(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import bundle_files, manifest_fields

    fields = manifest_fields()
    fields["detector"].update(change)
    bundle = write_bundle(tmp_path / "odd", fields, bundle_files())
    with pytest.raises(ModelLoadError, match=message):
        Pipeline(bundle)


def test_maps_of_another_depth_are_found_by_the_warm_up(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import bundle_files, manifest_fields

    fields = manifest_fields()
    fields["detector"]["reg_bins"] = 16
    opened = Pipeline(write_bundle(tmp_path / "odd", fields, bundle_files()))
    with pytest.raises(ModelLoadError, match="promise"):
        opened.warm_up()


def test_swapped_files_are_refused_when_opened(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import bundle_files, manifest_fields

    files = bundle_files()
    files["detector.onnx"], files["embedder.onnx"] = files["embedder.onnx"], files["detector.onnx"]
    with pytest.raises(ModelLoadError, match="promises"):
        Pipeline(write_bundle(tmp_path / "odd", manifest_fields(), files))
