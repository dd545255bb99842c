"""The self-test passes on a healthy bundle and catches what no error message would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, BundleManifest, read_bundle, write_bundle
from models.bundle.manifest import Role
from models.runtime import (
    GoldenError,
    GoldenLimits,
    Networks,
    Pipeline,
    SelfTestReport,
    build_golden,
    open_networks,
    run_self_test,
    self_test_bundle,
)
from models.runtime.results import FloatArray
from models.runtime.session import Network
from models.zoo import shipped


def _blobs_with_golden(root: Path) -> Bundle:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import draw_field, write_blob_bundle

    slides = [draw_field(seed=seed) for seed in range(3)]
    reference = Pipeline(write_blob_bundle(root / "draft"), keep_embeddings=True)
    golden = build_golden(slides, [reference.analyse(slide.image) for slide in slides])
    return write_blob_bundle(root / "packed", golden)


@pytest.fixture(scope="module", params=["blobs", "edge", pytest.param("second-opinion", marks=pytest.mark.slow)])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, and each bundle that ships."""
    if request.param == "blobs":
        return _blobs_with_golden(tmp_path_factory.mktemp("golden"))
    return read_bundle(shipped(request.param))


class _Faulty:
    """A network behind a fault in what goes in or comes out."""

    def __init__(
        self,
        inner: Network,
        *,
        before: Callable[[FloatArray], FloatArray] = lambda tensor: tensor,
        after: Callable[[FloatArray], FloatArray] = lambda output: output,
    ) -> None:
        self._inner, self._before, self._after = inner, before, after

    def run(self, tensor: FloatArray) -> Sequence[FloatArray]:
        fed = np.ascontiguousarray(self._before(tensor), np.float32)
        return [np.ascontiguousarray(self._after(output), np.float32) for output in self._inner.run(fed)]


def _with(bundle: Bundle, *, detector: Any = None, embedder: Any = None) -> SelfTestReport:
    opened = open_networks(bundle)
    return run_self_test(
        Pipeline(
            bundle,
            networks=Networks(
                _Faulty(opened.detector, **(detector or {})), _Faulty(opened.embedder, **(embedder or {}))
            ),
        )
    )


def _failed(report: SelfTestReport) -> set[str]:
    return {check.name for check in report.failures}


def _swap_channels(tensor: FloatArray) -> FloatArray:
    return tensor[:, ::-1]


def _forget_255(tensor: FloatArray) -> FloatArray:
    return tensor * np.float32(255)


def _halve(tensor: FloatArray) -> FloatArray:
    return tensor * np.float32(0.5)


def _stretch(tensor: FloatArray) -> FloatArray:
    """What a resize that ignores the aspect ratio would give: the padded rows are cut off and the rest is stretched."""
    rows = np.linspace(40, tensor.shape[2] - 41, tensor.shape[2]).round().astype(int)
    return tensor[:, :, rows]


