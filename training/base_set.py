"""The base set of a bundle: embeddings of the cells that it learned from, and the frozen set it is judged on.

A folder `training/base_sets/NAME-VERSION/` holds `base.npz`, `frozen.npz` and `manifest.json`. The manifest names the
hash of each file and of the embedder that made the embeddings: a refit with another embedder would mix two spaces.
No pictures are kept, only numbers that one embedder made of them.

1. the manifest can be read and is of a known schema;
2. each file has the size and the hash that the manifest names;
3. arrays have the promised shapes and finite values;
4. frozen cells that releases rest on are, as this embedder sees them, the file that is pinned in `fleet.release`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from fleet.release.pinned import pinned
from models.bundle import Bundle
from models.bundle.manifest import EMBEDDER_NAME, DataSource, EmbedderSpec, FileEntry
from models.runtime.results import FloatArray
from training.config import Part
from training.errors import BaseSetError
from training.head import LabelledEmbeddings

BASE_SCHEMA: Literal["ahs.base-set/1"] = "ahs.base-set/1"
BASE_NAME, FROZEN_NAME, MANIFEST_NAME = "base.npz", "frozen.npz", "manifest.json"
MAX_FILE_BYTES = 256 * 1024 * 1024
SHIPPED = Path(__file__).resolve().parent / "base_sets"
TRAIN, HELD_OUT = 0, 1
OUTSIDER = -1
"""Label of a cell that is none of the types: it must not be named."""


class BaseManifest(Part):
    """What a base set says of itself."""

    schema_: Literal["ahs.base-set/1"] = Field(BASE_SCHEMA, alias="schema")
    bundle: str = Field(description="name and version of the bundle whose embedder made it")
    bundle_digest: str | None = Field(
        pattern=r"^sha256:[0-9a-f]{64}$", description="of that bundle; null where it was made before its bundle was"
    )
    embedder_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    embedder: EmbedderSpec
    created: str
    generator: str = Field(description="fingerprint of the generator's source")
    cells: dict[str, int] = Field(description="cells of each part and slice")
    sources: tuple[DataSource, ...]
    files: tuple[FileEntry, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


@dataclass(frozen=True, slots=True, eq=False)
class FrozenSet:
    """Cells that no model may learn from.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) int64, index into `WhiteCellType`, or `OUTSIDER`.
        slices: (N,) name of the slice of each cell.
        names: (N,) file, or seed and box, that the cell was cut from.
        pictures: (N,) SHA-256 of the file's bytes, or of the rendered pixels.
        sha256: of the file, which holds the cells as one embedder sees them.
    """

    embeddings: FloatArray
    labels: NDArray[np.int64]
    slices: NDArray[np.str_]
    names: NDArray[np.str_]
    pictures: NDArray[np.str_]
    sha256: str

    @property
    def cells_sha256(self) -> str:
        """Of which cells they are and what they are labelled, whatever embedder has read them: what evidence names."""
        columns = (self.slices.tolist(), self.names.tolist(), self.pictures.tolist(), self.labels.tolist())
        lines = sorted("\t".join(map(str, cell)) for cell in zip(*columns, strict=True))
        return sha256_of("\n".join(lines).encode())


@dataclass(frozen=True, slots=True, eq=False)
class BaseSet:
    """A base set in memory, verified."""

    manifest: BaseManifest
    train: LabelledEmbeddings
    held_out: LabelledEmbeddings
    frozen: FrozenSet


def sha256_of(data: bytes) -> str:
    """Hash as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def beside_bundle(path: Path) -> Path:
    """`BUNDLE.base_set`, where `retrain` puts the base set of a new embedder."""
    return path.with_name(f"{path.name}.base_set")


def find_base_set(bundle: Bundle, root: Path = SHIPPED) -> Path:
    """Folder of the base set that the bundle's embedder made: beside the bundle, or among those that ship.

    Raises:
        BaseSetError: there is none.
    """
    wanted = sha256_of(bundle.files[EMBEDDER_NAME])
    beside = beside_bundle(bundle.path) / MANIFEST_NAME
    for path in [*([beside] if beside.is_file() else []), *sorted(root.glob(f"*/{MANIFEST_NAME}"))]:
        if _manifest(path).embedder_sha256 == wanted:
            return path.parent
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    raise BaseSetError(f"no base set in {root} was made by the embedder of {name}; make one with `ahs-train base-set`")


