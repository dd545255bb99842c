"""`ahs-cloud` as an operator types it: clear words and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from cloud.app import create_app
from cloud.cli import app
from cloud.config import Settings
from fleet.local.processes import port_answers

TLS_FILES_ABSENT = {
    "AHS_CLOUD__HTTP__TLS_CERTIFICATE_FILE": "/absent.crt",
    "AHS_CLOUD__HTTP__TLS_KEY_FILE": "/absent.key",
}


@pytest.fixture
def ahs_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs the command line in this process; variables are given by keyword."""

    def run(*args: str, **variables: str) -> Result:
        monkeypatch.setenv("AHS_CLOUD__DATA_DIR", str(tmp_path / "data"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, list(args))

    yield run
    structlog.reset_defaults()  # the program's log went to a stream of this test


def test_a_token_is_printed_alone_and_its_issue_is_on_record(ahs_cloud: Callable[..., Result]) -> None:
    made = ahs_cloud("token", "create", "--role", "operator", "--site", "lab-a", "--name", "Ada")
    assert made.exit_code == 0, made.stderr
    assert made.stdout.startswith("ahs_")
    assert len(made.stdout.split()) == 1
    record = json.loads(ahs_cloud("audit", "show").stdout)
    assert (record["action"], record["site"], record["after"]["name"]) == ("token.issued", "lab-a", "Ada")


@pytest.mark.parametrize(
    ("args", "variables", "code", "words"),
    [
        (["token", "create", "--role", "boss", "--site", "lab-a", "--name", "x"], {}, 2, "no role 'boss'"),
        (["token", "create", "--role", "device", "--site", "lab-a", "--name", "x"], {}, 2, "POST /v1/devices"),
        (["token", "create", "--role", "viewer", "--site", "-", "--name", "x"], {}, 2, "the site '-'"),
        (["serve", "--config", "absent.yaml"], {}, 2, "no such configuration file"),
        (["serve"], {"AHS_CLOUD__OPINIONS__BUNDLE": "/absent/bundle"}, 2, "there is no bundle"),
        (["serve"], {"AHS_CLOUD__HTTP__PROT": "1"}, 2, "http.prot"),
        (["serve"], {"AHS_CLOUD__HTTP__TLS_KEY_FILE": "/absent.key"}, 2, "or neither"),
        (["serve"], TLS_FILES_ABSENT, 2, "http.tls_certificate_file /absent.crt"),
        (["worker"], {}, 2, "broker.host"),
        (["migrate"], {"AHS_CLOUD__DATABASE__URL": "postgresql://x@127.0.0.1:1/x"}, 1, "cannot be migrated"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    ahs_cloud: Callable[..., Result], args: list[str], variables: dict[str, str], code: int, words: str
) -> None:
    if "DATABASE__URL" in repr(variables):
        pytest.importorskip("psycopg", reason="needs the postgres extra")
    done = ahs_cloud(*args, **variables)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_before_anything_is_touched(ahs_cloud: Callable[..., Result], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = ahs_cloud("serve", AHS_CLOUD__HTTP__PORT=port)
    assert done.exit_code == 3
    assert port in done.stderr
    assert "http.port" in done.stderr
    assert not (tmp_path / "data").exists()


def test_sigterm_ends_the_server_in_order(tmp_path: Path, tools: Any) -> None:
    port = tools.free_port()
    environment = os.environ | {"AHS_CLOUD__DATA_DIR": str(tmp_path / "d"), "AHS_CLOUD__HTTP__PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "cloud", "all"], env=environment, stderr=subprocess.PIPE) as process:
        ends_s = time.monotonic() + 60
        while not port_answers(port) and time.monotonic() < ends_s:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b'"event": "stopped"' in said


def test_every_route_of_the_api_is_described_with_its_errors(tmp_path: Path) -> None:
    schema = create_app(Settings(data_dir=tmp_path)).openapi()
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            if path.startswith("/v1"):
                assert "401" in operation["responses"], (method, path)
                assert operation["security"], (method, path)
    post = schema["paths"]["/v1/second-opinions"]["post"]
    assert {"413", "422", "429", "503"} <= set(post["responses"])
    assert post["responses"]["200"]["content"]["application/json"]["example"]["state"] == "pending_review"
    assert "Problem" in schema["components"]["schemas"]
    assert "/sign-in" not in schema["paths"]
