"""The whole box without containers: the settings, secrets and commands of docker-compose.yml and docs/one-box.md.

Each service's own program is started with its variables and arguments of the compose file; only the places of files
and ports are this test's. So what is proven is that the settings fit each other, over TLS and with real accounts.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fleet.local.processes import Part, free_port, port_answers

pytestmark = [pytest.mark.mosquitto, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[3]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
FIELDS = 4
ONLINE_KEY = "AHS_CLOUD__RELEASES__ONLINE_KEY_FILE"


class Database:
    """PostgreSQL as its image sets it up: the password out of its file, and nobody without one."""

    def __init__(self, password: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self._bin = found[-1] if found else Path(shutil.which("initdb") or "initdb").parent
        self._folder = Path(tempfile.mkdtemp(prefix="ahs-box-"))
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        secret = self._folder / "password"
        secret.write_text(password)
        if self._as:
            shutil.chown(self._folder, "postgres")
            shutil.chown(secret, "postgres")
        self.port = free_port()
        arguments = SERVICES["database"]["environment"]["POSTGRES_INITDB_ARGS"].split()
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "ahs", "--pwfile", str(secret), "-E", "UTF8", "--no-sync", *arguments)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(self._folder / "log"), "start")
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ahs", "ahs", PGPASSWORD=password)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str, **variables: str) -> None:
        command = [*self._as, str(self._bin / program), *arguments]
        environment = os.environ | variables
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd="/", env=environment)


class Running:
    """The started box."""

    def __init__(self, box: Any, database: Database) -> None:
        self.box = box
        self.web_port, self.worker_port = free_port(), free_port()
        self.url = f"https://localhost:{self.web_port}"
        self.trusting = {"SSL_CERT_FILE": str(box.ca)}
        self._here = {
            "broker": "localhost",
            "database:5432": f"127.0.0.1:{database.port}",
            "8884": str(box.inside_port),
            "8443": str(self.web_port),
            ":8443": f":{self.web_port}",
            "9102": str(self.worker_port),
            ":9102": f":{self.worker_port}",
            "0.0.0.0": "127.0.0.1",
            "/var/lib/ahs-cloud": str(box.folder / "cloud-data"),
        }

    def variables(self, service: str) -> dict[str, str]:
        """A service's environment, with the places of this test."""
        found = {}
        for name, value in SERVICES[service]["environment"].items():
            if value is None and name == ONLINE_KEY:
                value = "/run/ahs/cloud/online.key"  # what docs/one-box.md puts into .env
            text = self.box.rendered(str(value))
            for there, here in self._here.items():
                if text == there or not there.isalnum():  # a bare word or number counts only as the whole value
                    text = text.replace(there, here)
            found[name] = text
        return found

    def start(self, service: str) -> Part:
        """The service's own command."""
        log = self.box.folder / f"{service}.log"
        return Part.python(
            service, "cloud", *SERVICES[service]["command"], log=log, env=self.variables(service)
        ).start()

    def fleet(self, *arguments: str, token: str) -> str:
        """`ahs-fleet` as docs/one-box.md writes it; its standard output."""
        environment = os.environ | self.trusting | {"AHS_FLEET_CLOUD": self.url, "AHS_FLEET_TOKEN": token}
        return _said(["fleet", *arguments], environment)


def _said(module: list[str], environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def running(started_box: Any) -> Iterator[Running]:
    with ExitStack() as stack:
        database = Database(started_box.secret("database/password"))
        stack.callback(database.stop)
        (started_box.folder / "cloud-data").mkdir()
        started_box.start_broker()
        _said(["fleet", "keys", "init", "--out", str(started_box.folder / "keys")], dict(os.environ))
        online = (started_box.folder / "keys" / "online.key").read_text()
        assert started_box.setup("online-key", stdin=online).returncode == 0
        made = Running(started_box, database)
        web = made.start("cloud-web")
        stack.callback(web.stop)
        web.wait_until(lambda: port_answers(made.web_port), timeout_s=90)
        worker = made.start("cloud-worker")
        stack.callback(worker.stop)
        worker.wait_until(lambda: port_answers(made.worker_port), timeout_s=60)
        yield made


def healthy(running: Running, service: str) -> bool:
    """The service's own health check."""
    check = SERVICES[service]["healthcheck"]["test"][1:]
    environment = os.environ | running.variables(service)
    done = subprocess.run([sys.executable, *check[1:]], env=environment, capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def test_an_agent_at_the_bench_works_with_the_box_over_tls(running: Running, tmp_path: Path) -> None:
    assert healthy(running, "cloud-web")
    assert healthy(running, "cloud-worker")

    assert "online.key" in _said(["cloud", "check-config"], os.environ | running.variables("cloud-worker"))

    # docs/one-box.md: a token for a person, a device, its account at the broker, the broker told.
    operator = _said(
        ["cloud", "token", "create", "--role", "admin", "--site", "lab-a", "--name", "Ada"],
        os.environ | running.variables("cloud-web"),
    )
    token = running.fleet("devices", "create", "bench-1", "--site", "lab-a", token=operator)
    assert running.box.setup("account", "bench-1", stdin=token).returncode == 0
    os.kill(running.box.broker.pid, signal.SIGHUP)
    assert running.box.broker.exit_code() is None

    (tmp_path / "token").write_text(token)
    settings = {
        "device": {"id": "bench-1", "site": "lab-a"},
        "data_dir": str(tmp_path / "edge"),
        "source": "sim:seed=7",
        "mqtt": {
            "host": "localhost",
            "port": running.box.devices_port,
            "ca_file": str(running.box.ca),
            "token_file": str(tmp_path / "token"),
        },
        "cloud": {"url": running.url, "token_file": str(tmp_path / "token")},
        "console": {"enabled": False},
        "sampling": {"audit_ratio": 1.0},
    }
    (tmp_path / "edge.yaml").write_text(yaml.safe_dump(settings))
    with Part.python(
        *("edge", "edge_agent", "run", "--config", str(tmp_path / "edge.yaml"), "--exit-when-drained"),
        *("--stop-after-fields", str(FIELDS)),
        log=tmp_path / "edge.log",
        env=running.trusting,
    ) as edge:
        assert edge.wait(timeout_s=200) == 0, edge.log_tail(40)  # 0: all acknowledged, every picture answered

    assert "bench-1" in running.fleet("devices", "list", token=operator)
    assert running.fleet("opinions", "list", token=operator).count("bench-1") >= FIELDS


def test_the_console_is_https_only_and_its_cookie_stays_there(running: Running) -> None:
    token = _said(
        ["cloud", "token", "create", "--role", "viewer", "--site", "lab-a", "--name", "Grace"],
        os.environ | running.variables("cloud-web"),
    )
    trusting = ssl.create_default_context(cafile=running.trusting["SSL_CERT_FILE"])
    with httpx.Client(base_url=running.url, verify=trusting) as browser:
        answer = browser.post("/sign-in", data={"token": token}, headers={"origin": running.url})
        assert answer.status_code == 303, answer.text
        assert "secure" in answer.headers["set-cookie"].lower()
        assert browser.get("/devices").status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(running.url.replace("https", "http") + "/healthz")
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url + "/healthz")  # by the system's certificates it is nobody
