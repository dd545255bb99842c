"""`ahs-cloud` as an operator types it: clear words and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cloud.app import create_app
from cloud.config import Settings


def ahs_cloud(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AHS_CLOUD")}
    environment |= {"AHS_CLOUD__DATA_DIR": str(folder / "data"), **variables}
    command = [sys.executable, "-m", "cloud", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_a_token_is_printed_alone_and_its_issue_is_on_record(tmp_path: Path) -> None:
    made = ahs_cloud(tmp_path, "token", "create", "--role", "operator", "--site", "lab-a", "--name", "Ada")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("ahs_")
    assert len(made.stdout.split()) == 1
    record = json.loads(ahs_cloud(tmp_path, "audit", "show").stdout)
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
        (["worker"], {}, 2, "broker.host"),
        (["migrate"], {"AHS_CLOUD__DATABASE__URL": "postgresql://x@127.0.0.1:1/x"}, 1, "cannot be migrated"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    tmp_path: Path, args: list[str], variables: dict[str, str], code: int, words: str
) -> None:
    if "DATABASE__URL" in repr(variables):
        pytest.importorskip("psycopg", reason="needs the postgres extra")
    done = ahs_cloud(tmp_path, *args, **variables)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = ahs_cloud(tmp_path, "serve", AHS_CLOUD__HTTP__PORT=port)
    assert done.returncode == 3
    assert port in done.stderr
    assert "http.port" in done.stderr
    assert not (tmp_path / "data").exists()


def test_sigterm_ends_the_server_in_order(tmp_path: Path, tools: Any) -> None:
    port = tools.free_port()
    environment = os.environ | {"AHS_CLOUD__DATA_DIR": str(tmp_path / "d"), "AHS_CLOUD__HTTP__PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "cloud", "all"], env=environment, stderr=subprocess.PIPE) as process:
        ends_s = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < ends_s:
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
