"""What a run learned from, as hashes: one for each set, over its list and the pictures that the list names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def set_hash(listing: Path, pictures: Iterable[Path]) -> str:
    """SHA-256 over a set's list and its pictures, in the order of their paths.

    Args:
        listing: the file that names and labels the pictures.
        pictures: those of them that are used.
    """
    digest = hashlib.sha256(listing.read_bytes())
    for path in sorted(pictures):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
