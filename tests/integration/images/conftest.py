"""One box without containers, with paths and ports of a test; and the images, built once for all that start them."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.local.processes import Part, free_port, port_answers
from tests.integration.images.workshop import Refused, Workshop

ROOT = Path(__file__).resolve().parents[3]
DEVICES_PORT, INSIDE_PORT = "8883", "8884"
SECRETS_OF_THE_SERVICES = "/run/ahs/"


def compose() -> dict[str, Any]:
    """docker-compose.yml, its anchors resolved."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def settled(text: str) -> str:
    """`${NAME:-value}` as it is where nobody has set NAME."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


class OneBox:
    """The secrets of `setup` below a folder, and a Mosquitto with the box's own configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.ca = self.secrets / "public" / "ca.crt"
        self.devices_port, self.inside_port = free_port(), free_port()
        self._broker: Part | None = None

    def setup(self, *command: str, stdin: str = "", names: str = "") -> subprocess.CompletedProcess[str]:
        """Runs docker/one_box.py as the service `setup` does."""
        environment = os.environ | {"AHS_SECRETS": str(self.secrets), "AHS_HOST_NAMES": names}
        return subprocess.run(
            [sys.executable, str(ROOT / "docker" / "one_box.py"), *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=60,
        )

    def rendered(self, text: str) -> str:
        """Paths and ports of a service's file or variable, as they are in this test."""
        text = text.replace(SECRETS_OF_THE_SERVICES, f"{self.secrets}/")
        text = text.replace("/mosquitto/config/acl", str(ROOT / "docker" / "mosquitto.acl"))
        text = text.replace("/mosquitto/data/", f"{self.folder}/broker-data/")
        text = text.replace(f"listener {DEVICES_PORT}", f"listener {self.devices_port} 127.0.0.1")
        text = text.replace(f"listener {INSIDE_PORT}", f"listener {self.inside_port} 127.0.0.1")
        return text.replace(f"-p {INSIDE_PORT}", f"-p {self.inside_port}")

    def secret(self, name: str) -> str:
        """One secret that `setup` has made."""
        return (self.secrets / name).read_text().strip()

    @property
    def broker(self) -> Part:
        """The running broker."""
        assert self._broker is not None
        return self._broker

    def start_broker(self) -> None:
        """Mosquitto with docker/mosquitto.conf."""
        (self.folder / "broker-data").mkdir(exist_ok=True)
        config = self.folder / "mosquitto.conf"
        text = self.rendered((ROOT / "docker" / "mosquitto.conf").read_text())
        config.write_text(f"{text}\nuser {getpass.getuser()}\n")  # in its image it runs as its own account already
        program = shutil.which("mosquitto") or "mosquitto"
        self._broker = Part("broker", [program, "-c", str(config)], log=self.folder / "broker.log").start()
        self._broker.wait_until(
            lambda: port_answers(self.devices_port) and port_answers(self.inside_port), timeout_s=20
        )

    def stop(self) -> None:
        """Stops the broker."""
        if self._broker is not None:
            self._broker.stop()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[OneBox]:
    """A box before its first start."""
    made = OneBox(tmp_path / "box")
    made.folder.mkdir()
    yield made
    made.stop()


@pytest.fixture
def started_box(box: OneBox) -> OneBox:
    """A box whose `setup` has run."""
    done = box.setup("init")
    assert done.returncode == 0, done.stderr
    return box


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Both images of ours, built. Left out, with the machine's own words, where it starts no container."""
    made = Workshop(Path(tempfile.mkdtemp(prefix="ahs-images-")))
    try:
        try:
            made.settle()
            made.make_base()
        except Refused as exc:
            pytest.skip(str(exc))
        made.build()
        yield made
    finally:
        made.close()
