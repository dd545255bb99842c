"""Decoding, letterboxing and cropping."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bundle import EmbedderSpec
from models.runtime import ImageError, decode_image, encode_jpeg, imaging, read_image
from models.runtime.imaging import crop_cell, encode_png, letterbox, suppress, to_batch, to_tensor, window_for
from tests.unit.cmyk_jpeg import CMYK_JPEG, LEFT_RGB, RIGHT_RGB

SPEC = EmbedderSpec(input_px=64, dimensions=8, window_rbc=2.0, window_box=1.5)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """Left red, right blue, dark at the top: no axis and no channel can be mistaken for another."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (200, 30, 10)
    image[:, 30:] = (10, 60, 220)
    image[:10] //= 2
    return image


def _encoded(image: NDArray[np.uint8] | NDArray[np.uint16], suffix: str) -> bytes:
    bgr = image if image.ndim == 2 else image[:, :, [2, 1, 0, *range(3, image.shape[2])]]
    return cv2.imencode(suffix, np.ascontiguousarray(bgr))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_lossless_kinds_are_read_as_rgb(picture: NDArray[np.uint8], suffix: str) -> None:
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    data = cv2.imencode(suffix, picture[:, :, ::-1], options)[1].tobytes()
    assert np.array_equal(decode_image(data), picture)


def test_a_jpeg_keeps_its_colours_in_rgb_order(picture: NDArray[np.uint8]) -> None:
    decoded = decode_image(encode_jpeg(picture, 95))
    assert np.abs(decoded[20, 5].astype(int) - (200, 30, 10)).max() < 12
    assert np.abs(decoded[20, 55].astype(int) - (10, 60, 220)).max() < 12


def test_grey_becomes_three_equal_channels(picture: NDArray[np.uint8]) -> None:
    decoded = decode_image(_encoded(picture[:, :, 0], ".png"))
    assert np.array_equal(decoded, np.repeat(picture[:, :, :1], 3, axis=2))


def test_alpha_is_dropped(picture: NDArray[np.uint8]) -> None:
    alpha = np.full((*picture.shape[:2], 1), 7, np.uint8)
    assert np.array_equal(decode_image(_encoded(np.concatenate([picture, alpha], axis=2), ".png")), picture)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_to_eight(picture: NDArray[np.uint8], suffix: str) -> None:
    assert np.array_equal(decode_image(_encoded(picture.astype(np.uint16) * 257, suffix)), picture)


def _with_orientation(jpeg: bytes, value: int) -> bytes:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, value, 0) + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(("value", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_orientation_in_the_file_is_applied(picture: NDArray[np.uint8], value: int, turns: int) -> None:
    upright = decode_image(encode_jpeg(picture, 95))
    decoded = decode_image(_with_orientation(encode_jpeg(picture, 95), value))
    assert np.array_equal(decoded, np.rot90(upright, turns))


def test_a_cmyk_jpeg_is_converted() -> None:
    decoded = decode_image(CMYK_JPEG)
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded[:, :32].astype(int) - LEFT_RGB).max() < 6
    assert np.abs(decoded[:, 32:].astype(int) - RIGHT_RGB).max() < 6


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_picture_is_refused_not_filled_with_grey(suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    data = _encoded(noise, suffix)
    assert decode_image(data).shape == (64, 80, 3)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)])


def _png_of(width_px: int, height_px: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_an_image_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    with pytest.raises(ImageError, match="60000x60000 pixels"):
        decode_image(_png_of(60_000, 60_000))


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imaging, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(ImageError, match="101 bytes"):
        decode_image(b"x" * 101)
    (tmp_path / "big.png").write_bytes(b"x" * 101)
    with pytest.raises(ImageError, match=r"big\.png.*101 bytes"):
        read_image(tmp_path / "big.png")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, world", "JPEG, PNG"),
        (b"\xff\xd8", "truncated"),
        (b"\xff\xd8\xff\xd9", "ends before"),
        (b"\xff\xd8\x00\x00", "marker"),
        (_png_of(100, 4), "at least"),
        (_png_of(500, 500), "decoded"),
        (b"II*\0\x08\0\0\0\0\0", "names no size"),
        (b"II*\0\xff\xff\xff\x7f", "truncated"),
        (b"RIFF\x04\0\0\0WEBPVP8?", "WebP"),
    ],
)
def test_what_is_no_usable_picture_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(data)


