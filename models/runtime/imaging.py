"""Pictures in, tensors out: decoding, letterboxing and cropping. The only door to OpenCV in the runtime.

Training imports these functions, which is what makes its preprocessing bit-equal to the device's.
Every picture is (H, W, 3) uint8 RGB; BGR lives only inside the calls to OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import EmbedderSpec
from models.runtime.errors import ImageError
from models.runtime.image_header import read_header
from models.runtime.results import FloatArray, ImageRGB

# OpenCV and its codecs report a bad picture on stderr as well; the caller gets an ImageError and logs it once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

MAX_IMAGE_BYTES = 64 * 1024 * 1024
MAX_IMAGE_PIXELS = 64 * 1000 * 1000
MIN_SIDE_PX = 16
MAX_WINDOW_PX = 8192
"""A crop window wider than this is a mistake of the caller, not a cell."""

Box = Sequence[float] | NDArray[np.floating]
"""x1, y1, x2, y2 in pixels of the original frame."""


def decode_image(data: bytes) -> ImageRGB:
    """Decode JPEG, PNG, TIFF, BMP or WebP.

    16 bits a channel are scaled down to 8, grey is repeated to three channels, CMYK is converted, alpha is dropped
    and the EXIF orientation is applied. Of several pages the first is read.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        ImageError: empty, unknown, truncated, corrupt, too large (in bytes or, by its header, in pixels) or too small.
    """
    if not data:
        raise ImageError("the picture is empty (0 bytes)")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"the picture has {len(data)} bytes, more than the {MAX_IMAGE_BYTES} allowed")
    header = read_header(data)
    pixels = header.width_px * header.height_px
    if pixels > MAX_IMAGE_PIXELS:
        raise ImageError(
            f"the picture has {header.width_px}x{header.height_px} pixels, more than the {MAX_IMAGE_PIXELS} allowed; "
            "send a smaller field"
        )
    if min(header.width_px, header.height_px) < MIN_SIDE_PX:
        raise ImageError(
            f"the picture has {header.width_px}x{header.height_px} pixels; each side needs at least {MIN_SIDE_PX}"
        )
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise ImageError(f"the {header.kind.upper()} cannot be decoded: it is corrupt") from exc
    if bgr is None:
        raise ImageError(f"the {header.kind.upper()} cannot be decoded: it is corrupt or truncated")
    if bgr.dtype != np.uint8 or sorted(bgr.shape[:2]) != sorted((header.height_px, header.width_px)):
        raise ImageError(f"the {header.kind.upper()} decodes to something else than its header says")
    return np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_image(path: Path) -> ImageRGB:
    """Read and decode a picture file; see `decode_image`.

    Raises:
        ImageError: the file is absent, is no file, cannot be read, or is no usable picture; the message names it.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_IMAGE_BYTES:
            raise ImageError(f"{path}: the picture has {size_bytes} bytes, more than {MAX_IMAGE_BYTES} allowed")
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise ImageError(f"{path}: there is no such file") from exc
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read ({exc.strerror})") from exc
    try:
        return decode_image(data)
    except ImageError as exc:
        raise ImageError(f"{path}: {exc}") from exc


