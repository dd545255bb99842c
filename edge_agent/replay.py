"""`ahs-edge infer --replay`: the stored fields of a slide under another bundle, and what changes.

The agent keeps what it found of a field, not the picture. A picture can be had again from

1. the source, where its references mean the same field in each run (a folder, a video, the simulated microscope) and it
   is still there: the very pixels;
2. the spool, while the copy for a second opinion waits there to be sent: a JPEG.

A field of a camera that was not chosen for sending, or whose copy was sent, cannot be read again, and the document says
so. Its schema is `edge_agent/replay_schema.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edge_agent import wire
from edge_agent.capture.errors import SourceEnded, SourceError
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import FrameSource
from edge_agent.errors import ConfigurationError
from edge_agent.infer import INTENDED_USE
from edge_agent.inference.engine import BundleEngine
from edge_agent.reading import FieldReader
from edge_agent.replay_changes import Read, box_changes, totals, white_changes
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import StoredField
from edge_agent.store.store_sqlite import FILE_NAME
from edge_agent.version import agent_version
from fleet.contract.base import JsonObject
from models.runtime import ImageError, InferenceError
from models.runtime.imaging import decode_image
from models.runtime.results import ImageRGB

SCHEMA = "ahs.replay/1"
FROM_SOURCE, FROM_COPY = "source", "sent_copy"
NOT_KEPT = "the picture was not kept"
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class StoredSlide:
    """A slide of the store: its fields, and the copies of their pictures that still wait to be sent, by capture."""

    name: str
    fields: tuple[StoredField, ...]
    copies: dict[str, bytes]


def read_slide(data_dir: Path, name: str) -> StoredSlide:
    """The fields of a slide, beside a running or a stopped agent.

    Raises:
        ConfigurationError: there is no such slide; the message names those that there are.
        DeviceFault: no store in the data folder.
    """
    database = Database(data_dir / FILE_NAME, read_only=True)
    try:
        reads = Reads(database)
        known = [slide.name for slide in reads.slides()]
        if name not in known:
            there = ", ".join(known) or "none"
            raise ConfigurationError(f"--replay {name}: no such slide in {data_dir}; there are: {there}")
        fields = tuple(stored for stored in reads.fields() if stored.slide == name)
        copies = {f.capture_id: jpeg for f in fields if (jpeg := reads.waiting_copy(f.capture_id)) is not None}
        return StoredSlide(name, fields, copies)
    finally:
        database.close()


@dataclass(slots=True)
class Replay:
    """Reads the stored fields of one slide again.

    Attributes:
        slide: as it is stored.
        source: settings of the source that its pictures came from.
        engine: the other bundle.
        reader: gate and triage with the present settings, over the same engine.
        step: called for each field that is settled.
    """

    slide: StoredSlide
    source: SourceSettings
    engine: BundleEngine
    reader: FieldReader
    step: Callable[[], None] = lambda: None
    _again: dict[str, tuple[Read, str]] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def run(self) -> JsonObject:
        """Reads what can be read and gives the whole document."""
        for stored, image in self._from_source():
            self._read(stored, image, FROM_SOURCE)
        for stored in self.slide.fields:
            if stored.capture_id not in self._again:
                self._from_copy(stored)
        return self._document()

    @property
    def replayed(self) -> int:
        """Fields that were read again."""
        return len(self._again)

    def _from_source(self) -> Iterator[tuple[StoredField, ImageRGB]]:
        """Fields whose pictures the source still shows; it is read as far as the last of them."""
        settings = self.source.model_copy(update={"watch": False, "fields_per_s": None})
        dropped: dict[str, str] = {}
        source = open_source(settings, on_drop=lambda frame: dropped.update({frame.source_ref: frame.text}))
        wanted = {f.source_ref: f for f in self.slide.fields if source.replayable and _is_of(source, f)}
        if not wanted:
            return
        source.resume_after(None)
        last = max(wanted)
        try:
            with source:
                while True:
                    frame = source.read(READ_TIMEOUT_S)
                    stored = wanted.get(frame.source_ref)
                    if stored is not None:
                        yield stored, frame.image
                    if frame.source_ref >= last:
                        return
        except SourceEnded:
            return
        except SourceError as exc:
            for stored in wanted.values():
                self._reasons.setdefault(stored.capture_id, str(exc))
        finally:
            self._reasons |= {wanted[ref].capture_id: text for ref, text in dropped.items() if ref in wanted}

    def _from_copy(self, stored: StoredField) -> None:
        jpeg = self.slide.copies.get(stored.capture_id)
        if jpeg is None:
            self._reasons.setdefault(stored.capture_id, NOT_KEPT)
            self.step()
            return
        try:
            self._read(stored, decode_image(jpeg), FROM_COPY)
        except ImageError as exc:
            self._reasons[stored.capture_id] = str(exc)
            self.step()

    def _read(self, stored: StoredField, image: ImageRGB, origin: str) -> None:
        if image.shape[:2] != (stored.height_px, stored.width_px):
            size = f"{image.shape[1]}x{image.shape[0]}"
            stands = f"{stored.width_px}x{stored.height_px}"
            self._reasons[stored.capture_id] = f"{stored.source_ref} is {size} now, it was {stands}: another picture"
            return
        try:
            judged = self.reader.judge(image, um_per_px=stored.um_per_px)
        except InferenceError as exc:
            self._reasons[stored.capture_id] = str(exc)
            return
        again = Read(
            judged.triage.decision, tuple(judged.triage.reasons), wire.counts(judged.analysis), judged.detections
        )
        self._again[stored.capture_id] = (again, origin)
        self.step()

    def _document(self) -> JsonObject:
        done = [f for f in self.slide.fields if f.capture_id in self._again]
        before = [_as_stored(f) for f in done]
        after = [self._again[f.capture_id][0] for f in done]
        origins = Counter(origin for _, origin in self._again.values())
        model = self.engine.model
        entries = [self._entry(f) for f in done]
        return {
            "schema": SCHEMA,
            "intended_use": INTENDED_USE,
            "tool": {"name": "ahs-edge", "version": agent_version()},
            "slide": self.slide.name,
            "models_before": sorted({f.model for f in self.slide.fields}),
            "model_after": {"name": model.name, "version": model.version, "digest": model.digest},
            "fields": {
                "stored": len(self.slide.fields),
                "replayed": len(done),
                FROM_SOURCE: origins[FROM_SOURCE],
                FROM_COPY: origins[FROM_COPY],
                "not_replayed": len(self.slide.fields) - len(done),
            },
            "before": totals(before),
            "after": totals(after),
            "decisions": _decisions(before, after),
            "cells": dict(Counter(cell["change"] for entry in entries for cell in entry["white_cells"])),
            "changes": [entry for entry in entries if _differs(entry)],
            "not_replayed": [
                {"capture_id": f.capture_id, "source_ref": f.source_ref, "reason": self._reasons[f.capture_id]}
                for f in self.slide.fields
                if f.capture_id not in self._again
            ],
        }

    def _entry(self, stored: StoredField) -> JsonObject:
        again, origin = self._again[stored.capture_id]
        return {
            "capture_id": stored.capture_id,
            "source_ref": stored.source_ref,
            "picture": origin,
            "before": _brief(_as_stored(stored)),
            "after": _brief(again),
            "boxes": box_changes(stored.detections, again.detections),
            "white_cells": [asdict(change) for change in white_changes(stored.detections, again.detections)],
        }


def _is_of(source: FrameSource, stored: StoredField) -> bool:
    if stored.source != source.kind:
        return False
    try:
        source.resume_after(stored.source_ref)
    except ValueError:
        return False
    return True


def _as_stored(stored: StoredField) -> Read:
    return Read(stored.decision, stored.reasons, stored.counts, stored.detections)


def _brief(read: Read) -> JsonObject:
    counts = read.counts.model_dump(mode="json")
    return {"decision": read.decision.value, "reasons": list(read.reasons), "counts": counts}


def _decisions(before: Sequence[Read], after: Sequence[Read]) -> list[JsonObject]:
    """How often each decision became which."""
    pairs = Counter((b.decision.value, a.decision.value) for b, a in zip(before, after, strict=True))
    return [{"before": b, "after": a, "fields": count} for (b, a), count in sorted(pairs.items())]


def _differs(entry: JsonObject) -> bool:
    boxes = any(count for by_kind in entry["boxes"].values() for count in by_kind.values())
    return bool(entry["white_cells"]) or boxes or entry["before"] != entry["after"]


def summary_lines(document: JsonObject) -> list[str]:
    """What a person is told at the end."""
    fields, before, after = document["fields"], document["before"], document["after"]
    lines = [
        f"{fields['replayed']} of {fields['stored']} fields of {document['slide']} read again: "
        f"{fields[FROM_SOURCE]} from the source, {fields[FROM_COPY]} from a copy that waits to be sent"
    ]
    if fields["not_replayed"]:
        reasons = Counter(row["reason"] for row in document["not_replayed"])
        lines.append(f"{fields['not_replayed']} could not be read again:")
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common(5)]
    if not fields["replayed"]:
        return lines
    for key, name in (("rbc", "red cells"), ("wbc", "white cells"), ("platelets", "platelets")):
        lines.append(f"{name}: {before[key]} -> {after[key]}")
    labels = sorted(set(before["white_cells"]) | set(after["white_cells"]))
    lines += [f"  {k}: {before['white_cells'].get(k, 0)} -> {after['white_cells'].get(k, 0)}" for k in labels]
    changed = [row for row in document["decisions"] if row["before"] != row["after"]]
    lines += [f"decision {row['before']} -> {row['after']}: {row['fields']} fields" for row in changed]
    lines += [f"white cells {kind.replace('_', ' ')}: {count}" for kind, count in sorted(document["cells"].items())]
    return lines
