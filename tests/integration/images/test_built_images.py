"""The images, built and started for real. Where no registry can be asked, the base is made here (workshop.py).

They run wherever podman, buildah and a base are, as root; `make images-check` runs them alone and lets nothing be left
out. Images and containers live in a store of their own, which is removed afterwards.
"""

from __future__ import annotations

import json
import urllib.request

import cv2
import pytest

from fleet.local.processes import free_port
from models.synthetic import generate_field
from tests.integration.images.workshop import HARDENED, VERSION, Workshop, image

pytestmark = [pytest.mark.podman, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(2400)]


def started(workshop: Workshop, side: str, port: int, *options: str, command: tuple[str, ...]) -> str:
    """A running container that has answered its own health check."""
    url = f"http://127.0.0.1:{port}/healthz"
    given = (*HARDENED, f"--env=AHS_HEALTH_URL={url}", *options, image(side), *command)
    container = str(workshop.said("podman", "run", "--detach", *given).stdout.strip())
    workshop.wait_until_healthy(container)
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
