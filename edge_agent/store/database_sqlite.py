"""One SQLite file: opening, checking, transactions, readers. Every error leaves here as one of ours."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from edge_agent.errors import DeviceFault, StoreDamaged, StoreFault, StoreFull, StoreOfNewerAgent
from edge_agent.store.repair_sqlite import suspect
from edge_agent.store.schema import MIGRATIONS, SCHEMA_VERSION

BUSY_TIMEOUT_MS = 5000
_NO_ROOM_BYTES = 1024 * 1024
_KEPT_READERS = 3
_LEAST = ("meta", "slides", "slide_white_cells", "counters", "spool_totals")
"""Tables without which nothing begins; small, and so checked before the first field."""


class Database:
    """One connection that writes, behind one lock, and others that read beside it; for all threads of the process.

    WAL with synchronous=FULL: a committed transaction survives a power cut, and nobody who reads keeps the writer
    waiting, or waits for it. A run that did not end with `close` is followed by an integrity check at the next opening:
    of the small tables at once, of the rest by `check`, since that reads the whole file.

    Args:
        path: the file; created with its schema when it is not there (not with `read_only`).
        read_only: for reports beside a running agent; writes nothing.
        beside: by a command, perhaps beside a running agent; no step of the schema, no mark of a run.

    Attributes:
        unchecked: a run ended unclean, and the whole file was not checked since.

    Raises:
        StoreDamaged: no database of ours, of a newer version, or one that fails its check.
        StoreFull, StoreFault: the disk.
    """

    def __init__(self, path: Path, *, read_only: bool = False, beside: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._read_only = read_only
        self._marks = not (read_only or beside)
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        self._checking: sqlite3.Connection | None = None
        self.unchecked = False
        self._sick = False
        if not self._marks and not path.is_file():
            raise StoreFault(f"there is no store {path}: has the agent ever run with this data folder?")
        try:
            if self._marks:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._connected()
        except (sqlite3.Error, OSError) as exc:
            raise self._translated(exc) from exc
        try:
            self._prepare()
        except (sqlite3.Error, OSError) as exc:
            self._connection.close()
            raise self._translated(exc) from exc
        except DeviceFault:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA foreign_keys = ON")
        if self._read_only:
            run("PRAGMA query_only = ON")
        if not self._marks:
            run("PRAGMA synchronous = FULL")
            if (version := self._check_version()) < SCHEMA_VERSION:
                raise StoreFault(
                    f"{self.path} was written by an older agent (schema {version}, this one reads {SCHEMA_VERSION}): "
                    "start the agent once, which brings it up to date"
                )
            return
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA journal_size_limit = 16777216")
        version = self._check_version()
        if version and self._ended_unclean():
            self.unchecked = True
            if version < SCHEMA_VERSION:
                # Before the steps: they would carry the damage into new tables.
                self._check_tables(self._connection, None)
                self.unchecked = False
            else:
                for table in _LEAST:
                    self._check_tables(self._connection, table)
        for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
            # The number is part of the step: a kill between the two would have the next start do the step again.
            self._connection.executescript(f"BEGIN IMMEDIATE;{step}PRAGMA user_version = {number};COMMIT;")
        run("INSERT INTO meta VALUES ('open', '1') ON CONFLICT (key) DO UPDATE SET value = '1'")

    def check(self) -> None:
        """Checks the whole file, if the last run ended unclean; reads all of it, beside everybody else.

        Raises:
            StoreDamaged: with what was found.
        """
        if not self.unchecked:
            return
        try:
            with self.reading() as connection:
                self._checking = connection
                self._check_tables(connection, None)
            self.unchecked = False
        except StoreFault:
            # Cut short by `close`: the next start begins again.
            if not self._closed:
                raise
        finally:
            self._checking = None

    def _check_tables(self, connection: sqlite3.Connection, table: str | None) -> None:
        what = "1" if table is None else f"'{table}'"
        # Not the quick one, which does not look whether every row is in its indexes.
        verdict = connection.execute(f"PRAGMA integrity_check({what})").fetchone()[0]
        if verdict != "ok":
            self._found_sick()
            raise StoreDamaged(self._damaged(str(verdict)))

    def _check_version(self) -> int:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StoreOfNewerAgent(
                f"{self.path} was written by a newer agent (schema {version}, this one knows {SCHEMA_VERSION}): "
                "install that agent again, or give another data folder"
            )
        return version

    def _ended_unclean(self) -> bool:
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'open'").fetchone()
        return row is not None and row[0] == "1"

    def _damaged(self, detail: str) -> str:
        return (
            f"{self.path} fails its integrity check ({detail}): start the agent again, it saves what can be read into "
            "a new file and keeps this one; then look at the disk's health"
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; committed and on the disk when the block ends.

        Raises:
            StoreFull, StoreFault, StoreDamaged: nothing of the block was stored.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as exc:
                raise self._translated(exc) from exc

    @contextlib.contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Nobody else writes until the block ends; a `transaction` within it may end earlier."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For queries; several of them see the same state, whoever writes meanwhile.

        Not inside a `transaction` of the same thread: what that has not committed is not seen here.
        """
        try:
            connection = self._reader()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection)
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _reader(self) -> sqlite3.Connection:
        with self._readers_lock:
            if self._readers:
                return self._readers.pop()
        connection = self._connected()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._readers_lock:
            if not self._closed and len(self._readers) < _KEPT_READERS:
                self._readers.append(connection)
                return
        connection.close()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
        )
        connection.row_factory = sqlite3.Row
        return connection

    def free_bytes(self) -> int:
        """Free bytes on the disk under the store."""
        try:
            return shutil.disk_usage(self.path.parent).free
        except OSError as exc:
            raise StoreFault(f"the disk under {self.path} does not answer: {exc}") from exc

    def limit_pages(self, pages: int) -> None:
        """Largest size of the file in pages; what a full disk looks like, for tests and drills."""
        with self._lock:
            self._connection.execute(f"PRAGMA max_page_count = {pages:d}")

    def close(self) -> None:
        """Marks a clean end and closes. A full disk cannot keep us from closing: the next start then checks."""
        with self._readers_lock:
            self._closed = True
            if (checking := self._checking) is not None:
                checking.interrupt()
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()
        with self._lock:
            if self._marks and not self.unchecked and not self._sick:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("UPDATE meta SET value = '0' WHERE key = 'open'")
            self._connection.close()

    def _translated(self, exc: Exception) -> DeviceFault:
        code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room()):
            return StoreFull(f"no room for {self.path}: free some disk space; nothing that was stored is lost")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self._found_sick()
            return StoreDamaged(self._damaged(str(exc)))
        return StoreFault(f"{self.path} cannot be used ({exc}): check the disk and the folder's permissions")

    def _found_sick(self) -> None:
        self._sick = True
        if self._marks:
            suspect(self.path)

    def _no_room(self) -> bool:
        try:
            return shutil.disk_usage(self.path.parent).free < _NO_ROOM_BYTES
        except OSError:
            return False
