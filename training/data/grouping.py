"""Near-duplicate groups of a data set's files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from models.runtime.imaging import decode_image
from training.data.check import Progress, no_progress
from training.data.formats.annotated import AnnotatedSet
from training.data.near_copies import MAX_BITS, MIN_LIKENESS, connected, fingerprint, near_copies

GROUP_DIGITS = 12


def found_groups(
    data: AnnotatedSet,
    *,
    max_bits: int = MAX_BITS,
    min_likeness: float = MIN_LIKENESS,
    progress: Progress = no_progress,
) -> list[str]:
    """The near-duplicate group of each picture.

    A group is named after the least content hash of its pictures: neither names nor order of the files matter.

    Raises:
        ImageError: a picture that cannot be decoded; `data check` lists them all.
    """
    prints, digests = [], []
    for number, picture in enumerate(data.pictures, 1):
        content = picture.path.read_bytes()
        prints.append(fingerprint(decode_image(content)))
        digests.append(hashlib.sha256(content).hexdigest())
        progress(number, len(data.pictures))
    pairs = [(i, j) for i, j, _ in near_copies(prints, max_bits=max_bits, min_likeness=min_likeness, progress=progress)]
    return named(connected(len(prints), [*pairs, *_same_files(digests)]), digests)


def _same_files(digests: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [(first.setdefault(digest, index), index) for index, digest in enumerate(digests)]


def named(roots: Sequence[int], digests: Sequence[str]) -> list[str]:
    """A name for each connected set."""
    least: dict[int, str] = {}
    for root, digest in zip(roots, digests, strict=True):
        least[root] = min(least.get(root, digest), digest)
    return [least[root][:GROUP_DIGITS] for root in roots]


def given_groups(data: AnnotatedSet) -> list[str]:
    """The groups that the set itself names; a picture without one is alone."""
    return [picture.group or f"#{number}" for number, picture in enumerate(data.pictures)]
