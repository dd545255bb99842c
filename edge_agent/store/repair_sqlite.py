"""A damaged store is replaced by one that holds whatever can still be read of it; the damaged file is kept.

1. A new file is filled table by table beside the damaged one, with the account of it. Killed here, the next start
   begins anew.
2. It is renamed to `.repaired`, which says that it is complete.
3. The damaged file, with its -wal and -shm, is renamed to `.damaged-N`. Killed here, the next start goes on.
4. The new file takes its place.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from edge_agent.errors import StoreFault, StoreFull
from edge_agent.store.schema import MIGRATIONS, SCHEMA_VERSION
from fleet.contract.cells import CellClassName, Decision, FieldCounts

PAGE_ROWS = 200
_ROWS_WITH_PICTURES = {"spool": 1}
"""Rows read at once where a row may hold a picture of many megabytes: a full spool is larger than the memory."""
_BY_ROWID = ("slides", "fields", "detections", "corrections", "spool", "calibrations")
_BY_KEY = ("meta", "counters", "slide_white_cells", "slide_results", "opinions", "seen_files")
"""Tables without row numbers: read from both ends. The spool's sums are made by triggers."""
_TIMES = {"slides": ("opened_at", "closed_at"), "fields": ("captured_at",), "opinions": ("received_at",)}
_DOCUMENTS = {"fields": ("reasons", "counts"), "detections": ("cell_type",), "opinions": ("labels",)}
_SUSPECT, _NEW, _REPAIRED, _DAMAGED = ".suspect", ".new", ".repaired", ".damaged-"
_BESIDE = ("-wal", "-shm")
REPAIRS = "store_repairs"
ACCOUNT = "repair"
"""Key in the new store of what was saved and lost, for a repair that is ended by a later start; stored."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was saved of a damaged store.

    Attributes:
        kept_as: the damaged file.
        saved: table -> rows.
        lost: table -> rows that are known to be missing; where that cannot be known the table is not in it.
        salt_lost: pseudonyms of specimens are others from now on.
    """

    kept_as: Path
    saved: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    salt_lost: bool = False


def suspect(path: Path) -> None:
    """Leaves a mark that the next start is to check the store before it uses it. Never fails: it is about a fault."""
    with contextlib.suppress(OSError):
        path.with_name(path.name + _SUSPECT).touch()


def settle(path: Path) -> Repaired | None:
    """Before a store is opened: ends a repair that was cut short, and repairs a store that is marked and damaged.

    Raises:
        StoreFull, StoreFault: the disk.
    """
    found: Repaired | None = None
    with _on_disk(path):
        if path.with_name(path.name + _REPAIRED).exists():
            found = _account_in(path.with_name(path.name + _REPAIRED), path)
            _put_in_place(path, found.kept_as)
            log.error("store_repaired", kept_as=found.kept_as.name, saved=found.saved, lost=found.lost, resumed=True)
        mark = path.with_name(path.name + _SUSPECT)
        if mark.exists():
            if path.exists() and not _is_sound(path):
                found = repair(path)
            mark.unlink(missing_ok=True)
    return found


def repair(path: Path) -> Repaired:
    """Replaces a damaged store.

    Raises:
        StoreFull, StoreFault: the disk; the damaged store is untouched.
    """
    new = path.with_name(path.name + _NEW)
    with _on_disk(path):
        for rest in (new, *(new.with_name(new.name + end) for end in _BESIDE)):
            rest.unlink(missing_ok=True)
        repaired = _fill(path, new, _free_name(path))
        new.replace(path.with_name(path.name + _REPAIRED))
        _put_in_place(path, repaired.kept_as)
        path.with_name(path.name + _SUSPECT).unlink(missing_ok=True)
    log.error("store_repaired", kept_as=repaired.kept_as.name, saved=repaired.saved, lost=repaired.lost)
    return repaired


