"""A tiny real bundle for the runtime's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle import Bundle


@pytest.fixture(scope="session")
def blob_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Reads coloured discs; without golden inputs."""
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import write_blob_bundle

    path: Path = tmp_path_factory.mktemp("bundle") / "blobs"
    return write_blob_bundle(path)
