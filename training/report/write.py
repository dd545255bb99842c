"""Writes the page of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from training.data.places import DATA_VARIABLE, data_root
from training.errors import DataError
from training.report.curves import read_run
from training.report.page import report_page


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: size of the page, and in words whether it shows the worst errors."""

    size_bytes: int
    pictures: str


def write_report(document: Mapping[str, Any], bundle: Bundle, runs: Sequence[Path], target: Path) -> Written:
    """Write the page in one piece. Pictures are taken from `AHS_DATA_DIR` where it is set.

    Raises:
        DataError: the document is of another bundle, a run has no figures, or the page cannot be written.
    """
    pictures = data_root() if os.environ.get(DATA_VARIABLE) else None
    page = report_page(document, bundle, [read_run(folder) for folder in runs], pictures).encode()
    write_page(page, target)
    words = "with the worst errors as pictures" if pictures else f"without pictures: {DATA_VARIABLE} is not set"
    return Written(len(page), words)


def write_page(page: bytes, target: Path) -> None:
    """Write a page in one piece.

    Raises:
        DataError: it cannot be written there.
    """
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(page)
        scratch.replace(target)
    except OSError as exc:
        raise DataError(f"{target} cannot be written: {exc.strerror}") from exc
