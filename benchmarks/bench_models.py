"""How fast the edge detector is beside YOLO11n and Faster R-CNN, at one and two threads, and whole fields at one.

Runs in the peers' own environment (`make bench-models`); the peers have untrained weights, so only their speed is told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from benchmarks.peers.contenders import Contender, as_int8, faster_rcnn, onnx_contender, openvino_contender, yolo11n
from benchmarks.peers.picture import bars
from benchmarks.peers.rounds import in_rounds, ratio
from benchmarks.ratios import cpu_name
from models.bundle import read_bundle
from models.bundle.manifest import DETECTOR_NAME, CellClass
from models.runtime import Pipeline
from models.runtime.results import ImageRGB
from models.synthetic import FieldTruth, SlideSpec, generate_field
from models.zoo import shipped
from training.config import DetectorNet
from training.detector_task import build_detector
from training.export import export_onnx, fused_detector
from training.from_bundle import load_folded

OURS, YOLO = "ours", "YOLO11n"
SAME_PX = (320, 416, 640)
PEER_PX = 640
"""The size that YOLO11n needs for its published accuracy."""
FRCNN_PX = 480
FIELDS_PX = ((640, 480), (1440, 900), (4000, 3000))
DENSE_PX = (4000, 3000)
DENSE_UM_PER_PX = 0.125
DENSE_SEED = 950_001


@dataclass(frozen=True)
class Needed:
    """A ratio that is asked for: `slow` must take `times` as long as `fast`."""

    slow: str
    fast: str
    times: float


def main() -> int:
    """Measures, prints, and writes document and picture when asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_models", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--write", type=Path, default=None, help="document to write; its picture goes beside it")
    chosen = parser.parse_args()
    contenders = [c for threads in chosen.threads for c in entrants(threads)]
    print(f"{len(contenders)} contenders, {chosen.rounds} rounds", file=sys.stderr)
    fields = whole_fields()
    times = in_rounds({c.name: c.run for c in contenders} | fields, chosen.rounds)
    text = document(contenders, times, list(fields), chosen.write)
    print(text)
    if chosen.write is not None:
        chosen.write.parent.mkdir(parents=True, exist_ok=True)
        chosen.write.write_text(text, encoding="utf-8")
        rows = [(c.name, median(times[c.name]), c.family == OURS) for c in contenders if c.threads == 1]
        chosen.write.with_suffix(".svg").write_text(bars(rows), encoding="utf-8")
    return 0


def entrants(threads: int) -> list[Contender]:
    """Ours and the peers at one number of threads."""
    bundle = read_bundle(shipped("edge"))
    side = bundle.manifest.detector.input_px
    found = [onnx_contender(OURS, "ORT int8", bundle.files[DETECTOR_NAME], side, threads)]
    found.append(onnx_contender(OURS, "ORT fp32", ours_fp32(side), side, threads))
    for input_px in SAME_PX:
        model = yolo11n(input_px)
        found.append(onnx_contender(YOLO, "ORT int8", as_int8(model, input_px), input_px, threads))
        found.append(onnx_contender(YOLO, "ORT fp32", model, input_px, threads))
        found.append(openvino_contender(YOLO, model, input_px, threads))
    return [*found, faster_rcnn(FRCNN_PX, threads)]


def ours_fp32(input_px: int) -> bytes:
    """The same net without quantisation; its weights come from the bundle that ships them in fp32."""
    net = build_detector(DetectorNet())
    load_folded(net, shipped("second-opinion"))
    names = [f"map{stride}" for stride in net.strides]
    return export_onnx(fused_detector(net), (1, 3, input_px, input_px), outputs=names, dynamic=False)


def whole_fields() -> dict[str, Callable[[], object]]:
    """From pixels to named cells, by the shipped bundle on one thread, at several sizes of one generated look.

    The last shows what such a camera sees through the same objective: not larger cells, but many more of them.
    """
    pipeline = Pipeline(read_bundle(shipped("edge")), threads=1)
    pipeline.warm_up()
    found = {f"{w} x {h}": _reading(pipeline, scene(w, h)) for w, h in FIELDS_PX}
    crowd = dense_scene()
    cells = sum(cell.cls == CellClass.RBC for cell in crowd.cells)
    name = f"{DENSE_PX[0]} x {DENSE_PX[1]}, {cells} red cells, {pipeline.analyse(crowd.image).passes} passes"
    return found | {name: _reading(pipeline, crowd.image)}


def _reading(pipeline: Pipeline, image: ImageRGB) -> Callable[[], object]:
    return lambda: pipeline.analyse(image)


