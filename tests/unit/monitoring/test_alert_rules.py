"""Alerts speak of metrics that exist, each has its runbook section, and they fire on what they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import cloud.metrics
import edge_agent.metrics

ROOT = Path(__file__).resolve().parents[3]
RULES = sorted((ROOT / "iac" / "prometheus" / "rules").glob("*.yaml"))
SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")


def alerts() -> list[dict[str, Any]]:
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def declared() -> set[str]:
    edge = edge_agent.metrics.Metrics()
    served = cloud.metrics.Metrics()
    served.fleet.figures = cloud.metrics.FleetFigures()
    return {family.name for registry in (edge.registry, served.registry) for family in registry.collect()}


def test_every_alert_speaks_of_metrics_that_the_programs_declare() -> None:
    known = declared()
    assert len(alerts()) > 20
    for rule in alerts():
        for name in re.findall(r"\bahs_[a-z_]+", rule["expr"]):
            assert any(name.removesuffix(suffix) in known for suffix in SUFFIXES), f"{rule['alert']}: {name}"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_section_in_its_runbook(rule: dict[str, Any]) -> None:
    page, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()


def test_no_runbook_section_is_about_an_alert_that_is_gone() -> None:
    names = {rule["alert"] for rule in alerts()}
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        assert set(re.findall(r"^## (\w+)$", page.read_text(), flags=re.MULTILINE)) <= names


@pytest.mark.promtool
def test_the_rules_fire_on_what_they_are_for_and_on_nothing_else(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool
    checked = subprocess.run(
        [promtool, "check", "rules", *map(str, RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    cases = (Path(__file__).with_name("alerts_test.yaml")).read_text()
    target = tmp_path / "alerts_test.yaml"
    target.write_text(cases.replace("[RULES]", str([str(path) for path in RULES])))
    done = subprocess.run([promtool, "test", "rules", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
