"""The images, built and started for real. Where no registry can be asked, the base is made here.

The base is a plain Debian with python3, by debootstrap, with the machine's own certificates; AHS_BASE_IMAGE names
another one. It takes minutes, so `make images-check` alone runs it. Images and containers live in a store of their own,
which is removed afterwards.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from fleet.local.processes import free_port
from models.synthetic import generate_field

pytestmark = [pytest.mark.podman, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = "localhost/ahs-test-base:1"
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")

CONTAINERS = """\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Workshop:
    """buildah and podman on a store of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(CONTAINERS)
        self._environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }
        self._store("overlay")
        if self.said("podman", "info", check=False).returncode != 0:
            self._store("vfs")

    def said(self, *command: str, check: bool = True, timeout_s: float = 1200, **variables: str) -> Any:
        """Runs a command; what it has said."""
        done = subprocess.run(
            command,
            env=self._environment | variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def _store(self, driver: str) -> None:
        places = f'runroot = "{self.folder}/run"\ngraphroot = "{self.folder}/graph"\n'
        (self.folder / "storage.conf").write_text(f'[storage]\ndriver = "{driver}"\n{places}')

    def make_base(self) -> str:
        """A base image: the one that is named, or a Debian made here."""
        if given := os.environ.get("AHS_BASE_IMAGE"):
            return given
        root = self.folder / "root"
        suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
        packages = "--include=python3,python3-venv,ca-certificates"
        self.said("debootstrap", "--variant=minbase", packages, suite, str(root))
        if CERTIFICATES.exists():
            shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        container = self.said("buildah", "from", "scratch").stdout.strip()
        self.said("buildah", "add", "--quiet", container, str(root), "/")
        self.said("buildah", "commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root, ignore_errors=True)
        return BASE

    def pip_configuration(self) -> Path:
        """How pip reaches its index on this machine, without what lies in folders of this machine."""
        carried = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout")
        listed = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
        lines = ["[global]"]
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            key, value = name.rpartition(".")[2], value.strip("'\"")
            if key in carried and "file:" not in value:
                lines.append(f"{key} = {value}")
        if CERTIFICATES.exists():
            lines.append(f"cert = {CERTIFICATES}")
        file = self.folder / "pip.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")
        return file

    def close(self) -> None:
        """Stops what runs and removes the store."""
        self.said("podman", "rm", "--all", "--force", "--time", "5", check=False)
        self.said("podman", "rmi", "--all", "--force", check=False)
        for place in ("graph/overlay", "graph/containers/overlay"):
            subprocess.run(["umount", str(self.folder / place)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    """Both images, built by the script behind `make images`."""
    made = Workshop(Path(tempfile.mkdtemp(prefix="ahs-images-")))
    try:
        base = made.make_base()
        pip = str(made.pip_configuration())
        arguments = "--isolation chroot"
        made.said("docker/build.sh", IMAGE_TOOL="buildah", BASE_IMAGE=base, PIP_CONF=pip, BUILD_ARGS=arguments)
        yield made
    finally:
        made.close()


def image(side: str) -> str:
    return f"localhost/ahs-{side}:{VERSION}"


def started(workshop: Workshop, side: str, port: int, *options: str, command: tuple[str, ...]) -> str:
    """A running container that has answered its own health check."""
    url = f"http://127.0.0.1:{port}/healthz"
    given = (*HARDENED, f"--env=AHS_HEALTH_URL={url}", *options, image(side), *command)
    container = str(workshop.said("podman", "run", "--detach", *given).stdout.strip())
    ends_s = time.monotonic() + 120
    while workshop.said("podman", "healthcheck", "run", container, check=False).returncode:
        log = workshop.said("podman", "logs", container, check=False)
        assert time.monotonic() < ends_s, log.stdout[-3000:] + log.stderr[-3000:]
        time.sleep(1)
    return container


def ended(workshop: Workshop, container: str) -> int:
    """Stops it as an orchestrator would; its exit code."""
    workshop.said("podman", "stop", "--time", "30", container)
    return int(workshop.said("podman", "inspect", "--format", "{{.State.ExitCode}}", container).stdout)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_an_image_tells_its_version_and_runs_as_nobody_special(workshop: Workshop, side: str) -> None:
    assert workshop.said("podman", "run", "--rm", *HARDENED, image(side), "version").stdout.strip() == VERSION
    described = json.loads(workshop.said("podman", "image", "inspect", image(side)).stdout)[0]
    assert described["User"] == "10001:10001"
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert described["Labels"]["org.opencontainers.image.version"] == VERSION


def test_an_image_keeps_neither_the_pip_configuration_nor_the_sources_nor_heavy_libraries(workshop: Workshop) -> None:
    program = (
        "import importlib.util as u, pathlib as p; "
        "names = 'torch mlflow onnx scipy pytest iotcore sqlalchemy psycopg'.split(); "
        "print([n for n in names if u.find_spec(n)], [f for f in ('/etc/pip.conf', '/src') if p.Path(f).exists()])"
    )
    for side, expected in (("edge", "[] []"), ("cloud", "['sqlalchemy', 'psycopg'] []")):
        done = workshop.said("podman", "run", "--rm", "--entrypoint", "python3", image(side), "-c", program)
        assert done.stdout.strip() == expected


def test_the_edge_image_reads_a_picture(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    folder.chmod(0o777)
    field = generate_field(7).image
    assert cv2.imwrite(str(folder / "field.png"), field[..., ::-1].copy())
    for parent in folder.parents[:2]:
        parent.chmod(0o755)
    mounted = f"--volume={folder}:/pictures"
    command = ("infer", "--images", "/pictures/field.png", "--out", "/pictures/out.json")
    workshop.said("podman", "run", "--rm", *HARDENED, mounted, image("edge"), *command)
    document = json.loads((folder / "out.json").read_text())
    assert len(document["images"][0]["detections"]) > 5


def test_the_edge_image_runs_is_healthy_and_ends_in_order(workshop: Workshop) -> None:
    port = free_port()
    command = ("run", "--source", "sim:seed=7", "--set", f"console.port={port}")
    container = started(workshop, "edge", port, command=command)
    assert ended(workshop, container) == 0


def test_the_cloud_image_serves_and_ends_in_order(workshop: Workshop) -> None:
    port = free_port()
    listens = f"--env=AHS_CLOUD__HTTP__PORT={port}"
    container = started(workshop, "cloud", port, listens, command=("serve",))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok", "parts": {}, "version": VERSION}
    assert ended(workshop, container) == 0


def test_setup_in_the_cloud_image_makes_the_secrets_with_the_few_rights_it_has(workshop: Workshop) -> None:
    secrets = workshop.folder / "secrets"
    secrets.mkdir()
    rights = ("--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE", "--cap-add=FOWNER", "--user=0:0", "--network=none")
    for command in ("init", "init", "ca"):
        done = workshop.said(
            *("podman", "run", "--rm", *HARDENED, *rights, f"--volume={secrets}:/secrets"),
            *("--entrypoint", "python3", image("cloud"), "/opt/ahs/one_box.py", command),
        )
    assert "BEGIN CERTIFICATE" in done.stdout
    assert (secrets / "cloud/server.key").stat().st_uid == 10001
    assert (secrets / "broker/passwords").stat().st_uid == 1883