@given(
    data=st.binary(max_size=300), start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM"])
)
def test_no_bytes_whatever_get_past_the_error_type(data: bytes, start: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(start + data)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png: there is no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_png_survives_the_round_trip_bit_for_bit(picture: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode_image(encode_png(picture)), picture)


@given(
    width=st.integers(16, 700),
    height=st.integers(16, 700),
    size=st.sampled_from([64, 320, 416]),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
)
def test_boxes_come_back_from_the_letterbox(width: int, height: int, size: int, corner: tuple[float, float]) -> None:
    view = letterbox(np.zeros((height, width, 3), np.uint8), size, 114)
    x1, y1 = corner[0] * width, corner[1] * height
    boxes = np.array([[x1, y1, width, height], [0, 0, width, height]], np.float32)
    canvas = view.to_canvas(boxes)
    assert np.abs(view.to_frame(canvas) - boxes).max() < 1e-2 * max(1.0, 1 / view.scale)
    assert canvas.min() >= -1
    assert canvas.max() <= size + 1


@given(width=st.integers(16, 700), height=st.integers(16, 700))
def test_the_letterbox_pads_evenly_and_keeps_the_picture_whole(width: int, height: int) -> None:
    view = letterbox(np.full((height, width, 3), 7, np.uint8), 320, 114)
    assert view.canvas.shape == (320, 320, 3)
    filled = (view.canvas == 7).all(axis=2)
    rows, columns = np.nonzero(filled.any(axis=1))[0], np.nonzero(filled.any(axis=0))[0]
    assert filled.sum() == len(rows) * len(columns)
    assert abs(rows[0] - (319 - rows[-1])) <= 1
    assert abs(columns[0] - (319 - columns[-1])) <= 1
    assert max(len(rows), len(columns)) == 320
    assert (view.canvas[~filled] == 114).all()


def test_a_scale_at_which_the_frame_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        letterbox(np.zeros((480, 640, 3), np.uint8), 320, 114, scale=0.6)


def test_the_tensor_is_rgb_planes_from_nought_to_one(picture: NDArray[np.uint8]) -> None:
    canvas = letterbox(picture, 60, 114).canvas
    tensor = to_tensor(canvas)
    assert tensor.shape == (1, 3, 60, 60)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor[0, 0, 30, 5] == pytest.approx(200 / 255)
    assert tensor[0, 2, 30, 5] == pytest.approx(10 / 255)
    assert np.array_equal(to_batch([canvas, canvas])[1], tensor[0])


def test_a_crop_is_centred_on_its_box() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    image[40:50, 60:70] = 255
    crop = crop_cell(image, (60, 40, 70, 50), window_px=40, input_px=40)
    rows, columns = np.nonzero(crop[:, :, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 24, 15, 24)


@given(x=st.floats(-50, 170), y=st.floats(-50, 150), window=st.floats(0.5, 400), size=st.sampled_from([16, 64]))
def test_a_crop_beyond_the_frame_repeats_the_border(x: float, y: float, window: float, size: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    crop = crop_cell(image, (x - 5, y - 5, x + 5, y + 5), window, size)
    assert crop.shape == (size, size, 3)
    side = max(1, round(window))
    padded = cv2.copyMakeBorder(image, 500, 500, 500, 500, cv2.BORDER_REPLICATE)
    left = round(min(max(x, 0.0), 120.0) - side / 2) + 500
    top = round(min(max(y, 0.0), 100.0) - side / 2) + 500
    method = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    expected = cv2.resize(padded[top : top + side, left : left + side], (size, size), interpolation=method)
    assert np.abs(crop.astype(int) - expected).max() <= 1


def test_the_window_follows_the_red_cells_and_else_the_box() -> None:
    assert window_for((0, 0, 30, 50), 40.0, SPEC) == 80.0
    assert window_for((0, 0, 30, 50), None, SPEC) == 75.0
    assert window_for((0, 0, 0, 0), None, SPEC) == 1.0
    assert window_for((0, 0, 9000, 9000), None, SPEC) == imaging.MAX_WINDOW_PX


@pytest.mark.parametrize(
    "wrong", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)]
)
def test_an_array_that_is_no_rgb_picture_is_refused(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match="uint8 RGB"):
        letterbox(wrong, 64, 114)


def test_suppression_works_within_a_class_only() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([0.6, 0.9, 0.5, 0.1], np.float32)
    kept = suppress(boxes, scores, np.array([0, 0, 1, 0], np.int32), 0.6)
    assert sorted(kept.tolist()) == [1, 2, 3]
    assert suppress(boxes[:0], scores[:0], np.empty(0, np.int32), 0.6).tolist() == []
