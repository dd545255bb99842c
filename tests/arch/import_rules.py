"""Rules about imports that import-linter cannot say: plain functions over a source tree, so that a test can plant.

Each rule takes the root of a tree and returns its violations as text, empty when it holds.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

PROGRAMS = ("edge_agent", "cloud", "training", "fleet", "models")

DOORS: dict[str, tuple[str, ...]] = {
    "paho": ("edge_agent/uplink/bus_paho.py", "cloud/ingest/bus_paho.py"),
    "cv2": ("models/runtime/imaging.py", "models/synthetic/*", "edge_agent/capture/*", "training/*"),
    "onnxruntime": ("models/runtime/session.py", "training/export.py"),
    "onnx": ("training/export.py", "training/from_bundle.py"),
    "sqlite3": ("edge_agent/store/*_sqlite.py",),
    "aiosqlite": ("cloud/storage/*",),
    "psycopg": ("cloud/storage/*",),
    "alembic": ("cloud/storage/*",),
    "fsspec": ("cloud/storage/images_fsspec.py",),
    "mlflow": ("training/tracking.py",),
    "torch": ("training/*", "models/nets/*"),
    "albumentations": ("training/*",),
    "httpx": ("fleet/client/*", "fleet/local/*", "training/data/download.py"),
    "iotcore": ("fleet/local/*",),
    "tuf": ("fleet/release/*", "edge_agent/update/*"),
    "securesystemslib": ("fleet/release/*", "edge_agent/update/*"),
    "cryptography": ("fleet/release/*", "edge_agent/identity/*", "cloud/devices/authority_cryptography.py"),
    "fpdf": ("edge_agent/slides_print/*",),
    "socks": (),
}
"""Heavy library -> the only files that import it; `socks` is loaded by paho alone."""

ENGINE_NAMES = {"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"}

PURE = (
    "edge_agent/triage/*",
    "edge_agent/slides/*",
    "edge_agent/store/value.py",
    "edge_agent/replay_changes.py",
    "edge_agent/uplink/core.py",
    "edge_agent/uplink/asking.py",
    "edge_agent/uplink/flight.py",
    "edge_agent/uplink/link.py",
    "edge_agent/uplink/telling.py",
    "edge_agent/uplink/traffic.py",
    "edge_agent/update/arriving.py",
    "edge_agent/update/core.py",
    "edge_agent/update/delivery.py",
    "edge_agent/update/offer.py",
    "edge_agent/update_words.py",
    "edge_agent/wording_out.py",
    "edge_agent/calibration/rules.py",
    "edge_agent/update/proving.py",
    "edge_agent/update/record.py",
    "edge_agent/update/soak.py",
    "edge_agent/update/stand.py",
    "edge_agent/update/states.py",
    "edge_agent/update/traffic.py",
    "edge_agent/update/wanting.py",
    "edge_agent/capture/gate.py",
    "edge_agent/capture/freshness.py",
    "edge_agent/capture/selection.py",
    "edge_agent/capture/registration.py",
    "edge_agent/capture/watching.py",
    "edge_agent/store/soundness.py",
    "cloud/*/rules.py",
    "models/runtime/results.py",
    "models/runtime/matching.py",
    "training/gate.py",
    "fleet/release/gate.py",
    "fleet/contract/*",
    "fleet/rollout/*",
)
"""Decisions and passive cores."""

IMPURE_LIBRARIES = {
    *("time", "random", "secrets", "uuid"),
    *("socket", "ssl", "select", "selectors", "urllib", "http", "httpx", "paho", "fastapi", "starlette", "uvicorn"),
    *("threading", "queue", "asyncio", "concurrent", "multiprocessing", "subprocess", "signal"),
    *("pathlib", "os", "io", "shutil", "tempfile", "mmap", "fsspec", "cv2", "onnxruntime"),
    *("sqlite3", "sqlalchemy", "aiosqlite", "psycopg"),
    *("logging", "structlog", "prometheus_client"),
}
"""Clocks, sockets, threads, files, databases, logs, chance."""

CLOCK_CALLS = frozenset({"now", "utcnow", "today"})

CONTRACT_LIBRARIES = sys.stdlib_module_names | {"pydantic", "pydantic_core", "fleet"}


def sources(root: Path, patterns: Iterable[str] = ("*",)) -> Iterator[tuple[str, ast.Module]]:
    """Each module of the programs under `root` whose path matches one of `patterns`, parsed."""
    wanted = tuple(patterns)
    for program in PROGRAMS:
        for path in sorted((root / program).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if any(fnmatch(name, pattern) for pattern in wanted):
                yield name, ast.parse(path.read_text(encoding="utf-8"), filename=name)


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, also one inside a function or by `import_module("...")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            yield node.lineno, name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def beside_the_door(root: Path) -> list[str]:
    """Heavy libraries imported elsewhere than in their named files."""
    return [
        f"{name}:{line} imports {library}, whose door is {', '.join(DOORS[library])}"
        for name, tree in sources(root)
        for line, library in _libraries(tree)
        if library in DOORS and not any(fnmatch(name, door) for door in DOORS[library])
    ]


def engines_outside_storage(root: Path) -> list[str]:
    """SQLAlchemy engines made elsewhere than in cloud/storage."""
    return [
        f"{name}:{node.lineno} names {_name(node)}"
        for name, tree in sources(root)
        if not name.startswith("cloud/storage/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute | ast.alias) and _name(node) in ENGINE_NAMES
    ]


def impure_decisions(root: Path) -> list[str]:
    """Clocks, sockets, threads, files, databases and logs in modules that only decide."""
    found = []
    for name, tree in sources(root, PURE):
        found += [
            f"{name}:{line} imports {library}" for line, library in _libraries(tree) if library in IMPURE_LIBRARIES
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (_called(node) in CLOCK_CALLS or _is_open(node)):
                found.append(f"{name}:{node.lineno} calls {_called(node)}()")
    return found


def foreign_to_the_contract(root: Path) -> list[str]:
    """What fleet.contract imports beside the standard library, pydantic and itself."""
    return [
        f"{name}:{line} imports {module}"
        for name, tree in sources(root, ("fleet/contract/*",))
        for line, module in imported(tree)
        if module.split(".")[0] not in CONTRACT_LIBRARIES
        or (module.split(".")[0] == "fleet" and not f"{module}.".startswith("fleet.contract."))
    ]


def cycles(root: Path) -> list[str]:
    """Groups of modules that import each other in a ring."""
    trees = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for name, tree in sources(root)}
    graph = {
        module: {target for _, text in imported(tree) if (target := _internal(text, trees)) and target != module}
        for module, tree in trees.items()
    }
    reach = {module: _reachable(module, graph) for module in graph}
    rings = {tuple(sorted(other for other in reach[m] if m in reach[other])) for m in graph if m in reach[m]}
    return [" <-> ".join(ring) for ring in sorted(rings)]


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        module = ahead.pop()
        if module not in seen:
            seen.add(module)
            ahead += graph[module]
    return seen


def _internal(text: str, modules: dict[str, ast.Module]) -> str | None:
    if text in modules:
        return text
    parent = text.rpartition(".")[0]
    return parent if parent in modules else None


def _libraries(tree: ast.Module) -> Iterator[tuple[int, str]]:
    # `from x import a, b` is one line, not one for each name.
    yield from sorted({(line, module.split(".")[0]) for line, module in imported(tree)})


def _called(node: ast.Call) -> str:
    return _name(node.func)


def _is_open(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "open"


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=text) | ast.Attribute(attr=text) | ast.alias(name=text):
            return text
    return ""
