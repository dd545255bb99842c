"""One door for each heavy library, pure decisions, a lean contract, no rings; each rule is seen to fail once."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.arch import import_rules as rules

ROOT = Path(__file__).resolve().parents[2]

Rule = Callable[[Path], list[str]]
RULES: list[Rule] = [
    rules.beside_the_door,
    rules.engines_outside_storage,
    rules.impure_decisions,
    rules.foreign_to_the_contract,
    rules.cycles,
]

PLANTED: list[tuple[Rule, dict[str, str], str]] = [
    (rules.beside_the_door, {"edge_agent/inference/engine.py": "import cv2"}, "imports cv2"),
    (rules.beside_the_door, {"edge_agent/daemon.py": "def f():\n    import sqlite3"}, "daemon.py:2 imports sqlite3"),
    (rules.beside_the_door, {"cloud/worker.py": "from paho.mqtt import client"}, "imports paho"),
    (rules.beside_the_door, {"cloud/app.py": "import onnxruntime as ort"}, "imports onnxruntime"),
    (rules.beside_the_door, {"training/loop.py": "import mlflow.pytorch"}, "imports mlflow"),
    (rules.beside_the_door, {"fleet/cli.py": "import importlib as i\ni.import_module('tuf.api')"}, "imports tuf"),
    (rules.beside_the_door, {"edge_agent/uplink/bus.py": "import socks"}, "imports socks"),
    (rules.beside_the_door, {"edge_agent/slides/result.py": "from fpdf import FPDF"}, "imports fpdf"),
    (rules.beside_the_door, {"cloud/devices/joining.py": "import cryptography.x509"}, "imports cryptography"),
    (
        rules.engines_outside_storage,
        {"cloud/devices/queries.py": "from sqlalchemy.ext.asyncio import create_async_engine"},
        "create_async_engine",
    ),
    (rules.engines_outside_storage, {"cloud/app.py": "import sqlalchemy as s\ns.create_engine('x')"}, "create_engine"),
    (rules.impure_decisions, {"edge_agent/triage/rules.py": "import time"}, "imports time"),
    (rules.impure_decisions, {"edge_agent/uplink/core.py": "from threading import Lock"}, "imports threading"),
    (rules.impure_decisions, {"edge_agent/capture/gate.py": "import structlog"}, "imports structlog"),
    (rules.impure_decisions, {"edge_agent/capture/freshness.py": "from pathlib import Path"}, "imports pathlib"),
    (rules.impure_decisions, {"edge_agent/capture/selection.py": "import socket"}, "imports socket"),
    (rules.impure_decisions, {"cloud/opinions/rules.py": "x = lambda: open('f')"}, "calls open()"),
    (
        rules.impure_decisions,
        {"fleet/contract/base.py": "from datetime import datetime\nx = datetime.now()"},
        "calls now()",
    ),
    (rules.foreign_to_the_contract, {"fleet/contract/codec.py": "import numpy"}, "imports numpy"),
    (rules.foreign_to_the_contract, {"fleet/contract/http.py": "from fleet.client import CloudClient"}, "fleet.client"),
    (
        rules.cycles,
        {
            "models/a.py": "import models.b",
            "models/b.py": "from models import c",
            "models/c.py": "from models.a import x",
        },
        "models.a <-> models.b <-> models.c",
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(("rule", "files", "word"), PLANTED)
def test_a_planted_violation_is_seen(rule: Rule, files: dict[str, str], word: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('"""Nothing yet."""\n')
    assert rule(tmp_path) == []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert word in " | ".join(rule(tmp_path))


def test_each_rule_is_planted_against() -> None:
    assert {rule.__name__ for rule, _, _ in PLANTED} == {rule.__name__ for rule in RULES}


def test_every_name_in_the_tables_still_stands_for_a_file() -> None:
    there = {name for name, _ in rules.sources(ROOT)}
    later = ("edge_agent/identity/*", "edge_agent/slides_print/*", "cloud/devices/authority_cryptography.py")
    patterns = {pattern for doors in rules.DOORS.values() for pattern in doors} | set(rules.PURE)
    assert [p for p in sorted(patterns) if p not in later and not any(fnmatch(name, p) for name in there)] == []
