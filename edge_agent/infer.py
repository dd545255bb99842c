"""`ahs-edge infer`: the pipeline of the daemon over picture files, into one JSON document.

The document's schema is `edge_agent/infer_schema.json`; docs/infer-results.md explains it. A withheld picture keeps its
detections and says why it would be withheld; one that cannot be read stands in `errors`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from edge_agent import wire
from edge_agent.errors import ConfigurationError, DeviceFault
from edge_agent.infer_pictures import annotated
from edge_agent.inference.engine import BundleEngine
from edge_agent.reading import FieldReader, Judged
from edge_agent.slides.differential import differential
from edge_agent.version import agent_version
from fleet.contract.base import JsonObject
from fleet.contract.cells import Decision, DetectionWire
from models.runtime import ImageError, InferenceError, read_image

SCHEMA = "ahs.infer/1"
INTENDED_USE = "research use only"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
LATENCY_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many pictures could be read, and how many not."""

    read: int
    failed: int


def find_pictures(folder: Path) -> list[Path]:
    """Picture files below a folder, or the one file given, in order of their names.

    Raises:
        ConfigurationError: nothing there.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: there is no such folder; give --images a folder of pictures")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        kinds = " ".join(sorted(SUFFIXES))
        raise ConfigurationError(f"{folder}: no picture in it; known are {kinds}")
    return found


class Inference:
    """Runs over pictures and keeps what the document's head needs.

    Args:
        engine: the model.
        reader: gate and triage, as in the daemon.
        root: pictures are named relative to it.
        um_per_px: size of a pixel in the specimen, where known: red cells are then judged in micrometres.
        min_score: list weaker detections too.
        annotated_folder: pictures with boxes go here.
    """

    def __init__(
        self,
        engine: BundleEngine,
        reader: FieldReader,
        *,
        root: Path,
        um_per_px: float | None = None,
        min_score: float | None = None,
        annotated_folder: Path | None = None,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._root = root
        self._um_per_px = um_per_px
        self._min_score = min_score
        self._annotated = annotated_folder
        self._images: list[JsonObject] = []
        self._errors: list[JsonObject] = []

    @property
    def outcome(self) -> Outcome:
        """Figures so far."""
        return Outcome(len(self._images), len(self._errors))

    def run(self, pictures: list[Path], step: Callable[[], None] = lambda: None) -> None:
        """Reads every picture; one that cannot be read is noted and passed over."""
        for path in pictures:
            try:
                self._one(path)
            except (ImageError, InferenceError) as exc:
                # The pipeline names the full path; the document says it once, relative.
                reason = str(exc).removeprefix(f"{path}: ")
                self._errors.append({"file": self._name(path), "reason": reason})
            step()

    def document(self) -> JsonObject:
        """The whole result."""
        model = self._engine.model
        return {
            "schema": SCHEMA,
            "intended_use": INTENDED_USE,
            "tool": {"name": "ahs-edge", "version": agent_version()},
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
            "min_score": self._min_score,
            "summary": self._summary(),
            "images": self._images,
            "errors": self._errors,
        }

    def _one(self, path: Path) -> None:
        image = read_image(path)
        start_s = perf_counter()
        judged = self._reader.judge(image, um_per_px=self._um_per_px, min_score=self._min_score)
        latency_ms = (perf_counter() - start_s) * 1000.0
        detections = [cell.model_dump(mode="json", by_alias=True) for cell in _listed(judged, self._min_score)]
        self._images.append(
            {
                "file": self._name(path),
                "width": int(image.shape[1]),
                "height": int(image.shape[0]),
                "decision": judged.triage.decision.value,
                "reasons": list(judged.triage.reasons),
                "latency_ms": round(latency_ms, LATENCY_DIGITS),
                "rbc_diameter_px": judged.analysis.rbc_diameter_px,
                "counts": wire.counts(judged.analysis).model_dump(mode="json"),
                "detections": [_without_empty_type(cell) for cell in detections],
            }
        )
        if self._annotated is not None:
            self._write_annotated(path, annotated(image, judged.detections, judged.triage))

    def _write_annotated(self, path: Path, jpeg: bytes) -> None:
        assert self._annotated is not None
        # Behind the whole name: a.png and a.jpg are two pictures.
        target = self._annotated / f"{self._name(path)}.jpg"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(jpeg)
        except OSError as exc:
            raise DeviceFault(f"{target} cannot be written: {exc.strerror}") from exc

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else path.name

    def _summary(self) -> JsonObject:
        """Counts over all pictures that are not withheld, as a slide of the daemon would have them."""
        decisions = Counter(image["decision"] for image in self._images)
        counted = [image["counts"] for image in self._images if image["decision"] != Decision.WITHHELD.value]
        white: Counter[str] = Counter()
        for counts in counted:
            white.update(counts["white_cells"])
        result = differential(white)
        latencies = sorted(image["latency_ms"] for image in self._images)
        return {
            "images": len(self._images),
            "errors": len(self._errors),
            "decisions": {decision.value: decisions[decision.value] for decision in _DECISIONS},
            "rbc": sum(counts["rbc"] for counts in counted),
            "wbc": sum(counts["wbc"] for counts in counted),
            "platelets": sum(counts["platelets"] for counts in counted),
            "white_cells": dict(sorted(white.items())),
            "differential": result.rounded(),
            "identified": result.identified,
            "unidentified": result.unidentified,
            "latency_ms": {
                "median": latencies[len(latencies) // 2] if latencies else None,
                "largest": latencies[-1] if latencies else None,
            },
        }


_DECISIONS = (Decision.ACCEPT, Decision.UNCERTAIN, Decision.WITHHELD)


def write_document(document: JsonObject, target: Path) -> None:
    """In one piece: a reader never sees half a document.

    Raises:
        DeviceFault: no room, or no permission.
    """
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except OSError as exc:
        raise DeviceFault(f"{target} cannot be written: {exc.strerror}") from exc


def _listed(judged: Judged, min_score: float | None) -> Iterator[DetectionWire]:
    """What the document lists: counted cells, and with `min_score` weaker ones as well."""
    for cell in judged.detections:
        if cell.counted or min_score is not None:
            yield cell


def _without_empty_type(cell: JsonObject) -> JsonObject:
    """`cell_type` stands on counted white cells only."""
    return {key: value for key, value in cell.items() if not (key == "cell_type" and value is None)}
