"""docker-compose.yml as it is, started as a whole by podman-compose, and an agent in its image that works with it.

podman-compose reads the file as `docker compose` would. Two things the engine would do are done here, because this
podman leaves them to systemd: health checks are asked, and a service is started when what it waits for is there, in the
order of the file's own `depends_on`. PostgreSQL, Mosquitto and Prometheus come out of Debian (stand_ins/Dockerfile).
"""

from __future__ import annotations

import json
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.local.processes import free_port
from tests.integration.images.workshop import (
    AS_DOCKER,
    HARDENED,
    ROOT,
    STAND_INS,
    Refused,
    Workshop,
    image,
)
from tests.programs import on_path

pytestmark = [pytest.mark.podman, pytest.mark.compose, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(2400)]

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
LASTING = sorted(set(SERVICES) - {"setup"})
FIELDS = 3
AGENT_UID = 10001


class Composed:
    """The box of docker-compose.yml, with images and ports of this test."""

    def __init__(self, workshop: Workshop, program: str) -> None:
        self.workshop = workshop
        self.project = f"ahs-test-{os.getpid()}"
        file = str(ROOT / "docker-compose.yml")
        self._command = (program, f"--podman-run-args={AS_DOCKER}", "--project-name", self.project, "--file", file)
        self.cloud_port, self.broker_port, self.prometheus_port = free_port(), free_port(), free_port()
        self._variables = {
            "AHS_CLOUD_IMAGE": image("cloud"),
            "AHS_DATABASE_IMAGE": STAND_INS["database"],
            "AHS_BROKER_IMAGE": STAND_INS["broker"],
            "AHS_PROMETHEUS_IMAGE": STAND_INS["prometheus"],
            "AHS_CLOUD_PORT": str(self.cloud_port),
            "AHS_BROKER_PORT": str(self.broker_port),
            "AHS_PROMETHEUS_PORT": str(self.prometheus_port),
        }

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What `podman-compose ...` writes to its standard output."""
        return self.workshop.said(
            *self._command, *arguments, stdin=stdin, check=check, timeout_s=240, variables=self._variables
        ).stdout

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{self.project}_{service}_1"

    def start(self) -> None:
        """Each service when what it depends on has ended well, or is healthy."""
        waits_for = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
        for name in TopologicalSorter(waits_for).static_order():
            self.compose("up", "--detach", "--no-build", "--no-deps", name)
            if SERVICES[name]["restart"] == "no":
                code = self.workshop.said("podman", "wait", self.container(name)).stdout.strip()
                assert code == "0", self.workshop.said("podman", "logs", self.container(name)).stderr
            else:
                self.workshop.wait_until_healthy(self.container(name))

    def stop(self) -> None:
        """Ends it, its volumes and networks too."""
        self.compose("down", "--volumes", "--timeout", "1", check=False)

    def inside(self, service: str, *command: str, variables: tuple[str, ...] = ()) -> str:
        """`docker compose exec -T` of docs/one-box.md; what the command says."""
        given = [text for variable in variables for text in ("-e", variable)]
        return self.compose("exec", "-T", *given, service, *command).strip()

    def setup(self, *command: str, stdin: str | None = None) -> str:
        """`docker compose run --rm -T setup` of docs/one-box.md."""
        return self.compose("run", "--rm", "-T", "--no-deps", "setup", *command, stdin=stdin)

    def asks_prometheus(self, expression: str) -> dict[str, float]:
        """Job -> value of an expression."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?{query}", timeout=10) as got:
            results = json.load(got)["data"]["result"]
        return {result["metric"]["job"]: float(result["value"][1]) for result in results}


