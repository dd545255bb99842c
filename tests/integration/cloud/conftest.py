"""A real cloud for tests: real tables, a real image folder, and a model that can be told what to say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from cloud.app import create_app
from cloud.config import DatabaseSettings, Settings
from cloud.operating import issue_token
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.migrating import migrate
from fleet.contract.cells import ModelRef
from models.bundle.manifest import CellClass
from models.runtime.imaging import encode_jpeg
from models.runtime.results import CellType, Detection, FieldAnalysis, ImageRGB
from tests.fakes.releases import ReleaseDesk
from tests.fakes.releasing import Releasing, releasing
from tests.fakes.rollout_floor import Floor, started_floor

EDGE_DIGEST = "sha256:" + "a1" * 32
CLOUD_DIGEST = "sha256:" + "b2" * 32
BOX = (100.0, 80.0, 160.0, 140.0)


@pytest.fixture
def anyio_backend() -> str:
    """The cloud runs on asyncio."""
    return "asyncio"


def white_cell(label: str, box: tuple[float, float, float, float] = BOX, *, in_domain: bool = True) -> Detection:
    """A white cell as the pipeline gives it."""
    named = label if label != "unidentified" else "lymphocyte"
    sure = label != "unidentified"
    probabilities = dict.fromkeys(("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"), 0.02)
    probabilities[named] = 0.92
    kind = CellType(label, probabilities, (named,) if sure else (named, "monocyte"), in_domain, 0.4)
    return Detection(box, CellClass.WBC, 0.9, True, kind)


def red_cell(box: tuple[float, float, float, float]) -> Detection:
    """A red cell as the pipeline gives it."""
    return Detection(box, CellClass.RBC, 0.9, True, None)


@dataclass
class StagedAnalyser:
    """A larger model that says what it is told to, and can be held until it is let go."""

    detections: tuple[Detection, ...] = (white_cell("lymphocyte"),)
    failures: list[str] = field(default_factory=list)
    error: Exception | None = None
    calls: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def model(self) -> ModelRef:
        return ModelRef(name="second-opinion", version="1.0.0", digest=CLOUD_DIGEST)

    def analyse(self, image: ImageRGB) -> FieldAnalysis:
        self.calls += 1
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return FieldAnalysis(image.shape[1], image.shape[0], self.detections, 40.0, {"detect": 1.0})

    def self_test(self) -> list[str]:
        return self.failures


def jpeg(seed: int = 1, *, width: int = 320, height: int = 240) -> bytes:
    """A picture with content of its own."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return encode_jpeg(pixels, 80)


def context_for(image: bytes, *, device: str = "bench-1", site: str = "lab-a", **changes: Any) -> dict[str, Any]:
    """The context of an uncertain field with one white cell the edge did not name."""
    cell = {
        "bbox": [101.0, 79.0, 60.0, 61.0],
        "class": "WBC",
        "score": 0.88,
        "counted": True,
        "cell_type": {
            "label": "lymphocyte",
            "probabilities": {"lymphocyte": 0.8},
            "prediction_set": ["lymphocyte"],
            "in_domain": True,
            "ood_score": 0.5,
        },
    }
    context: dict[str, Any] = {
        "site": site,
        "device": device,
        "capture_id": f"{device}/1/1",
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "captured_at": datetime.now(UTC).isoformat(),
        "decision": "uncertain",
        "reasons": ["cell_unidentified"],
        "model": {"name": "edge", "version": "1.0.0", "digest": EDGE_DIGEST},
        "detections": [cell],
    }
    return context | changes


