"""What happens where the machine refuses: the images' tests are left out with its own words, and nothing hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.images.workshop import Refused, Workshop


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    folder = tmp_path / "workshop"
    folder.mkdir()
    return Workshop(folder, pause_s=0)


def test_a_machine_that_starts_no_container_is_told_with_its_own_words(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("buildah", "runc", "crun"):
        program(tmp_path, name, "exit 0")
    program(tmp_path, "podman", "echo 'mounting proc: operation not permitted' >&2; exit 126")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Refused, match=r"starts no container.*podman run: mounting proc: operation not permitted"):
        workshop.settle()


def test_what_broke_once_is_fetched_again(workshop: Workshop, tmp_path: Path) -> None:
    script = f"echo once >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) = 2"
    workshop.fetched("a page", lambda: workshop.said("sh", "-c", script))
    assert (tmp_path / "tries").read_text() == "once\nonce\n"


def test_what_breaks_twice_is_told_as_refused(workshop: Workshop) -> None:
    with pytest.raises(Refused, match="a page: no route to host"):
        workshop.fetched("a page", lambda: workshop.said("sh", "-c", "echo no route to host >&2; exit 1"))