def encode_jpeg(rgb: ImageRGB, quality: int = 90) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG; quality 1..100."""
    return _encode(rgb, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(rgb: ImageRGB) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG, without loss."""
    return _encode(rgb, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _encode(rgb: ImageRGB, suffix: str, options: list[int]) -> bytes:
    check_rgb(rgb)
    done, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ImageError(f"the picture could not be encoded as {suffix}")
    return data.tobytes()


def check_rgb(rgb: ImageRGB) -> None:
    """Refuse anything but a non-empty (H, W, 3) uint8 array.

    Raises:
        ImageError: another shape or type; the message says which.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        shape, kind = getattr(rgb, "shape", None), getattr(rgb, "dtype", type(rgb).__name__)
        raise ImageError(f"a picture is (H, W, 3) uint8 RGB; got shape {shape}, {kind}")


@dataclass(frozen=True, slots=True, eq=False)
class Letterboxed:
    """A frame scaled uniformly into a square and padded.

    Attributes:
        canvas: (S, S, 3) uint8 RGB.
        scale: canvas pixels per frame pixel.
        pad_x, pad_y: canvas pixels to the left of and above the frame.
    """

    canvas: ImageRGB
    scale: float
    pad_x: int
    pad_y: int

    def to_frame(self, boxes: FloatArray) -> FloatArray:
        """(N, 4) boxes of the canvas -> the frame's pixels, float32, not clipped."""
        offset = np.array([self.pad_x, self.pad_y, self.pad_x, self.pad_y], np.float32)
        return ((np.asarray(boxes, np.float32).reshape(-1, 4) - offset) / np.float32(self.scale)).astype(np.float32)

    def to_canvas(self, boxes: FloatArray) -> FloatArray:
        """(N, 4) boxes of the frame -> the canvas's pixels, float32; the inverse of `to_frame`."""
        offset = np.array([self.pad_x, self.pad_y, self.pad_x, self.pad_y], np.float32)
        return (np.asarray(boxes, np.float32).reshape(-1, 4) * np.float32(self.scale) + offset).astype(np.float32)


def letterbox(rgb: ImageRGB, size_px: int, pad_value: int, *, scale: float | None = None) -> Letterboxed:
    """Scale a frame uniformly into a square of `size_px` and pad it, centred.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        size_px: side of the square.
        pad_value: grey level of the padding.
        scale: canvas pixels per frame pixel; by default the largest at which the whole frame fits.

    Raises:
        ImageError: not an RGB picture.
        ValueError: at this scale the frame does not fit into the square.
    """
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    if scale is None:
        scale = size_px / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    if new_width > size_px or new_height > size_px:
        raise ValueError(f"{width}x{height} px at scale {scale:.3f} do not fit into {size_px} px")
    resized = _resize(rgb, new_width, new_height)
    pad_x, pad_y = (size_px - new_width) // 2, (size_px - new_height) // 2
    canvas = np.full((size_px, size_px, 3), pad_value, np.uint8)
    canvas[pad_y : pad_y + new_height, pad_x : pad_x + new_width] = resized
    return Letterboxed(canvas, scale, pad_x, pad_y)


def to_tensor(canvas: ImageRGB) -> FloatArray:
    """(S, S, 3) uint8 RGB -> (1, 3, S, S) float32 in 0..1, contiguous."""
    return to_batch([canvas])


def to_batch(crops: Sequence[ImageRGB]) -> FloatArray:
    """N pictures (C, C, 3) uint8 RGB of one size -> (N, 3, C, C) float32 in 0..1, contiguous."""
    planes = np.stack(crops).transpose(0, 3, 1, 2)
    return np.multiply(planes, np.float32(1.0 / 255.0), dtype=np.float32, order="C")


def window_for(box: Box, rbc_diameter_px: float | None, spec: EmbedderSpec) -> float:
    """Side of a white cell's crop window in pixels of the frame.

    Taken from the red cells' median diameter, so that the cell keeps its size in the crop; without it, from the box.
    """
    if rbc_diameter_px is not None:
        return min(max(1.0, spec.window_rbc * rbc_diameter_px), float(MAX_WINDOW_PX))
    x1, y1, x2, y2 = (float(v) for v in box)
    return min(max(1.0, spec.window_box * max(x2 - x1, y2 - y1)), float(MAX_WINDOW_PX))


def crop_cell(rgb: ImageRGB, box: Box, window_px: float, input_px: int) -> ImageRGB:
    """Cut a square window centred on a box; beyond the frame its border is replicated.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        box: x1, y1, x2, y2 in the frame's pixels.
        window_px: side of the window in the frame's pixels.
        input_px: side of the result, C.

    Returns:
        (C, C, 3) uint8 RGB.

    Raises:
        ImageError: not an RGB picture.
        ValueError: a window that is not finite or absurdly wide.
    """
    check_rgb(rgb)
    if not 0 < window_px <= MAX_WINDOW_PX:
        raise ValueError(f"a crop window of {window_px} px is not usable")
    height, width = rgb.shape[:2]
    side = max(1, round(window_px))
    x1, y1, x2, y2 = (float(v) for v in box)
    centre_x, centre_y = min(max((x1 + x2) / 2, 0.0), width), min(max((y1 + y2) / 2, 0.0), height)
    left, top = round(centre_x - side / 2), round(centre_y - side / 2)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    # Cut first, then repeat the border by index: only the window is ever copied, never the frame.
    window = rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if window.shape[:2] != (side, side):
        window = window[(rows - rows[0])[:, None], (columns - columns[0])[None, :]]
    return _resize(window, input_px, input_px)


def suppress(boxes: FloatArray, scores: FloatArray, classes: NDArray[np.int32], iou: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes: (N, 4) float32, x1 y1 x2 y2.
        scores: (N,) float32.
        classes: (N,) int32.
        iou: a box that overlaps a stronger one of its class by more than this goes.

    Returns:
        Indices of the boxes that stay.
    """
    if not len(boxes):
        return np.empty(0, np.intp)
    cornered = boxes.copy()
    cornered[:, 2:] -= cornered[:, :2]
    # 2 to 3 times faster than vectorised numpy at 300 and at 1,500 boxes, with the same outcome.
    # (OpenCV's stub asks for lists; arrays work and spare the conversion.)
    batched: Callable[..., Sequence[int]] = cv2.dnn.NMSBoxesBatched
    kept = batched(cornered, scores, classes, 0.0, iou)
    return np.asarray(kept, np.intp).ravel()


def _resize(rgb: ImageRGB, width_px: int, height_px: int) -> ImageRGB:
    """INTER_AREA when it shrinks (no aliasing), INTER_LINEAR when it enlarges."""
    height, width = rgb.shape[:2]
    if (width, height) == (width_px, height_px):
        return np.ascontiguousarray(rgb)
    shrinks = width_px < width or height_px < height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (width_px, height_px), interpolation=method), np.uint8)
