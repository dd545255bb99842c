"""Programs that tests need and that a machine may lack."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

NETWORK_HELPERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman")


def on_path(name: str) -> str | None:
    """A program beside the interpreter, where the test extra puts some, or on PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def networks_have_names() -> bool:
    """Whether podman can give containers a network in which they find each other by name."""
    return all(any(Path(folder, name).exists() for folder in NETWORK_HELPERS) for name in ("netavark", "aardvark-dns"))