def scene(width_px: int, height_px: int) -> ImageRGB:
    """A generated field of 640 x 480 as a camera with more pixels would show it."""
    field = generate_field(7).image
    cropped = field[: round(640 * height_px / width_px)] if height_px / width_px < 0.75 else field
    return np.asarray(cv2.resize(cropped, (width_px, height_px), interpolation=cv2.INTER_CUBIC), np.uint8)


def dense_scene() -> FieldTruth:
    """A field of twelve megapixels that was rendered at that size."""
    return generate_field(
        DENSE_SEED,
        width_px=DENSE_PX[0],
        height_px=DENSE_PX[1],
        um_per_px=DENSE_UM_PER_PX,
        spec=SlideSpec(seed=DENSE_SEED, rbc_per_field_mean=21.0),
    )


def needed(threads: int, side: int, contenders: list[Contender]) -> list[Needed]:
    """What the project asks of itself, at one number of threads."""
    by_key = {(c.family, c.how, c.input_px): c.name for c in contenders if c.threads == threads}
    openvino = next(
        c.name for c in contenders if c.threads == threads and c.how.startswith("OpenVINO") and c.input_px == side
    )
    ours = by_key[OURS, "ORT int8", side]
    return [
        Needed(by_key[YOLO, "ORT int8", side], ours, 2.5),
        Needed(openvino, ours, 1.7),
        Needed(by_key[YOLO, "ORT int8", PEER_PX], ours, 10.0),
    ]


def document(contenders: list[Contender], times: dict[str, list[float]], fields: list[str], target: Path | None) -> str:
    """The result as Markdown."""
    side = next(c.input_px for c in contenders if c.family == OURS)
    lines = [
        "# The edge detector beside its peers",
        "",
        f"Measured on {cpu_name()} ({instructions()}); "
        + ", ".join(
            f"{name} {version(name)}" for name in ("onnxruntime", "openvino", "torch", "torchvision", "ultralytics")
        )
        + f". {len(next(iter(times.values())))} rounds, every contender once a round in another order.",
        "The peers have untrained weights: only their speed is told. Median (range of nine rounds in ten).",
        "",
        "| network | how | input | threads | ms a picture | times ours int8 |",
        "|---|---|---|---|---|---|",
    ]
    for c in contenders:
        ours = next(o.name for o in contenders if o.family == OURS and o.how == "ORT int8" and o.threads == c.threads)
        lines.append(
            f"| {c.family} | {c.how} | {c.input_px} | {c.threads} "
            f"| {_ms(times[c.name])} | {_ratio(times, c.name, ours)} |"
        )
    if target is not None:
        lines += ["", f"![milliseconds a picture, one thread]({target.with_suffix('.svg').name})"]
    lines += ["", "## What is asked for", "", "| slower | faster | asked | measured | |", "|---|---|---|---|---|"]
    for threads in sorted({c.threads for c in contenders}):
        for want in needed(threads, side, contenders):
            got = ratio(times, want.slow, want.fast)[0]
            verdict = "held" if got >= want.times else "missed"
            lines.append(
                f"| {want.slow} | {want.fast} | {want.times:g} | {_ratio(times, want.slow, want.fast)} | {verdict} |"
            )
    yolo_ms = median(
        times[
            next(
                c.name for c in contenders if (c.family, c.how, c.input_px, c.threads) == (YOLO, "ORT int8", PEER_PX, 1)
            )
        ]
    )
    lines += [
        "",
        "## Whole fields",
        "",
        "The shipped edge bundle, one thread: scale, detector, boxes, white cells named. One generated field, made",
        "as large as the camera's; the last row is a field rendered at its own size, with many more cells instead of",
        f"larger ones. YOLO11n int8 at {PEER_PX} px takes {yolo_ms:.1f} ms here, for its network alone.",
        "",
        "| field | ms | of YOLO11n's network |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {_ms(times[name])} | {median(times[name]) / yolo_ms:.2f} |" for name in fields]
    return "\n".join([*lines, "", "Research use only. Again: `make bench-models`.", ""])


def _ms(values: list[float]) -> str:
    cuts = np.quantile(values, (0.05, 0.95))
    return f"{median(values):.2f} ({cuts[0]:.2f} to {cuts[1]:.2f})"


def _ratio(times: dict[str, list[float]], slow: str, fast: str) -> str:
    middle, low, high = ratio(times, slow, fast)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def instructions() -> str:
    """Which vector instructions the processor has, of those that int8 and bf16 depend on."""
    facts = Path("/proc/cpuinfo")
    flags = set(facts.read_text(encoding="utf-8").split()) if facts.exists() else set()
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return ", ".join(name if name in flags else f"no {name}" for name in known)


if __name__ == "__main__":
    sys.exit(main())