def _free_name(path: Path) -> Path:
    taken = {entry.name for entry in path.parent.iterdir()}
    number = next(n for n in range(1, 10_000) if f"{path.name}{_DAMAGED}{n}" not in taken)
    return path.with_name(f"{path.name}{_DAMAGED}{number}")


def _put_in_place(path: Path, kept_as: Path) -> None:
    # The file last: as long as it is there, what belongs to it is found beside it.
    for end in (*_BESIDE, ""):
        beside = path.with_name(path.name + end)
        if beside.exists():
            beside.replace(kept_as.with_name(kept_as.name + end))
    path.with_name(path.name + _REPAIRED).replace(path)


def _keep_account(new: sqlite3.Connection, repaired: Repaired) -> None:
    account = {**asdict(repaired), "kept_as": repaired.kept_as.name}
    new.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (ACCOUNT, json.dumps(account)),
    )


def _account_in(repaired: Path, path: Path) -> Repaired:
    """Of a new store that is complete; one of an agent that kept none is counted, what is lost is not known then."""
    with contextlib.closing(sqlite3.connect(repaired)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (ACCOUNT,)).fetchone()
        if row is not None:
            account = json.loads(row[0])
            return Repaired(**{**account, "kept_as": path.with_name(account["kept_as"])})
        saved = {
            table: int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
            for table in (*_BY_KEY, *_BY_ROWID)
        }
    return Repaired(_free_name(path) if path.exists() else _kept_last(path), saved)


def _kept_last(path: Path) -> Path:
    kept = [entry for entry in path.parent.glob(f"{path.name}{_DAMAGED}*") if not entry.name.endswith(_BESIDE)]
    return max(kept, key=lambda entry: entry.stat().st_ctime_ns, default=_free_name(path))


def _is_sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            # Not the quick one, which does not look whether every row is in its indexes.
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as exc:
        if _is_about_the_disk(exc):
            raise
        return False


