"""Opening and running models in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.runtime import InferenceError, ModelLoadError, Provider, available_providers
from models.runtime.session import Session


def test_a_model_runs_and_says_its_shape(blob_bundle: Bundle) -> None:
    session = Session(blob_bundle.files["embedder.onnx"], name="embedder")
    assert session.input_shape == ("N", 3, 32, 32)
    assert session.output_count == 1
    (out,) = session.run(np.full((4, 3, 32, 32), 0.5, np.float32))
    assert out.shape == (4, 3)
    assert out == pytest.approx(np.full((4, 3), 0.5), abs=1e-5)


@pytest.mark.parametrize("data", [b"", b"not a model at all", b"\x08\x0a\x12\x00"])
def test_bytes_that_are_no_model_are_a_load_error(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelLoadError, match="bad: ONNX Runtime cannot open the model"):
        Session(data, name="bad")
    assert capfd.readouterr().err == ""


def test_a_truncated_model_is_a_load_error(blob_bundle: Bundle) -> None:
    data = blob_bundle.files["detector.onnx"]
    with pytest.raises(ModelLoadError):
        Session(data[: len(data) // 2], name="half")


def test_an_input_the_model_does_not_take_is_an_inference_error(blob_bundle: Bundle) -> None:
    session = Session(blob_bundle.files["embedder.onnx"], name="embedder")
    with pytest.raises(InferenceError, match="embedder"):
        session.run(np.zeros((1, 3, 31, 32), np.float32))


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are(blob_bundle: Bundle) -> None:
    absent = [provider for provider in Provider if provider not in available_providers()]
    if not absent:
        pytest.skip("this installation has every provider")
    with pytest.raises(ModelLoadError, match="choose one of cpu"):
        Session(blob_bundle.files["embedder.onnx"], name="embedder", provider=absent[0])


def test_no_threads_are_a_mistake_of_the_caller(blob_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Session(blob_bundle.files["embedder.onnx"], name="embedder", threads=0)


def test_a_model_that_points_to_a_file_outside_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    weight = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "weights.bin")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelLoadError):
        Session(model.SerializeToString(), name="outward")
