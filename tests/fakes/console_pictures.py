"""Draws docs/pictures/console-*.png: the real pages, on generated slides. `python -m tests.fakes.console_pictures`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloud.config import Settings
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.tables import DeviceStateRow
from edge_agent.console.server import ConsoleServer
from fleet.contract.release import WavePlan
from tests.fakes.chromium import Chromium, chromium
from tests.fakes.console_agent import FakeAgent
from tests.fakes.console_cloud import EDGE_MODEL, SITE, running_cloud
from tests.fakes.console_rollouts import StagedRollouts

OUT = Path("docs/pictures")
SETTLE_MS = 2500


def state_of(device: str, *, age_s: float, presence: str, degraded: tuple[str, ...] = (), **figures: Any) -> Any:
    """What a device last said of itself."""
    now = datetime.now(UTC)
    reported = {
        "message_id": "0123456789",
        "device": device,
        "boot": 3,
        "seq": 1,
        "sent_at": now.isoformat(),
        "active": EDGE_MODEL,
        "degraded": list(degraded),
    }
    return DeviceStateRow(
        device=device,
        site_id=SITE,
        presence=presence,
        last_seen_at=now - timedelta(seconds=age_s),
        agent_version="0.1.0",
        reported=reported,
        gauges={"spool_rows": figures.pop("spool_rows")},
        **figures,
    )


def store(settings: Settings, rows: list[Any]) -> None:
    """Writes the rows as ingest would."""

    async def write() -> None:
        storage = Storage(settings.database_url, settings.database)
        async with storage.writing() as session:
            for row in rows:
                await session.merge(row)
        await storage.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, write()).result()


def draw_edge(browser: Chromium, out: Path) -> None:
    """Live page and gallery."""
    agent = FakeAgent(field_count=14)
    best = max(range(14), key=lambda i: len({c.cell_type for c in agent.fields[i].cells if c.cell_type}))
    agent._frame = best + 13
    agent.next_field(decision="uncertain", reasons=("cell_unidentified",))
    live = agent._live
    assert live is not None
    boxes = list(live.boxes)
    first = next(i for i, box in enumerate(boxes) if box.label)
    boxes[first] = replace(boxes[first], label="unidentified", probability=0.52)
    agent._live = replace(live, boxes=tuple(boxes))
    with ConsoleServer(agent, host="127.0.0.1", port=0) as console, browser.page(console.url.rstrip("/")) as watched:
        watched.open("/")
        watched.page.wait_for_selector("#field[data-capture]")
        watched.page.wait_for_timeout(SETTLE_MS)
        watched.page.screenshot(path=str(out / "console-edge-live.png"))
        watched.open("/slide")
        watched.page.wait_for_timeout(SETTLE_MS)
        watched.page.keyboard.press("ArrowRight")
        watched.page.wait_for_timeout(SETTLE_MS)
        watched.page.screenshot(path=str(out / "console-edge-slide.png"))


def draw_cloud(browser: Chromium, out: Path, data_dir: Path) -> None:
    """Devices, and one uncertain image being read."""
    with running_cloud(data_dir, field_count=6) as cloud:
        token = cloud.add_device("bench-1", "Bench 1, window")
        for name, label in (("bench-2", "Bench 2"), ("bench-3", "Night bench"), ("bench-4", "")):
            cloud.add_device(name, label)
        rows = [
            state_of("bench-1", age_s=1, presence="online", fields=12041, uncertain=912, withheld=233, spool_rows=0),
            state_of(
                "bench-2",
                age_s=9,
                presence="online",
                degraded=("camera_frozen",),
                fields=801,
                uncertain=300,
                withheld=91,
                spool_rows=14,
            ),
            state_of(
                "bench-3", age_s=25200, presence="offline", fields=4410, uncertain=210, withheld=60, spool_rows=122
            ),
        ]
        store(cloud.settings, rows)
        most = max(range(6), key=lambda i: len({c.cell_type for c in cloud.fields[i].cells if c.cell_type}))
        opinion = cloud.ask(token, most, device="bench-1", unsure=2)
        with browser.page(cloud.base_url) as watched:
            watched.open("/sign-in")
            watched.page.keyboard.type(cloud.token())
            watched.page.keyboard.press("Enter")
            watched.page.wait_for_url("**/devices")
            watched.page.wait_for_timeout(500)
            watched.page.screenshot(path=str(out / "console-cloud-devices.png"))
            watched.open(f"/review/{opinion['id']}")
            watched.page.wait_for_selector("#review[data-ready=true]")
            for cell in opinion["cells"][:2]:
                watched.page.click(f"#gallery [data-cell='{opinion['cells'].index(cell)}']")
                truth = cell["edge"]["cell_type"]["prediction_set"][0]
                watched.page.click(f"#labels [data-label={truth}]")
            watched.page.evaluate("scrollTo(0, 0)")
            watched.page.wait_for_timeout(SETTLE_MS)
            watched.page.screenshot(path=str(out / "console-cloud-review.png"))


def draw_rollouts(browser: Chromium, out: Path, data_dir: Path) -> None:
    """A rollout under way, and one that stopped by itself."""
    waves = (WavePlan(devices=("bench-1",)), WavePlan(devices=("ward-1", "ward-2")), WavePlan(percent=100))
    for name, code in (("console-cloud-rollout", None), ("console-cloud-rollout-stopped", "E_SELFTEST")):
        with running_cloud(data_dir / name, field_count=1) as cloud:
            staged = StagedRollouts(cloud, data_dir / name)
            staged.add("bench-1", "ward-1", "ward-2", "night-1", "night-2")
            token = cloud.token(role="operator", name="Ada Keller")
            rollout = staged.start(waves, token)
            staged.devices["bench-1"].fails = code
            for seconds in (1, 1, 601, 1) if code is None else (1, 1):
                staged.go(seconds=seconds)
            with browser.page(cloud.base_url) as watched:
                watched.open("/sign-in")
                watched.page.keyboard.type(token)
                watched.page.keyboard.press("Enter")
                watched.page.wait_for_url("**/devices")
                watched.open(f"/rollouts/{rollout}")
                watched.page.wait_for_timeout(SETTLE_MS)
                watched.page.screenshot(path=str(out / f"{name}.png"))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    with chromium() as started, tempfile.TemporaryDirectory() as scratch:
        draw_edge(started, target)
        draw_cloud(started, target, Path(scratch))
        draw_rollouts(started, target, Path(scratch))
