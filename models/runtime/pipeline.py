"""The one inference pipeline: normalise the scale, detect, crop, embed, name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from models.bundle import Bundle
from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME, BundleManifest, CellClass
from models.runtime.detector import Candidates, check_maps
from models.runtime.errors import InferenceError, ModelLoadError, PipelineClosedError
from models.runtime.head import Head, load_head
from models.runtime.imaging import check_rgb, crop_cell, to_batch, window_for
from models.runtime.results import CellType, Detection, FieldAnalysis, FloatArray, ImageRGB
from models.runtime.scale import FieldReader, median_rbc_px
from models.runtime.session import Network, Provider, Session

MAX_BATCH = 32
"""White cells embedded at once: bounds the memory that one field can ask for."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The two networks of a bundle, opened."""

    detector: Network
    embedder: Network


def open_networks(bundle: Bundle, *, threads: int = 1, provider: Provider = Provider.CPU) -> Networks:
    """Open a bundle's networks in ONNX Runtime.

    Raises:
        ModelLoadError: a model that cannot be opened, or with another input or number of outputs than promised.
    """
    spec = bundle.manifest
    detector = Session(bundle.files[DETECTOR_NAME], name=DETECTOR_NAME, threads=threads, provider=provider)
    embedder = Session(bundle.files[EMBEDDER_NAME], name=EMBEDDER_NAME, threads=threads, provider=provider)
    side, crop = spec.detector.input_px, spec.embedder.input_px
    _check_input(DETECTOR_NAME, detector.input_shape, (1, 3, side, side))
    _check_input(EMBEDDER_NAME, embedder.input_shape, (None, 3, crop, crop))
    if detector.output_count != len(spec.detector.strides):
        strides = len(spec.detector.strides)
        raise ModelLoadError(
            f"{DETECTOR_NAME} has {detector.output_count} outputs, the manifest names {strides} strides"
        )
    return Networks(detector, embedder)


