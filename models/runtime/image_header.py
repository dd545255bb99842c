"""What an encoded picture says of itself, read without decoding it.

The size is taken from the header before a decoder allocates anything, so that a few bytes cannot ask for gigabytes.
A JPEG or PNG that ends too early is found here too: decoders fill what is missing with grey and say nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from models.runtime.errors import ImageError

ACCEPTED = "JPEG, PNG, TIFF, BMP or WebP"

_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_SHORT, _TIFF_LONG = 3, 4


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Kind and size of an encoded picture, before its orientation is applied.

    Attributes:
        kind: `jpeg`, `png`, `tiff`, `bmp` or `webp`.
        width_px, height_px: as stored.
    """

    kind: str
    width_px: int
    height_px: int


def read_header(data: bytes) -> ImageHeader:
    """Kind and size of a picture.

    Raises:
        ImageError: unknown kind, or a header or body that ends too early.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as exc:
        raise ImageError("the picture is truncated: its header is incomplete; send the whole file") from exc
    raise ImageError(f"not a picture of a known kind; send {ACCEPTED}")


def _jpeg(data: bytes) -> ImageHeader:
    size: tuple[int, int] | None = None
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ImageError("the JPEG is corrupt: a segment does not begin with a marker")
        marker = data[at + 1]
        at += 1 if marker == 0xFF else 2
        if marker == 0xFF or marker in _JPEG_BARE_MARKERS:
            continue
        if marker == 0xD9:
            raise ImageError("the JPEG ends before its picture begins")
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = (width, height)
        at += length
        if marker == 0xDA:
            break
    if size is None:
        raise ImageError("the JPEG is corrupt: it names no size")
    # After the first scan has begun, 0xFFD9 can only be the end: in coded data 0xFF is always followed by 0x00.
    if data.find(b"\xff\xd9", at) < 0:
        raise ImageError("the JPEG is truncated: its end is missing; send the whole file")
    return ImageHeader("jpeg", *size)


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise ImageError("the PNG is corrupt: it does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    while data[at + 4 : at + 8] != b"IEND":
        if at + 12 > len(data):
            raise ImageError("the PNG is truncated: its end is missing; send the whole file")
        (length,) = struct.unpack_from(">I", data, at)
        at += 12 + length
    return ImageHeader("png", width, height)


def _tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    found: dict[int, int] = {}
    for entry in range(count):
        at = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in (_TIFF_SHORT, _TIFF_LONG):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, at + 8)
    if len(found) != 2:
        raise ImageError("the TIFF is corrupt: it names no size")
    return ImageHeader("tiff", found[_TIFF_WIDTH], found[_TIFF_HEIGHT])


def _bmp(data: bytes) -> ImageHeader:
    (declared,) = struct.unpack_from("<I", data, 2)
    if declared > len(data):
        raise ImageError("the BMP is truncated: its end is missing; send the whole file")
    width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader("bmp", abs(width), abs(height))


def _webp(data: bytes) -> ImageHeader:
    (declared,) = struct.unpack_from("<I", data, 4)
    if declared + 8 > len(data):
        raise ImageError("the WebP is truncated: its end is missing; send the whole file")
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8 ":
        raw_width, raw_height = struct.unpack_from("<HH", data, 26)
        width, height = raw_width & 0x3FFF, raw_height & 0x3FFF
    else:
        raise ImageError("the WebP is corrupt: it names no size")
    return ImageHeader("webp", width, height)
