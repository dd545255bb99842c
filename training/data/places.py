"""Where data sets and caches are."""

from __future__ import annotations

import os
from pathlib import Path

from training.errors import DataError

DATA_VARIABLE = "AHS_DATA_DIR"


def data_root() -> Path:
    """The folder that holds the data sets, from `AHS_DATA_DIR`.

    Raises:
        DataError: not set, or no folder.
    """
    value = os.environ.get(DATA_VARIABLE, "")
    if not value:
        raise DataError(
            f"{DATA_VARIABLE} is not set. Set it to the folder that holds det_txl/ and wbc_pbc/ "
            "(sources and licences: training/README.md). Without data, training/configs/smoke.yaml "
            "trains on generated fields alone."
        )
    root = Path(value)
    if not root.is_dir():
        raise DataError(f"{DATA_VARIABLE}={value} is no folder; set it to the folder that holds det_txl/ and wbc_pbc/")
    return root
