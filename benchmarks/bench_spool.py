"""What a full spool costs: the start with 50,000 rows in it, and live fields while it drains.

The start is from opening the store to the first batch in hand, after a clean end and after a kill. Live fields are
stored one by one, in turns with and without a thread beside them that takes batches and acknowledges them as fast as it
can, which is the worst case: a broker and a cloud would be slower.
"""

from __future__ import annotations

import argparse
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.ratios import conditions, spread
from edge_agent.store.records import NewField, NewImage
from edge_agent.store.spool_sqlite import Numbering, Quotas, append_event, append_image
from edge_agent.store.store_sqlite import Store
from edge_agent.triage.sampling import Choice
from edge_agent.uplink.flight import ranges_of
from fleet.contract.base import CaptureId
from fleet.contract.cells import CellClassName, Decision, DetectionWire, FieldCounts, ModelRef
from fleet.contract.http import OpinionContext
from fleet.contract.messages import FieldResult

AMPLE = Quotas(rows=10_000_000, image_bytes=2**40)
DIGEST = "sha256:" + "a" * 64
CELLS = 60
BATCH_ROWS = 100


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_spool", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=50_000, help="results that wait")
    parser.add_argument("--pictures", type=int, default=500, help="pictures that wait, 100 kB each")
    parser.add_argument("--fields", type=int, default=200, help="live fields, with and without the drain")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="bench-spool-") as folder:
        print("\n".join(measure(Path(folder), rows=chosen.rows, pictures=chosen.pictures, fields=chosen.fields)))
    return 0


def measure(folder: Path, *, rows: int, pictures: int, fields: int) -> list[str]:
    """Lines of text."""
    fill(folder, rows=rows, pictures=pictures)
    lines = [conditions(), f"{rows} results and {pictures} pictures wait"]
    clean, killed = [], []
    for _ in range(5):
        clean.append(start_s(folder, clean=True))
        killed.append(start_s(folder, clean=False))
    lines.append(f"start after a clean end: median {median(clean):.3f} s, longest {max(clean):.3f} s")
    lines.append(f"start after a kill: median {median(killed):.3f} s, longest {max(killed):.3f} s")
    with closing(Store(folder, AMPLE)) as store:
        began_s = time.monotonic()
        store.database.unchecked = True
        store.database.check()
        lines.append(f"check of the whole file, beside the work: {time.monotonic() - began_s:.2f} s")
        alone, beside, drained = live(store, fields=fields)
    lines += [
        f"a live field stored, nothing drains: {spread(alone)} ms",
        f"a live field stored, drain beside it: {spread(beside)} ms, {median(beside) / median(alone):.2f} of that;"
        f" {drained:.0f} rows a second drained meanwhile",
    ]
    return lines


def fill(folder: Path, *, rows: int, pictures: int) -> None:
    """A store as a long outage leaves it."""
    now = datetime.now(UTC)
    with closing(Store(folder, AMPLE)) as store:
        store.open_slide("bench", target_white_cells=10_000, now=now)
        numbering = Numbering(store.boot, 0)
        with store.database.transaction() as connection:
            for number in range(rows):
                append_event(connection, numbering, result(number, store.boot, now), now)
            for number in range(pictures):
                image = NewImage(b"\xff" * 100_000, context(number, store.boot, now))
                append_image(connection, numbering, image, now)


def start_s(folder: Path, *, clean: bool) -> float:
    """From opening to the first batch, seconds."""
    began_s = time.monotonic()
    store = Store(folder, AMPLE)
    store.waiting()
    found = store.take_events(limit=4 * BATCH_ROWS)
    took_s = time.monotonic() - began_s
    assert found
    store.database.unchecked = not clean
    store.close()
    return took_s


def live(store: Store, *, fields: int) -> tuple[list[float], list[float], float]:
    """Milliseconds a field without and with the drain, in turns of ten, and the rows drained a second."""
    now = datetime.now(UTC)
    slide = store.open_slide("bench", target_white_cells=10_000, now=now).slide_id
    draining, stop = threading.Event(), threading.Event()
    drained = [0]

    def drain() -> None:
        while not stop.is_set():
            if not draining.wait(0.05):
                continue
            rows = store.take_events(limit=BATCH_ROWS)
            drained[0] += store.acknowledge(ranges_of((row.boot, row.seq) for row in rows), ())

    thread = threading.Thread(target=drain)
    thread.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    busy_s = 0.0
    number = 10_000_000
    for turn in range(2 * fields // 10):
        on = bool(turn % 2)
        draining.set() if on else draining.clear()
        turn_s = time.monotonic()
        for _ in range(10):
            number += 1
            field = new_field(number, slide, store.boot, now)
            began_s = time.monotonic()
            store.record_field(field, now=now)
            times[on].append((time.monotonic() - began_s) * 1000.0)
            # A field's inference takes far longer than its storing; without a pause nobody else would get the lock.
            time.sleep(0.02)
        busy_s += (time.monotonic() - turn_s) if on else 0.0
    stop.set()
    thread.join()
    return times[False], times[True], drained[0] / max(busy_s, 1e-9)


def result(number: int, boot: int, now: datetime) -> FieldResult:
    """One field's event."""
    return FieldResult(
        boot=0,
        seq=0,
        capture_id=str(CaptureId(device="bench-1", boot=boot, frame=number + 1)),
        captured_at=now,
        decision=Decision.ACCEPT,
        counts=FieldCounts(rbc=100, wbc=1, platelets=6, white_cells={"neutrophil": 1}),
        model=DIGEST,
        latency_ms=40.0,
    )


def cells() -> tuple[DetectionWire, ...]:
    """As many as an ordinary field has."""
    return tuple(
        DetectionWire(bbox=(4.0 * n, 4.0 * n, 40.0, 40.0), cls=CellClassName.RBC, score=0.9, counted=True)
        for n in range(CELLS)
    )


def context(number: int, boot: int, now: datetime) -> OpinionContext:
    """What goes with a picture."""
    return OpinionContext(
        site="local",
        device="bench-1",
        capture_id=str(CaptureId(device="bench-1", boot=boot, frame=number + 1)),
        image_sha256="b" * 64,
        captured_at=now,
        decision=Decision.UNCERTAIN,
        model=ModelRef(name="bench", version="1.0.0", digest=DIGEST),
        detections=cells(),
    )


def new_field(number: int, slide: int, boot: int, now: datetime) -> NewField:
    """One live field."""
    return NewField(
        result=result(number, boot, now),
        source="camera",
        source_ref=f"camera@{number}",
        replayable=False,
        slide_id=slide,
        sampled=Choice.KEEP,
        um_per_px=None,
        width_px=640,
        height_px=480,
        detections=cells(),
    )


if __name__ == "__main__":
    raise SystemExit(main())
