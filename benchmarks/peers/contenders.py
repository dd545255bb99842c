"""What is measured: a name, an input size, and one pass through a network that is ready to run.

Everything here runs in the peers' environment (`make bench-models`), where ultralytics, OpenVINO and torchvision are
installed. The peers have untrained weights: they are measured for speed only.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Batch = NDArray[np.float32]


@dataclass(frozen=True)
class Contender:
    """One network at one input size and one number of threads.

    Attributes:
        family: whose network, as the tables name it.
        how: runtime and precision.
        input_px: side of the square input.
        threads: of the runtime.
        run: one pass over one picture.
    """

    family: str
    how: str
    input_px: int
    threads: int
    run: Callable[[], object]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.family}, {self.how}, {self.input_px} px, {self.threads} thread(s)"


def picture(input_px: int) -> Batch:
    """(1, 3, S, S) float32: the same noise for everybody."""
    return np.random.default_rng(0).random((1, 3, input_px, input_px), np.float32)


def onnx_contender(family: str, how: str, model: bytes, input_px: int, threads: int) -> Contender:
    """A network in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: picture(input_px)}
    return Contender(family, how, input_px, threads, lambda: session.run(None, feed))


def openvino_contender(family: str, model: bytes, input_px: int, threads: int) -> Contender:
    """The same network in OpenVINO; `how` says the precision that OpenVINO really took on this processor."""
    import openvino

    core = openvino.Core()
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", hints)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    request, feed = compiled.create_infer_request(), picture(input_px)
    return Contender(family, f"OpenVINO {taken}", input_px, threads, lambda: request.infer([feed]))


def yolo11n(input_px: int) -> bytes:
    """YOLO11n of the peer's own package with three classes, untrained, as its own exporter writes it."""
    import ultralytics
    from ultralytics import YOLO

    plan = Path(ultralytics.__file__).parent / "cfg" / "models" / "11" / "yolo11.yaml"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # The letter in the name chooses the size.
        three = re.sub(r"(?m)^nc: \d+", "nc: 3", plan.read_text(encoding="utf-8"))
        Path("yolo11n.yaml").write_text(three, encoding="utf-8")
        model = YOLO("yolo11n.yaml")
        return Path(str(model.export(format="onnx", imgsz=input_px, simplify=True, opset=17))).read_bytes()


def faster_rcnn(input_px: int, threads: int) -> Contender:
    """torchvision's Faster R-CNN ResNet-50 FPN, untrained, in torch: the nearest open project's model."""
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    net = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, min_size=input_px).eval()
    image = [torch.from_numpy(picture(input_px)[0])]

    def run() -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return net(image)

    return Contender("Faster R-CNN R50-FPN", "torch fp32", input_px, threads, run)


def as_int8(model: bytes, input_px: int) -> bytes:
    """A peer as static int8, quantised exactly as ours is; untrained weights need ranges, not true pictures."""
    from training.export import INPUT_NAME, quantise

    graph = onnx.load_from_string(model)
    old = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = [INPUT_NAME if name == old else name for name in node.input]
    graph.graph.input[0].name = INPUT_NAME
    rng = np.random.default_rng(1)
    batches = [rng.random((1, 3, input_px, input_px), np.float32) for _ in range(8)]
    return quantise(graph.SerializeToString(), batches)
