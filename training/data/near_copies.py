"""Near-copies: pictures that show the same cells, whatever their orientation, crop, light or compression.

1. A perceptual hash: signs of the low frequencies of a 32x32 grey picture. A mirrored or turned picture has the same
   frequencies with other signs and places, so that the hashes of all eight orientations come from one transform.
2. Pairs whose hashes differ in few bits in the best orientation are candidates; smears look alike, so most are none.
3. A candidate counts if the pictures correlate in that orientation, over shifts and crops.
4. Groups are what is connected by such pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.runtime.results import ImageRGB

MAX_BITS = 16
"""Most of the 63 bits in which the hashes of near-copies differ."""
MIN_LIKENESS = 0.94
"""Least correlation of near-copies; training/README.md says what was measured."""
HASH_PX, FREQUENCIES = 32, 8
FINE_PX, COARSE_PX = 96, 48
COARSE_SLACK = 0.1
"""A pair that correlates this much less at the coarse size is not looked at more closely."""
KEPT_RATIO = 0.7
"""Middle part of one picture that is looked for in the other."""
CROPS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Shares of a picture's side to which its copy may have been cropped."""
FLAT = 2.0
"""A picture whose grey levels spread less than this shows nothing that could be compared."""

Grey = NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What is kept of a picture to find its copies.

    Attributes:
        hashes: (8,) uint64, one an orientation, in the order of `turned`.
        fine: (96, 96) uint8 grey.
        coarse: (48, 48) uint8 grey.
    """

    hashes: NDArray[np.uint64]
    fine: Grey
    coarse: Grey

    @property
    def name(self) -> str:
        """The least of the eight hashes: the same for every orientation of a picture."""
        return f"{int(self.hashes.min()):016x}"

    @property
    def is_flat(self) -> bool:
        """Nothing in it to compare."""
        return float(self.fine.std()) < FLAT


def fingerprint(image: ImageRGB) -> Fingerprint:
    """Fingerprint of an (H, W, 3) uint8 RGB picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    tiny = cv2.resize(grey, (HASH_PX, HASH_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.asarray(cv2.dct(tiny)[:FREQUENCIES, :FREQUENCIES], np.float32)
    hashes = np.array([_bits(block) for block in eight_spectra(low)], np.uint64)
    return Fingerprint(hashes, _small(grey, FINE_PX), _small(grey, COARSE_PX))


def _small(grey: NDArray[np.generic], side_px: int) -> Grey:
    return np.asarray(
        cv2.resize(np.asarray(grey, np.uint8), (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8
    )


def eight_spectra(low: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The cosine spectrum of each orientation: a mirror turns the signs of every other row or column."""
    signs = np.where(np.arange(len(low)) % 2, -1, 1).astype(np.float32)
    for block in (low, low.T):
        for rows in (np.ones_like(signs), signs):
            for columns in (np.ones_like(signs), signs):
                yield block * rows[:, None] * columns[None, :]


def turned(grey: Grey, orientation: int) -> Grey:
    """The picture in one of its eight orientations, 0 to 7."""
    image = grey.T if orientation & 4 else grey
    image = image[::-1] if orientation & 2 else image
    return np.ascontiguousarray(image[:, ::-1] if orientation & 1 else image)


def _bits(block: NDArray[np.float32]) -> np.uint64:
    values = block.ravel()[1:]  # The first is the brightness.
    bits = np.append(values > np.median(values), False).astype(np.uint8)
    return np.uint64(np.packbits(bits).view(">u8")[0])


def best_orientation(a: Fingerprint, b: Fingerprint) -> tuple[int, int]:
    """Bits in which the hashes differ in the best orientation of `b`, and that orientation."""
    bits = np.bitwise_count(a.hashes[0] ^ b.hashes)
    best = int(bits.argmin())
    return int(bits[best]), best


def candidates(prints: Sequence[Fingerprint], max_bits: int = MAX_BITS) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, whose hashes differ in at most `max_bits` bits in the best orientation."""
    if not prints:
        return
    table = np.stack([p.hashes for p in prints])
    for i in range(len(prints) - 1):
        bits = np.bitwise_count(table[i + 1 :] ^ table[i, 0]).min(axis=1)
        for j in np.nonzero(bits <= max_bits)[0].tolist():
            yield i, i + 1 + j


def likeness(a: Fingerprint, b: Fingerprint, *, enough: float = MIN_LIKENESS) -> float:
    """Correlation of two pictures, -1..1, in the best orientation, over shifts and crops.

    Pairs far below `enough` are only compared coarsely.
    """
    if a.is_flat or b.is_flat:
        return 1.0 if np.array_equal(a.fine, b.fine) else 0.0
    _, best = best_orientation(a, b)
    coarse = _correlation(a.coarse, turned(b.coarse, best))
    if coarse < enough - COARSE_SLACK:
        return coarse
    return _correlation(a.fine, turned(b.fine, best))


def _correlation(a: Grey, b: Grey) -> float:
    return max(_found_in(a, b), _found_in(b, a))


def _found_in(part: Grey, whole: Grey) -> float:
    """How well the middle of `part`, a crop of `whole`, is found in it."""
    side = len(part)
    margin = round(side * (1 - KEPT_RATIO) / 2)
    middle = part[margin : side - margin, margin : side - margin]
    if float(middle.std()) < FLAT:
        return -1.0
    best = -1.0
    for crop in CROPS:
        width = round(len(middle) * crop)
        template = cv2.resize(middle, (width, width), interpolation=cv2.INTER_AREA)
        best = max(best, float(cv2.matchTemplate(whole, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


def near_copies(
    prints: Sequence[Fingerprint],
    *,
    max_bits: int = MAX_BITS,
    min_likeness: float = MIN_LIKENESS,
    progress: Progress | None = None,
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, likeness) of near-copies, i < j."""
    wanted = list(candidates(prints, max_bits))
    found = []
    for number, (i, j) in enumerate(wanted, 1):
        alike = likeness(prints[i], prints[j], enough=min_likeness)
        if alike >= min_likeness:
            found.append((i, j, alike))
        if progress is not None:
            progress(number, len(wanted))
    return found


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items the least item that it is connected with (union-find)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(item) for item in range(count)]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Pairs of pictures that two groupings put together.

    Attributes:
        both, only_found, only_given: number of pairs.
    """

    both: int
    only_found: int
    only_given: int

    @property
    def precision(self) -> float | None:
        """Share of the found pairs that are given too; None without any."""
        found = self.both + self.only_found
        return self.both / found if found else None

    @property
    def recall(self) -> float | None:
        """Share of the given pairs that are found; None without any."""
        given = self.both + self.only_given
        return self.both / given if given else None


def agreement(found: Sequence[str], given: Sequence[str]) -> Agreement:
    """Compare two groupings of the same pictures, pair by pair."""
    a, b = _pairs(found), _pairs(given)
    return Agreement(len(a & b), len(a - b), len(b - a))


def _pairs(groups: Sequence[str]) -> set[tuple[int, int]]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return {(i, j) for own in members.values() for n, i in enumerate(own) for j in own[n + 1 :]}
