"""What the simulated microscope really produced: one JSON line a frame, on disk before the frame is handed out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from edge_agent.capture.errors import SourceNotFound


class Journal:
    """An append-only JSON lines file that survives a kill: each line is synced, an unfinished one is cut off.

    A frame is written once, however often it is produced: after a kill between journal and store the agent reads the
    same field again.
    """

    def __init__(self, path: Path) -> None:
        """Open it and read which frames it holds.

        Raises:
            SourceNotFound: it cannot be opened.
        """
        self._refs: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
            self._file.seek(0)
            data = self._file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                self._file.truncate(whole)
            self._refs = {json.loads(line)["source_ref"] for line in data[:whole].splitlines()}
        except OSError as exc:
            raise SourceNotFound(f"the journal {path} cannot be opened: {exc.strerror}; give another path") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise SourceNotFound(f"{path} is no journal of a simulated microscope; give another path") from exc

    def write(self, source_ref: str, entry: dict[str, Any]) -> None:
        """Append one frame, unless it is already there; returns once it is on disk."""
        if source_ref in self._refs:
            return
        self._file.write(json.dumps({"source_ref": source_ref, **entry}, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._refs.add(source_ref)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
