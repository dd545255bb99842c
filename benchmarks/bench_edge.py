"""What the edge agent costs beside its model: from a frame to a stored result, against a bare loop.

Bare: decode the file, run the pipeline over the same sessions. Full: the folder source, gate, pipeline, triage,
sampling and one committed transaction a field, as the agent's recorder does it. Both read the same files in turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.ratios import Compared, conditions, in_turns, spread
from edge_agent.capture.gate import QualityGate
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import QualitySettings, SourceSettings
from edge_agent.clock import Clock
from edge_agent.errors import EdgeError
from edge_agent.inference.engine import BundleEngine, open_engine
from edge_agent.reading import FieldReader
from edge_agent.store.spool_sqlite import Quotas
from edge_agent.store.store_sqlite import Store
from edge_agent.triage.rules import TriagePolicy
from edge_agent.triage.sampling import Sampler
from fleet.contract.base import CaptureId
from fleet.contract.messages import SamplingPolicy
from models.runtime import decode_image, encode_jpeg
from models.synthetic import generate_field

WARM_UP = 3


def main() -> int:
    """Measures, prints, and writes the document when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_edge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fields", type=int, default=60, help="pictures, each read both ways")
    parser.add_argument("--bundle", type=Path, default=None, help="default: the shipped edge bundle")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--write", type=Path, default=None, help="document to write")
    chosen = parser.parse_args()
    try:
        engine = open_engine(chosen.bundle, threads=chosen.threads)
    except EdgeError as exc:
        print(f"not measured: {exc}", file=sys.stderr)
        return 1
    with closing(engine), TemporaryDirectory(prefix="bench-edge-") as folder:
        text = document(engine, measure(engine, Path(folder), chosen.fields), threads=chosen.threads)
    print(text)
    if chosen.write is not None:
        chosen.write.parent.mkdir(parents=True, exist_ok=True)
        chosen.write.write_text(text, encoding="utf-8")
    return 0


def draw(folder: Path, pictures: int) -> list[Path]:
    """Generated fields as JPEG files."""
    folder.mkdir()
    paths = [folder / f"{number:04}.jpg" for number in range(pictures)]
    for number, path in enumerate(paths):
        path.write_bytes(encode_jpeg(generate_field(number).image, 92))
    return paths


def measure(engine: BundleEngine, folder: Path, fields: int) -> Compared:
    """Times `fields` generated pictures both ways."""
    paths = draw(folder / "pictures", fields + WARM_UP)
    clock = Clock()
    reader = FieldReader(engine, QualityGate(QualitySettings()), TriagePolicy())
    sampler = Sampler(SamplingPolicy())
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store(folder, Quotas(rows=1_000_000, image_bytes=2**32))))
        source = stack.enter_context(open_source(SourceSettings(spec=str(paths[0].parent))))
        slide = store.open_slide("bench", target_white_cells=100, now=clock.now().utc)

        def bare(number: int) -> None:
            engine.analyse(decode_image(paths[number].read_bytes()))

        def full(number: int) -> None:
            frame = source.read(10.0)
            now = clock.now()
            record, _ = reader.read(
                frame,
                capture=CaptureId(device="bench-1", boot=store.boot, frame=number),
                slide=slide,
                source="folder",
                replayable=True,
                site="bench",
                sampler=sampler,
                now=now,
                monotonic=time.monotonic,
            )
            if not store.record_field(record, now=now.utc):
                raise RuntimeError(f"{frame.source_ref} was stored before: the two ways did not read the same files")
            sampler.stored()

        return in_turns(fields, bare, full, warm_up=WARM_UP)


def document(engine: BundleEngine, compared: Compared, *, threads: int) -> str:
    """The result as Markdown."""
    model = engine.model
    added_ms = [full - bare for bare, full in zip(compared.bare_ms, compared.full_ms, strict=True)]
    return f"""# What the edge agent costs beside its model

{conditions()} Model {model.name} {model.version}, {threads} thread(s) of ONNX Runtime.
{len(compared.bare_ms)} generated fields of 640 x 480 as JPEG files, each read both ways next to each other, the order
swapped each time. Median, and in brackets the range that nine of ten lie in.

| | |
|---|---|
| bare: decode, pipeline | {spread(compared.bare_ms)} ms |
| agent: source, gate, pipeline, triage, crops, one committed transaction | {spread(compared.full_ms)} ms |
| agent over bare | {spread(compared.ratios)} |
| added by the agent | {spread(added_ms)} ms |
| fields per second, agent, one after the other | {1000.0 / median(compared.full_ms):.1f} |

Again: `make bench-edge`.
"""


if __name__ == "__main__":
    sys.exit(main())
