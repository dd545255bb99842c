"""Where data sets and caches are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from training.errors import DataError

DATA_VARIABLE = "AHS_DATA_DIR"
_HOW = "`ahs-train data fetch NAME` downloads a public set"


def cache_folder() -> Path:
    """The user's cache of this project: `$XDG_CACHE_HOME/ahs`, or where the platform keeps caches."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ahs"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ahs" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ahs"
    return Path.home() / ".cache" / "ahs"


def fetched_root() -> Path:
    """The folder that `data fetch` puts data sets into."""
    return cache_folder() / "data"


def roots() -> list[Path]:
    """Folders that may hold data sets, the first wins: `AHS_DATA_DIR`, then what was fetched.

    Raises:
        DataError: `AHS_DATA_DIR` is set and no folder.
    """
    found = []
    if value := os.environ.get(DATA_VARIABLE, ""):
        if not Path(value).is_dir():
            raise DataError(
                f"{DATA_VARIABLE}={value} is no folder; set it to the folder that holds det_txl/ and wbc_pbc/"
            )
        found.append(Path(value))
    if fetched_root().is_dir():
        found.append(fetched_root())
    return found


def data_root() -> Path:
    """The folder that holds the data sets: `AHS_DATA_DIR`, or else what was fetched.

    Raises:
        DataError: there is neither.
    """
    found = roots()
    if not found:
        raise DataError(
            f"{DATA_VARIABLE} is not set, and nothing was fetched. Set it to the folder that holds det_txl/ and "
            f"wbc_pbc/, or fetch them: {_HOW} (sources and licences: training/README.md). Without data, "
            "training/configs/smoke.yaml trains on generated fields alone."
        )
    return found[0]


def set_root(name: str) -> Path:
    """The folder of a set by its name: in the first folder that holds it, else where it would have to be.

    Raises:
        DataError: there is no folder for data at all.
    """
    return next((root / name for root in roots() if (root / name).is_dir()), data_root() / name)


def find_set(name: str) -> Path:
    """A data set by path, or by its name in the first folder that holds it.

    Raises:
        DataError: neither.
    """
    path = Path(name)
    if path.exists():
        return path
    if path.name == name:
        for root in roots():
            if (root / name).exists():
                return root / name
    looked = ", ".join(str(root) for root in roots()) or f"no folder: {DATA_VARIABLE} is not set"
    raise DataError(f"{name}: there is no such folder and no such set (looked in {looked}); {_HOW}")
