"""A store of the agent for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.store.store_sqlite import Store
from tests.unit.edge.store_builders import AMPLE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path, AMPLE, first_boot=1)) as store:
        yield store