@pytest.fixture(scope="module")
def box(workshop: Workshop) -> Iterator[Composed]:
    program = on_path("podman-compose")
    assert program is not None
    try:
        workshop.make_stand_ins()
    except Refused as exc:
        pytest.skip(str(exc))
    made = Composed(workshop, program)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_an_agent_in_its_image_works_with_the_composed_box_over_tls(box: Composed, tmp_path: Path) -> None:
    operator = box.inside(
        "cloud-web", "ahs-cloud", "token", "create", "--role", "admin", "--site", "lab-a", "--name", "Ada"
    )
    as_operator = (f"AHS_FLEET_TOKEN={operator}",)
    token = box.inside(
        "cloud-web", "ahs-fleet", "devices", "create", "bench-1", "--site", "lab-a", variables=as_operator
    )
    box.setup("account", "bench-1", stdin=token)
    box.compose("kill", "--signal", "HUP", "broker")

    etc = tmp_path / "etc"
    etc.mkdir()
    settings = {
        "device": {"id": "bench-1", "site": "lab-a"},
        "source": "sim:seed=7",
        "mqtt": {
            "host": "localhost",
            "port": box.broker_port,
            "ca_file": "/etc/ahs/ahs-ca.crt",
            "token_file": "/etc/ahs/token",
        },
        "cloud": {"url": f"https://localhost:{box.cloud_port}", "token_file": "/etc/ahs/token"},
        "console": {"enabled": False},
        "sampling": {"audit_ratio": 1.0},
    }
    for name, text in (("token", token), ("ahs-ca.crt", box.setup("ca")), ("edge.yaml", yaml.safe_dump(settings))):
        (etc / name).write_text(text)
        (etc / name).chmod(0o400)
        os.chown(etc / name, AGENT_UID, AGENT_UID)
    ran = box.workshop.said(
        *("podman", "run", "--rm", "--network=host", *HARDENED, f"--volume={etc}:/etc/ahs:ro"),
        *("--env=SSL_CERT_FILE=/etc/ahs/ahs-ca.crt", image("edge"), "run", "--config", "/etc/ahs/edge.yaml"),
        *("--exit-when-drained", "--stop-after-fields", str(FIELDS)),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]  # all acknowledged over MQTT, every picture answered over https
    opinions = box.inside("cloud-web", "ahs-fleet", "opinions", "list", variables=as_operator)
    assert opinions.count("bench-1") >= FIELDS


def test_the_broker_of_the_composed_box_was_asked_for_its_health_and_cut_nobody(box: Composed) -> None:
    log = box.workshop.said("podman", "logs", box.container("broker"))
    assert "_probe" in log.stdout + log.stderr
    for refused in ("not authorised", "OpenSSL Error", "Protocol error"):
        assert refused not in log.stdout + log.stderr


def test_prometheus_of_the_composed_box_reaches_web_and_worker_and_has_our_rules(box: Composed) -> None:
    ends_s = time.monotonic() + 180
    while (up := box.asks_prometheus("up")) != {"cloud-web": 1.0, "cloud-worker": 1.0, "prometheus": 1.0}:
        assert time.monotonic() < ends_s, up
        time.sleep(2)
    with urllib.request.urlopen(f"http://127.0.0.1:{box.prometheus_port}/api/v1/rules", timeout=10) as answer:
        files = {Path(group["file"]).name for group in json.load(answer)["data"]["groups"]}
    assert files == {file.name for file in (ROOT / "iac" / "prometheus" / "rules").glob("*.yaml")}


@pytest.mark.parametrize("service", LASTING)
def test_a_service_of_the_composed_box_runs_with_the_few_rights_of_the_file(box: Composed, service: str) -> None:
    found = json.loads(box.workshop.said("podman", "inspect", box.container(service)).stdout)[0]
    assert found["Config"]["User"] == SERVICES[service]["user"]
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["EffectiveCaps"] in (None, [])
    assert found["State"]["Running"] is True
    assert found["RestartCount"] == 0


def test_only_who_is_in_its_network_reaches_the_database(box: Composed) -> None:
    reaches = ("python3", "-c", "import socket, sys; socket.create_connection(('database', 5432), timeout=5)")
    box.inside("cloud-web", *reaches)
    asks = ("pg_isready", "--host", "database", "--timeout", "5")
    for service, expected in (("broker", 2), ("prometheus", 2)):
        done = box.workshop.said("podman", "exec", box.container(service), *asks, check=False)
        assert done.returncode == expected, done.stdout + done.stderr