def _shift(tensor: FloatArray) -> FloatArray:
    """A letterbox that pads at one side only, undone as if it were centred."""
    return np.roll(tensor, -tensor.shape[2] // 8, axis=2)


def test_a_healthy_bundle_passes_and_every_figure_is_told(packed: Bundle) -> None:
    report = run_self_test(Pipeline(packed))
    assert report.passed, report.failures
    assert [check.name for check in report.checks] == [
        "loads",
        "finite_outputs",
        "detections_match_reference",
        "scores_match_reference",
        "boxes_match_reference",
        "truth_f1",
        "embedding_cosine",
        "types_match_reference",
        "types_match_truth",
        "latency",
    ]
    assert all(check.figure is not None for check in report.checks[2:])
    assert (report.figure("latency") or 0) > 0


def test_swapped_colour_channels_are_caught(packed: Bundle) -> None:
    assert "truth_f1" in _failed(_with(packed, detector={"before": _swap_channels}))
    assert "embedding_cosine" in _failed(_with(packed, embedder={"before": _swap_channels}))


@pytest.mark.parametrize("fault", [_forget_255, _halve, _stretch, _shift])
def test_a_wrong_scale_at_the_detector_is_caught(packed: Bundle, fault: Callable[[FloatArray], FloatArray]) -> None:
    assert _failed(_with(packed, detector={"before": fault})) & {
        "detections_match_reference",
        "scores_match_reference",
        "boxes_match_reference",
    }


@pytest.mark.parametrize("fault", [_forget_255, _halve])
def test_a_wrong_scale_at_the_embedder_is_caught(packed: Bundle, fault: Callable[[FloatArray], FloatArray]) -> None:
    report = _with(packed, embedder={"before": fault})
    caught = _failed(report) & {"embedding_cosine", "types_match_reference", "types_match_truth"}
    # A net that standardises each crop does not see its scale: then nothing is wrong, and nothing may be said.
    harmless = (report.figure("embedding_cosine") or 0) > 0.99 and (report.figure("types_match_reference") or 0) > 0.99
    assert caught or harmless
    assert caught or packed.manifest.role is Role.EDGE, "only the shipped edge net standardises alone"


def test_a_permuted_class_order_of_the_detector_is_caught(packed: Bundle) -> None:
    def permute(raw: FloatArray) -> FloatArray:
        classes = len(packed.manifest.detector.classes)
        return np.concatenate([raw[:, :-classes], np.roll(raw[:, -classes:], 1, axis=1)], axis=1)

    failed = _failed(_with(packed, detector={"after": permute}))
    assert {"truth_f1", "detections_match_reference"} <= failed


def _with_head_classes(bundle: Bundle, order: Sequence[int]) -> Bundle:
    classes = [bundle.manifest.head.classes[index] for index in order]
    raw = bundle.manifest.model_dump(mode="json", by_alias=True)
    raw["head"]["classes"] = classes
    return dataclasses.replace(bundle, manifest=BundleManifest.model_validate(raw))


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 0), (1, 0, 2, 3, 4)], ids=["rotated", "two swapped"])
def test_a_permuted_class_order_of_the_head_is_caught(packed: Bundle, order: Sequence[int]) -> None:
    failed = _failed(run_self_test(Pipeline(_with_head_classes(packed, order))))
    assert failed
    assert failed <= {"types_match_reference", "types_match_truth"}


def test_nan_is_caught_wherever_it_comes_from(packed: Bundle) -> None:
    def spoil(output: FloatArray) -> FloatArray:
        return output * np.float32("nan")

    for place in ("detector", "embedder"):
        report = _with(packed, **{place: {"after": spoil}})
        assert _failed(report) == {"loads"}
        assert "not finite" in report.failures[0].detail


def test_nan_that_only_some_pictures_bring_is_caught(packed: Bundle) -> None:
    def spoil(tensor: FloatArray) -> FloatArray:
        return tensor if np.ptp(tensor) == 0 else tensor * np.float32("nan")

    failed = _failed(_with(packed, embedder={"before": spoil}))
    # An int8 network turns NaN into finite nonsense, which the other checks see.
    assert failed == {"finite_outputs"} or failed >= {"embedding_cosine", "types_match_truth"}


def test_a_network_that_is_too_slow_is_caught_when_a_limit_is_set(packed: Bundle) -> None:
    report = run_self_test(Pipeline(packed), latency_limit_ms=1e-6)
    assert _failed(report) == {"latency"}


def test_a_bundle_without_golden_inputs_does_not_pass(blob_bundle: Bundle) -> None:
    report = run_self_test(Pipeline(blob_bundle))
    assert _failed(report) == {"loads"}
    assert "golden" in report.failures[0].detail


def test_a_bundle_that_cannot_be_read_or_opened_is_a_report_not_a_crash(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import bundle_files, manifest_fields

    assert _failed(self_test_bundle(tmp_path / "absent")) == {"loads"}
    write_bundle(tmp_path / "bad", manifest_fields(), {**bundle_files(), "detector.onnx": b"no model"})
    report = self_test_bundle(tmp_path / "bad")
    assert not report.passed
    assert "cannot open the model" in report.failures[0].detail


def test_golden_inputs_that_the_reference_itself_misses_are_not_made(blob_bundle: Bundle) -> None:
    from tests.unit.runtime.blob_bundle import draw_field

    slide = draw_field()
    blank = Pipeline(blob_bundle, keep_embeddings=True).analyse(np.full_like(slide.image, 200))
    with pytest.raises(GoldenError, match=r"F1 0\.000"):
        build_golden([slide], [blank])
    without = Pipeline(blob_bundle).analyse(slide.image)
    with pytest.raises(GoldenError, match="keep_embeddings"):
        build_golden([slide], [without], limits=GoldenLimits())
    with pytest.raises(GoldenError, match="one each"):
        build_golden([slide], [])


def test_golden_files_are_the_same_each_time(blob_bundle: Bundle) -> None:
    from tests.unit.runtime.blob_bundle import draw_field

    slide = draw_field()
    analysis = Pipeline(blob_bundle, keep_embeddings=True).analyse(slide.image)
    assert build_golden([slide], [analysis]) == build_golden([slide], [analysis])