def _check_input(name: str, shape: Sequence[int | str | None], expected: Sequence[int | None]) -> None:
    """A named (dynamic) side fits any number; the batch of the embedder must be dynamic."""
    fits = len(shape) == len(expected) and all(
        not isinstance(side, int) if wanted is None else (not isinstance(side, int) or side == wanted)
        for side, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ["N" if side is None else side for side in expected]
        raise ModelLoadError(f"{name} takes an input of {list(shape)}, the manifest promises {wanted}")


class Pipeline:
    """Finds and names the cells of a field.

    `analyse` may be called from several threads at once: it keeps nothing between two fields, and ONNX Runtime's
    sessions are thread-safe. `close` may be called at any time; calls that began before it finish.

    Args:
        bundle: a verified bundle.
        threads: ONNX Runtime's threads for one call.
        keep_embeddings: attach each white cell's embedding to its type.
        provider: where the networks run.
        networks: run these in place of the bundle's own, with the same pre- and post-processing. Training passes the
            torch networks, so that the reference differs from the device in nothing but the network's arithmetic.

    Raises:
        ModelLoadError: the bundle's networks or its head cannot be used.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 1,
        keep_embeddings: bool = False,
        *,
        provider: Provider = Provider.CPU,
        networks: Networks | None = None,
    ) -> None:
        self.bundle = bundle
        self.keep_embeddings = keep_embeddings
        self._manifest: BundleManifest = bundle.manifest
        self._head: Head = load_head(bundle.files[HEAD_NAME], self._manifest.head, self._manifest.embedder.dimensions)
        self._networks: Networks | None = networks or open_networks(bundle, threads=threads, provider=provider)

    def warm_up(self) -> None:
        """Run both networks once, so that the first field takes no longer than the next, and check what they give.

        Raises:
            ModelLoadError: answers of another shape than the manifest promises, or not finite.
            PipelineClosedError: already closed.
        """
        networks, spec = self._open(), self._manifest
        grey = np.full((1, 3, spec.detector.input_px, spec.detector.input_px), 0.5, np.float32)
        crops = np.full((2, 3, spec.embedder.input_px, spec.embedder.input_px), 0.5, np.float32)
        try:
            check_maps(networks.detector.run(grey), spec.detector)
            self._embedded(networks, crops)
        except InferenceError as exc:
            raise ModelLoadError(f"the bundle's networks do not keep the manifest's promise: {exc}") from exc

    def analyse(self, image_rgb: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        """Find the cells of one field and name its white cells.

        Args:
            image_rgb: (H, W, 3) uint8 RGB.
            min_score: list weaker detections down to this score as well (not below the bundle's floor); they are not
                counted and not named.

        Raises:
            ImageError: not an RGB picture.
            InferenceError: a network failed.
            PipelineClosedError: already closed.
        """
        check_rgb(image_rgb)
        networks, spec = self._open(), self._manifest
        height, width = image_rgb.shape[:2]
        needed = spec.embedder.min_red_cells
        reading = FieldReader(networks.detector, spec.detector, needed).read(image_rgb)
        start_s = perf_counter()
        found = reading.found
        rbc_px = median_rbc_px(found, spec.detector, width_px=width, height_px=height, min_count=needed)
        thresholds = np.array([spec.detector.thresholds[cls] for cls in spec.detector.classes], np.float32)
        counted = found.scores >= thresholds[found.classes]
        listed = counted if min_score is None else counted | (found.scores >= min_score)
        is_white = np.array([cls is CellClass.WBC for cls in spec.detector.classes])
        white = np.nonzero(counted & is_white[found.classes])[0]
        types = self._types(networks, image_rgb, found.boxes[white], rbc_px)
        named = dict(zip((int(i) for i in white), types, strict=True))
        detections = tuple(
            _detection(found, int(i), spec, counted=bool(counted[i]), cell_type=named.get(int(i)))
            for i in np.nonzero(listed)[0]
        )
        stage_ms = {**reading.stage_ms, "type": (perf_counter() - start_s) * 1000.0}
        return FieldAnalysis(width, height, detections, rbc_px, stage_ms, reading.passes)

    def embed(self, image_rgb: ImageRGB, boxes: FloatArray, rbc_diameter_px: float | None) -> FloatArray:
        """Crop and embed white cells at given boxes.

        Args:
            image_rgb: (H, W, 3) uint8 RGB.
            boxes: (N, 4) float32, pixels of the frame.
            rbc_diameter_px: the field's red-cell diameter, or None without one.

        Returns:
            (N, D) float32.

        Raises:
            ImageError, InferenceError, PipelineClosedError: as `analyse`.
        """
        check_rgb(image_rgb)
        return self._crops_embedded(self._open(), image_rgb, boxes, rbc_diameter_px)

    def close(self) -> None:
        """Let go of the networks; a second call does nothing."""
        self._networks = None

    def _open(self) -> Networks:
        networks = self._networks
        if networks is None:
            raise PipelineClosedError("the pipeline has been closed")
        return networks

    def _types(self, networks: Networks, rgb: ImageRGB, boxes: FloatArray, rbc_px: float | None) -> list[CellType]:
        embeddings = self._crops_embedded(networks, rgb, boxes, rbc_px)
        return self._head.read_types(embeddings, self._manifest.head, keep_embeddings=self.keep_embeddings)

    def _crops_embedded(self, networks: Networks, rgb: ImageRGB, boxes: FloatArray, rbc_px: float | None) -> FloatArray:
        spec = self._manifest.embedder
        rows = [np.empty((0, spec.dimensions), np.float32)]
        for first in range(0, len(boxes), MAX_BATCH):
            crops = [
                crop_cell(rgb, box, window_for(box, rbc_px, spec), spec.input_px)
                for box in boxes[first : first + MAX_BATCH]
            ]
            rows.append(self._embedded(networks, to_batch(crops)))
        return np.concatenate(rows)

    def _embedded(self, networks: Networks, batch: FloatArray) -> FloatArray:
        outputs = networks.embedder.run(batch)
        expected = (len(batch), self._manifest.embedder.dimensions)
        if len(outputs) != 1 or outputs[0].shape != expected:
            shapes = [output.shape for output in outputs]
            raise InferenceError(f"the embedder gave arrays of shape {shapes}, the manifest promises {expected}")
        if not np.isfinite(outputs[0]).all():
            raise InferenceError("the embedder gave values that are not finite")
        return outputs[0]


def _detection(
    found: Candidates, index: int, spec: BundleManifest, *, counted: bool, cell_type: CellType | None
) -> Detection:
    x1, y1, x2, y2 = (float(v) for v in found.boxes[index])
    cls = spec.detector.classes[found.classes[index]]
    return Detection((x1, y1, x2, y2), cls, float(found.scores[index]), counted, cell_type)