def _fill(old_path: Path, new_path: Path, kept_as: Path) -> Repaired:
    old = sqlite3.connect(old_path, isolation_level=None)
    new = sqlite3.connect(new_path, isolation_level=None)
    with contextlib.closing(old), contextlib.closing(new):
        old.text_factory = lambda data: data.decode("utf-8", "replace")
        new.execute("PRAGMA synchronous = OFF")
        version = _version_of(old)
        for step in MIGRATIONS[:version]:
            new.executescript(step)
        saved = {}
        new.execute("BEGIN")
        for table in (*_BY_KEY, *_BY_ROWID):
            saved[table] = _copy(old, new, table)
        new.execute("COMMIT")
        # An older store is brought up to date with its rows in it, as it would have been had it been sound.
        for step in MIGRATIONS[version:]:
            new.executescript(step)
        new.execute("BEGIN")
        lost = _losses(old, new, saved)
        salt_lost = _settle_meta(new)
        _settle_references(new)
        new.execute("INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (REPAIRS,))
        repaired = Repaired(kept_as, saved, lost, salt_lost)
        _keep_account(new, repaired)
        new.execute("COMMIT")
        new.execute("PRAGMA synchronous = FULL")
        new.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return repaired


def _version_of(old: sqlite3.Connection) -> int:
    rows, _ = _as_far_as_it_goes(old, "PRAGMA user_version", ())
    version = int(str(rows[0][0])) if rows else 0
    return version if 0 < version <= SCHEMA_VERSION else SCHEMA_VERSION


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    columns = _shared_columns(old, new, table)
    if not columns:
        return 0
    names = ", ".join(columns)
    put = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    rows = _by_rowid(old, table, names) if table in _BY_ROWID else _by_key(old, table, names)
    saved = 0
    for row in rows:
        if not _is_usable(table, dict(zip(columns, row, strict=True))):
            continue
        saved += max(0, new.execute(put, row).rowcount)
    return saved


def _is_usable(table: str, row: Mapping[str, object]) -> bool:
    """Whether what reads this table will understand the row: SQLite does not notice a spoiled value."""
    try:
        for column in _TIMES.get(table, ()):
            if row.get(column) is not None:
                datetime.fromisoformat(str(row[column]))
        for column in _DOCUMENTS.get(table, ()):
            if row.get(column) is not None:
                json.loads(str(row[column]))
        if table == "fields":
            Decision(str(row["decision"]))
            FieldCounts.model_validate_json(str(row["counts"]))
        if table == "detections":
            CellClassName(str(row["cls"]))
            float(str(row["score"]))
    except (ValueError, RecursionError):
        return False
    return True


def _shared_columns(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> list[str]:
    try:
        there = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.DatabaseError:
        return []
    return [row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[1] in there]


def _by_key(old: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[object, ...]]:
    """From the front as far as it goes, and from the back as far as that goes."""
    key = names.split(", ")[0]
    for order in ("", f" ORDER BY {key} DESC"):
        rows, whole = _as_far_as_it_goes(old, f"SELECT {names} FROM {table}{order}", ())
        yield from rows
        if whole:
            return


def _by_rowid(old: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[object, ...]]:
    """In order of the row numbers, over every stretch that cannot be read."""
    at_once = _ROWS_WITH_PICTURES.get(table, PAGE_ROWS)
    query = f"SELECT rowid, {names} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {at_once}"
    last = _last_rowid(old, table)
    after = -1
    while True:
        rows, whole = _rising(old, query, after)
        for row in rows:
            yield row[1:]
        if rows:
            after = int(str(rows[-1][0]))
        elif whole:
            return
        if not whole and not rows:
            further = _next_readable(old, query, after, last)
            if further is None:
                return
            after = further


def _rising(old: sqlite3.Connection, query: str, after: int) -> tuple[list[tuple[object, ...]], bool]:
    """Rows as long as their numbers rise: on a spoiled page they go back, and would be read again without end."""
    rows, whole = _as_far_as_it_goes(old, query, (after,))
    for at, row in enumerate(rows):
        number = int(str(row[0]))
        if number <= after:
            return rows[:at], False
        after = number
    return rows, whole


def _next_readable(old: sqlite3.Connection, query: str, after: int, last: int) -> int | None:
    """The smallest number found behind which a row can be read: by doubling steps, then between the last two."""
    low, step = after, 1
    while True:
        high = after + step
        if high >= last:
            return None
        rows, _ = _rising(old, query, high)
        if rows:
            break
        low, step = high, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        rows, _ = _rising(old, query, middle)
        low, high = (low, middle) if rows else (middle, high)
    return high


def _last_rowid(old: sqlite3.Connection, table: str) -> int:
    """The highest row number that can be found out."""
    found = 0
    for query in (
        f"SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1",
        f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'",
    ):
        rows, _ = _as_far_as_it_goes(old, query, ())
        found = max([found, *(int(str(row[0])) for row in rows)])
    return found


def _as_far_as_it_goes(
    old: sqlite3.Connection, query: str, values: tuple[object, ...]
) -> tuple[list[tuple[object, ...]], bool]:
    """Rows of a query until it fails, and whether it did not."""
    rows: list[tuple[object, ...]] = []
    try:
        for row in old.execute(query, values):
            rows.append(tuple(row))
    except sqlite3.DatabaseError as exc:
        if _is_about_the_disk(exc):
            raise
        return rows, False
    return rows, True


def _losses(old: sqlite3.Connection, new: sqlite3.Connection, saved: dict[str, int]) -> dict[str, int]:
    """Rows that were there: fields and cells are numbered without gaps and never deleted, the spool keeps its sums."""
    lost: dict[str, int] = {}
    for table in ("fields", "detections"):
        highest = new.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0]
        lost[table] = max(0, max(int(highest), _last_rowid(old, table)) - saved[table])
    sums, whole = _as_far_as_it_goes(old, "SELECT rows FROM spool_totals", ())
    if whole and sums:
        lost["spool"] = max(0, sum(int(str(row[0])) for row in sums) - saved["spool"])
    return {table: rows for table, rows in lost.items() if rows}


def _settle_meta(new: sqlite3.Connection) -> bool:
    """Numbers that were used are never used again, whatever could be read. Returns whether the salt is lost."""
    known = dict(new.execute("SELECT key, value FROM meta").fetchall())
    used = [
        int(new.execute(f"SELECT COALESCE(MAX(boot), 0) FROM {table}").fetchone()[0]) for table in ("spool", "fields")
    ]
    if str(known.get("boot", "")).isdecimal():
        used.append(int(known["boot"]))
    else:
        used.append(int(time.time()))
    new.execute(
        "INSERT INTO meta VALUES ('boot', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (str(max(used)),)
    )
    new.execute("DELETE FROM meta WHERE key = 'open'")
    return "salt" not in known


def _settle_references(new: sqlite3.Connection) -> None:
    """Cells without their field say nothing; fields without their slide get one, closed, with their sums."""
    new.execute("DELETE FROM detections WHERE field_id NOT IN (SELECT id FROM fields)")
    new.execute("DELETE FROM corrections WHERE detection_id NOT IN (SELECT id FROM detections)")
    orphans = new.execute(
        "SELECT slide_id, MIN(captured_at), MAX(captured_at) FROM fields"
        " WHERE slide_id NOT IN (SELECT id FROM slides) GROUP BY slide_id"
    ).fetchall()
    for slide_id, first, last in orphans:
        name = f"recovered-{slide_id}-{int(time.time())}"
        new.execute(
            "INSERT INTO slides (id, name, specimen, pseudonym, opened_at, closed_at, target_white_cells, closed_by)"
            " VALUES (?, ?, ?, ?, ?, ?, 1, 'unknown')",
            (slide_id, name, name, name, first, last),
        )
        _recount(new, int(slide_id))
    new.execute("DELETE FROM slide_white_cells WHERE slide_id NOT IN (SELECT id FROM slides)")
    new.execute("DELETE FROM slide_results WHERE slide_id NOT IN (SELECT id FROM slides)")


def _recount(new: sqlite3.Connection, slide_id: int) -> None:
    fields = withheld = uncertain = rbc = platelets = squared = 0
    white: dict[str, int] = {}
    for decision, text in new.execute("SELECT decision, counts FROM fields WHERE slide_id = ?", (slide_id,)):
        fields, withheld, uncertain = (
            fields + 1,
            withheld + (decision == "withheld"),
            uncertain + (decision == "uncertain"),
        )
        if decision == "withheld":
            continue
        counts = json.loads(text)
        rbc, platelets = rbc + counts["rbc"], platelets + counts["platelets"]
        squared += counts["platelets"] ** 2
        for label, cells in counts["white_cells"].items():
            white[label] = white.get(label, 0) + cells
    new.execute(
        "UPDATE slides SET fields = ?, withheld = ?, uncertain = ?, rbc = ?, platelets = ?, platelets_squared = ?"
        " WHERE id = ?",
        (fields, withheld, uncertain, rbc, platelets, squared, slide_id),
    )
    new.execute("DELETE FROM slide_white_cells WHERE slide_id = ?", (slide_id,))
    new.executemany(
        "INSERT INTO slide_white_cells VALUES (?, ?, ?)", [(slide_id, label, cells) for label, cells in white.items()]
    )


def _is_about_the_disk(exc: sqlite3.Error) -> bool:
    code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise StoreFull(f"no room to repair {path}: free as much disk space as the file takes") from exc
        raise StoreFault(f"{path} cannot be repaired ({exc}): check the disk and the folder's permissions") from exc
    except OSError as exc:
        raise StoreFault(f"{path} cannot be repaired ({exc}): check the disk and the folder's permissions") from exc
