"""What holds for all tests: what a test needs, and a list at the end of what was not run and why."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.programs import networks_have_names, on_path

settings.register_profile("quiet-machine-or-not", deadline=None)
settings.load_profile("quiet-machine-or-not")

REQUIRE_ALL = os.environ.get("AHS_REQUIRE_ALL", "") == "1"


def _postgres_is_there() -> bool:
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def _chromium_is_there() -> bool:
    browser = any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return browser and importlib.util.find_spec("playwright") is not None


def _data_is_there() -> bool:
    folder = os.environ.get("AHS_DATA_DIR", "")
    return bool(folder) and (Path(folder) / "det_txl").is_dir()


def _rtsp_server_is_there() -> bool:
    found = any(Path("/usr/lib").glob("*/girepository-1.0/GstRtspServer-1.0.typelib"))
    return found and Path("/usr/lib/python3/dist-packages/gi").is_dir()


def _podman_is_there() -> bool:
    base = os.environ.get("AHS_BASE_IMAGE", "") != "" or shutil.which("debootstrap") is not None
    return base and shutil.which("podman") is not None and shutil.which("buildah") is not None


NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "torch": ("the training extra", lambda: importlib.util.find_spec("torch") is not None),
    "mosquitto": ("mosquitto on PATH", lambda: shutil.which("mosquitto") is not None),
    "chromium": ("Chromium and Playwright", _chromium_is_there),
    "postgres": ("PostgreSQL's server programs", _postgres_is_there),
    "root": ("to be run as root", lambda: hasattr(os, "geteuid") and os.geteuid() == 0),
    "promtool": ("promtool of Prometheus", lambda: shutil.which("promtool") is not None),
    "groovy": ("groovy and java", lambda: shutil.which("groovy") is not None and shutil.which("java") is not None),
    "podman": ("podman, buildah, and debootstrap or a base image in AHS_BASE_IMAGE", _podman_is_there),
    "compose": (
        "podman-compose (the test extra brings it on Linux), netavark and aardvark-dns, by which containers find each "
        "other by name",
        lambda: on_path("podman-compose") is not None and networks_have_names(),
    ),
    "hadolint": ("hadolint (the test extra brings it on Linux)", lambda: on_path("hadolint") is not None),
    "openssl": ("openssl on PATH", lambda: shutil.which("openssl") is not None),
    "mosquitto_sub": ("mosquitto_sub on PATH", lambda: shutil.which("mosquitto_sub") is not None),
    "rtsp": ("GStreamer's RTSP server for the system's own Python", _rtsp_server_is_there),
    "faketime": ("faketime on PATH", lambda: shutil.which("faketime") is not None),
    "systemd": ("systemd-analyze on PATH", lambda: shutil.which("systemd-analyze") is not None),
    "data": ("AHS_DATA_DIR", _data_is_there),
}
"""Marker -> (what it needs, whether that is there)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks as skipped what cannot run here. With AHS_REQUIRE_ALL=1 it is run, and fails, instead."""
    missing = {name: words for name, (words, is_there) in NEEDS.items() if not is_there()}
    for item in items:
        lacks = [missing[name] for name in missing if item.get_closest_marker(name)]
        if lacks:
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(lacks)}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turns every skip into a failure where nothing may be left out (AHS_REQUIRE_ALL=1)."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"AHS_REQUIRE_ALL=1, but this was not run: {_reason(report)}"
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole file that left itself out counts like a test that did."""
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"AHS_REQUIRE_ALL=1, but this file was not run: {_reason(report)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists by name what was not run, and what each needs."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    names = sorted((_reason(report), report.nodeid) for report in skipped)
    terminalreporter.section(f"not run here: {len(names)}")
    for reason, name in names:
        terminalreporter.line(f"not run here: {name}  ({reason})")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