def read_base_set(folder: Path, bundle: Bundle) -> BaseSet:
    """Read and check a base set, for a bundle of the same embedder.

    Raises:
        BaseSetError: absent, a changed file, or made by another embedder.
    """
    manifest = _manifest(folder / MANIFEST_NAME)
    if manifest.embedder_sha256 != sha256_of(bundle.files[EMBEDDER_NAME]):
        raise BaseSetError(f"{folder} was made by the embedder of {manifest.bundle}, the bundle holds another one")
    if manifest.embedder != bundle.manifest.embedder:
        raise BaseSetError(f"{folder} was cut with other crop windows than those of the bundle")
    files = {entry.path: _content(folder, entry) for entry in manifest.files}
    if set(files) != {BASE_NAME, FROZEN_NAME}:
        raise BaseSetError(f"{folder}: the manifest must name {BASE_NAME} and {FROZEN_NAME}")
    width = manifest.embedder.dimensions
    base, frozen = _arrays(BASE_NAME, files[BASE_NAME], width), _arrays(FROZEN_NAME, files[FROZEN_NAME], width)
    try:
        parts = [_labelled(base, base["parts"] == part) for part in (TRAIN, HELD_OUT)]
        kept = FrozenSet(
            embeddings=frozen["embeddings"].astype(np.float32),
            labels=frozen["labels"].astype(np.int64),
            slices=np.char.decode(frozen["slices"], "utf-8"),
            names=np.char.decode(frozen["names"], "utf-8"),
            pictures=np.char.decode(frozen["pictures"], "ascii"),
            sha256=sha256_of(files[FROZEN_NAME]),
        )
    except KeyError as exc:
        raise BaseSetError(f"{folder}: an array is missing: {exc}") from exc
    known = pinned().frozen_set(kept.cells_sha256)
    if known is not None and known.embedded.get(manifest.embedder_sha256, kept.sha256) != kept.sha256:
        raise BaseSetError(f"{folder / FROZEN_NAME} is not the frozen set that was locked; take the one that shipped")
    return BaseSet(manifest, parts[0], parts[1], kept)


def _manifest(path: Path) -> BaseManifest:
    try:
        return BaseManifest.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise BaseSetError(
            f"{path}: cannot be read ({exc.strerror}); make a base set with `ahs-train base-set`"
        ) from exc
    except ValidationError as exc:
        raise BaseSetError(f"{path}: is no manifest of a base set: {exc.errors()[0]['msg']}") from exc


def _content(folder: Path, entry: FileEntry) -> bytes:
    path = folder / entry.path
    if Path(entry.path).name != entry.path or entry.size_bytes > MAX_FILE_BYTES:
        raise BaseSetError(f"{folder}: {entry.path!r} is not a file of a base set")
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BaseSetError(f"{path}: cannot be read ({exc.strerror})") from exc
    if len(data) != entry.size_bytes or sha256_of(data) != entry.sha256:
        raise BaseSetError(f"{path} is not the file that the manifest names: it was changed; take the one that shipped")
    return data


def _arrays(name: str, data: bytes, width: int) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        rows = arrays["embeddings"]
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile) as exc:
        raise BaseSetError(f"{name} cannot be read: {exc}") from exc
    if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
        raise BaseSetError(f"{name}: embeddings of shape {rows.shape}, expected (N, {width}) and finite values")
    if any(len(array) != len(rows) for array in arrays.values()):
        raise BaseSetError(f"{name}: the arrays are not of one length")
    return arrays


def _labelled(arrays: Mapping[str, NDArray[Any]], chosen: NDArray[np.bool_]) -> LabelledEmbeddings:
    rows = arrays["embeddings"][chosen].astype(np.float32)
    return LabelledEmbeddings(
        rows, arrays["labels"][chosen].astype(np.int64), arrays["origins"][chosen].astype(np.int64)
    )


def write_base_set(
    folder: Path,
    *,
    train: LabelledEmbeddings,
    held_out: LabelledEmbeddings,
    frozen: FrozenSet,
    said: Mapping[str, Any],
) -> BaseManifest:
    """Write a base set; the manifest comes last and says that the rest is whole.

    Args:
        folder: new or empty: a frozen set is never replaced in place.
        train, held_out: cells that the head learns from, and those for its levels.
        frozen: cells to be judged on; its `sha256` is computed here.
        said: the manifest's fields without `schema`, `cells` and `files`.

    Raises:
        BaseSetError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BaseSetError(f"{folder} is not empty; a frozen set is not replaced: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    both = [train, held_out]
    base = _packed(
        embeddings=np.concatenate([c.embeddings for c in both]).astype(np.float16),
        labels=np.concatenate([c.labels for c in both]).astype(np.int8),
        origins=np.concatenate([c.origins for c in both]).astype(np.int8),
        parts=np.repeat(np.array([TRAIN, HELD_OUT], np.int8), [len(c.labels) for c in both]),
    )
    kept = _packed(
        embeddings=frozen.embeddings.astype(np.float16),
        labels=frozen.labels.astype(np.int8),
        slices=np.char.encode(frozen.slices, "utf-8"),
        names=np.char.encode(frozen.names, "utf-8"),
        pictures=np.char.encode(frozen.pictures, "ascii"),
    )
    content = {BASE_NAME: base, FROZEN_NAME: kept}
    entries = tuple(
        FileEntry(path=name, size_bytes=len(data), sha256=sha256_of(data)) for name, data in content.items()
    )
    slices, counts = np.unique(frozen.slices, return_counts=True)
    cells = {"train": len(train.labels), "held_out": len(held_out.labels)}
    cells |= {f"frozen {name}": int(count) for name, count in zip(slices.tolist(), counts.tolist(), strict=True)}
    manifest = BaseManifest.model_validate({**said, "schema": BASE_SCHEMA, "cells": cells, "files": entries})
    for name, data in content.items():
        (folder / name).write_bytes(data)
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return manifest


def _packed(**arrays: NDArray[Any]) -> bytes:
    """The same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