@dataclass
class RunningCloud:
    """The application under test with shortcuts."""

    app: FastAPI
    http: httpx.AsyncClient
    settings: Settings
    analyser: StagedAnalyser

    @property
    def storage(self) -> Storage:
        storage: Storage = self.app.state.parts.storage
        return storage

    async def token(self, role: str = "operator", site: str = "lab-a", days: float = 1) -> str:
        return await issue_token(self.settings, role=role, site=site, name=f"a {role}", lifetime=timedelta(days=days))

    async def device(self, device: str = "bench-1", site: str = "lab-a") -> str:
        answer = await self.http.post(
            "/v1/devices", json={"device": device, "site": site}, headers=bearer(await self.token(site=site))
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    async def ask(self, token: str, image: bytes, context: dict[str, Any]) -> httpx.Response:
        files: Any = {
            "image": ("f.jpg", image, "image/jpeg"),
            "context": (None, json.dumps(context), "application/json"),
        }
        return await self.http.post("/v1/second-opinions", files=files, headers=bearer(token))


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def running(settings: Settings, analyser: StagedAnalyser | None, **options: Any) -> AsyncIterator[RunningCloud]:
    """The application in this process, started and stopped as uvicorn would."""
    app = create_app(settings, analyser=analyser, **options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as http:
            for _ in range(200):
                state = app.state.parts.opinions.model_state
                if state != "not tested yet":
                    break
                await _tick()
            yield RunningCloud(app, http, settings, analyser or StagedAnalyser())


async def _tick() -> None:
    import asyncio

    await asyncio.sleep(0.01)


@pytest.fixture
def settings_for(tmp_path: Path, database_url: str) -> Callable[..., Settings]:
    """Settings on a fresh database; keyword arguments are sections."""

    def build(**sections: Any) -> Settings:
        database = {"url": database_url, **sections.pop("database", {})}
        return Settings(data_dir=tmp_path / "data", database=database, **sections)

    return build


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'cloud.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with tables and no rows: a copy, since migrating takes its time."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "cloud.db")
        return f"sqlite+aiosqlite:///{tmp_path / 'cloud.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database(template=request.getfixturevalue("migrated_template"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the tables in it."""
    path = tmp_path_factory.mktemp("tables") / "cloud.db"
    migrate(f"sqlite+aiosqlite:///{path}", DatabaseSettings())
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """Name of a PostgreSQL database with the tables in it."""
    url = postgres_server.new_database()
    migrate(url, DatabaseSettings())
    return url.rsplit("/", 1)[1]


@pytest.fixture
def sqlite_settings(tmp_path: Path, migrated_file: Path) -> Callable[..., Settings]:
    """Settings on SQLite alone, for what does not depend on the database."""

    def build(**sections: Any) -> Settings:
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        if not (data / "cloud.db").exists():
            shutil.copyfile(migrated_file, data / "cloud.db")
        return Settings(data_dir=data, **sections)

    return build


@pytest.fixture
async def storage(database_url: str) -> AsyncIterator[Storage]:
    """Migrated tables."""
    opened = Storage(database_url, DatabaseSettings())
    yield opened
    await opened.close()


@pytest.fixture
def analyser() -> StagedAnalyser:
    """The larger model."""
    return StagedAnalyser()


@pytest.fixture
async def cloud_app(settings_for: Callable[..., Settings], analyser: StagedAnalyser) -> AsyncIterator[RunningCloud]:
    """A running cloud on each database."""
    async with running(settings_for(), analyser) as cloud:
        yield cloud


@pytest.fixture
async def sqlite_app(sqlite_settings: Callable[..., Settings], analyser: StagedAnalyser) -> AsyncIterator[RunningCloud]:
    """A running cloud on SQLite, for what does not depend on the database."""
    async with running(sqlite_settings(), analyser) as cloud:
        yield cloud


@pytest.fixture
def tools() -> Any:
    """The builders of this file, for tests (which do not import each other)."""
    import types

    return types.SimpleNamespace(
        bearer=bearer,
        context_for=context_for,
        jpeg=jpeg,
        running=running,
        white_cell=white_cell,
        red_cell=red_cell,
        StagedAnalyser=StagedAnalyser,
        free_port=free_port,
        eventually=eventually,
        EDGE_DIGEST=EDGE_DIGEST,
    )


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], Any], *, timeout_s: float = 15.0) -> Any:
    """Waits until a condition (sync or async) is truthy and returns its value."""
    import asyncio
    import inspect

    ends_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > ends_s:
            raise AssertionError(f"not within {timeout_s} s; last: {value!r}")
        await asyncio.sleep(0.05)


class PostgresServer:
    """A throw-away PostgreSQL on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self._bin = found[-1] if found else Path(shutil.which("initdb") or "initdb").parent
        self._data = folder / "data"
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.port = free_port()
        if self._as:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "ahs", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l", str(folder / "log"), "start")

    def new_database(self, template: str = "template1") -> str:
        psycopg = pytest.importorskip("psycopg", reason="needs the postgres extra")
        from psycopg import sql

        name = f"t{uuid.uuid4().hex[:10]}"
        with psycopg.connect(f"postgresql://ahs@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return f"postgresql+psycopg://ahs@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def _run(self, program: str, *args: str) -> None:
        command = [*self._as, str(self._bin / program), *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd="/tmp")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run, a database of its own a test."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ahs-pg-"))
    folder.chmod(0o755)
    server = PostgresServer(folder)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def desk(tmp_path: Path) -> ReleaseDesk:
    return ReleaseDesk(tmp_path / "keys")


@contextlib.asynccontextmanager
async def trusting(settings_for: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """With the factory's trust."""
    async with releasing(settings_for, tools, desk) as started:
        assert (await started.give_trust()).status_code == 200
        yield started


@pytest.fixture
async def fleet(settings_for: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """On each database, with the factory's trust."""
    async with trusting(settings_for, tools, desk) as started:
        yield started


@pytest.fixture
async def sqlite_fleet(sqlite_settings: Callable[..., Any], tools: Any, desk: ReleaseDesk) -> AsyncIterator[Releasing]:
    """The same for what does not depend on the database."""
    async with trusting(sqlite_settings, tools, desk) as started:
        yield started


@pytest.fixture
async def floor(settings_for: Callable[..., Settings], tools: Any, tmp_path: Path) -> AsyncIterator[Floor]:
    async with started_floor(settings_for, tools, tmp_path) as started:
        yield started
