"""How far the notes of this run have been handed to the uplink: what was handed on may be in the air, or committed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Handed:
    """The last note that was handed on. A row behind it has never left, and may be replaced by another one.

    A writer that replaces one holds the uplink off until its transaction has ended: it would else read the old row out
    of the state before and send it beside the new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._last = 0

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """While the uplink reads; waits for a writer that replaces a row."""
        with self._lock:
            yield

    def took(self, row_id: int) -> None:
        """Inside `taking`: notes up to this row are handed on."""
        self._last = max(self._last, row_id)

    def hold(self) -> int:
        """By the one writer: the last row that was handed on, which stays so until `let_go`."""
        if not self._held:
            self._lock.acquire()
            self._held = True
        return self._last

    def let_go(self) -> None:
        """By the writer, once its transaction has ended."""
        if self._held:
            self._held = False
            self._lock.release()
