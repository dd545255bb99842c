"""The head on top of the embedder: a type, how sure, and whether the cell looks familiar. Plain arrays, no network."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import UNIDENTIFIED, HeadSpec
from models.runtime.errors import InferenceError, ModelLoadError
from models.runtime.results import CellType, FloatArray

MAX_HEAD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Arrays of `head.npz`; K classes, D dimensions.

    Attributes:
        weights: (K, D) float32.
        bias: (K,) float32.
        temperature: () float32, above 0.
        conformal_quantiles: (K,) float32, largest 1 - p that still puts the class into the prediction set.
        domain_means: (M, D) float32, one or more a class; only the nearest counts.
        domain_precision: (D, D) float32.
        domain_threshold: () float32, above 0, squared Mahalanobis distance.
    """

    weights: FloatArray
    bias: FloatArray
    temperature: FloatArray
    conformal_quantiles: FloatArray
    domain_means: FloatArray
    domain_precision: FloatArray
    domain_threshold: FloatArray

    def probabilities(self, embeddings: FloatArray) -> NDArray[np.float64]:
        """(N, D) embeddings -> (N, K) calibrated probabilities, each row sums to 1."""
        logits = (embeddings.astype(np.float64) @ self.weights.T + self.bias) / float(self.temperature)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)

    def distances(self, embeddings: FloatArray) -> NDArray[np.float64]:
        """(N, D) embeddings -> (N,) squared Mahalanobis distance to the nearest mean."""
        apart = embeddings.astype(np.float64)[:, None, :] - self.domain_means[None]
        squared = np.einsum("nkd,de,nke->nk", apart, self.domain_precision, apart, optimize=True)
        # Rounding can leave a distance of nought slightly below it.
        return np.asarray(squared.min(axis=1).clip(0.0), np.float64)

    def read_types(self, embeddings: FloatArray, spec: HeadSpec, *, keep_embeddings: bool = False) -> list[CellType]:
        """Say what each white cell is.

        The label is the most probable type if its probability reaches `accept_probability`, the cell is in the domain
        and the prediction set holds this type alone; otherwise `unidentified`.

        Args:
            embeddings: (N, D) float32.
            spec: names of the classes and the probability needed.
            keep_embeddings: attach each cell's embedding.

        Raises:
            InferenceError: embeddings of another width, or not finite.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.weights.shape[1]:
            raise InferenceError(
                f"embeddings of shape {embeddings.shape}, the head reads {self.weights.shape[1]} values"
            )
        if not np.isfinite(embeddings).all():
            raise InferenceError("the embedder gave values that are not finite")
        if not len(embeddings):
            return []
        chances = self.probabilities(embeddings)
        scores = self.distances(embeddings) / float(self.domain_threshold)
        inside = (1.0 - chances) <= self.conformal_quantiles
        names = [str(cls) for cls in spec.classes]
        types: list[CellType] = []
        for row, chance in enumerate(chances):
            top = names[int(chance.argmax())]
            members = tuple(name for name, held in zip(names, inside[row], strict=True) if held)
            at_home = bool(scores[row] <= 1.0)
            sure = chance.max() >= spec.accept_probability and at_home and members == (top,)
            types.append(
                CellType(
                    label=top if sure else UNIDENTIFIED,
                    probabilities={name: float(p) for name, p in zip(names, chance, strict=True)},
                    prediction_set=members,
                    in_domain=at_home,
                    ood_score=float(scores[row]),
                    embedding=embeddings[row].copy() if keep_embeddings else None,
                )
            )
        return types

    def to_bytes(self) -> bytes:
        """The head as `head.npz`; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name), np.float32) for f in fields(self)}
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def load_head(data: bytes, spec: HeadSpec, dimensions: int) -> Head:
    """Read `head.npz` and check each array's shape and values.

    Raises:
        ModelLoadError: which array is wrong and how.
    """
    k, d = len(spec.classes), dimensions
    shapes: dict[str, tuple[int, ...]] = {
        "weights": (k, d),
        "bias": (k,),
        "temperature": (),
        "conformal_quantiles": (k,),
        "domain_means": (-1, d),
        "domain_precision": (d, d),
        "domain_threshold": (),
    }
    arrays = {name: _checked(name, array, shapes[name]) for name, array in _arrays(data, set(shapes)).items()}
    for name in ("temperature", "domain_threshold"):
        if float(arrays[name]) <= 0:
            raise ModelLoadError(f"head.npz: {name} must be above 0, it is {float(arrays[name])}")
    return Head(**arrays)


def _arrays(data: bytes, wanted: set[str]) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_HEAD_BYTES:
                raise ModelLoadError(f"head.npz unpacks to more than {MAX_HEAD_BYTES} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            if set(stored.files) != wanted:
                raise ModelLoadError(f"head.npz holds {sorted(stored.files)}, expected {sorted(wanted)}")
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile) as exc:
        raise ModelLoadError(f"head.npz cannot be read: {exc}") from exc


def _checked(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> FloatArray:
    """`-1` in the shape stands for any number of rows from one upwards."""
    fits = len(array.shape) == len(shape) and all(
        have == want or (want == -1 and have >= 1) for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        raise ModelLoadError(f"head.npz: {name} is {array.dtype} {array.shape}, expected float32 {shape}")
    checked = np.asarray(array, np.float32)
    if not np.isfinite(checked).all():
        raise ModelLoadError(f"head.npz: {name} holds values that are not finite")
    return checked
