"""A folder of picture files: read once, or watched for new ones (a microscope's export folder, a network share)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.replay import ReplayedSource, short_hash
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DropReason, OnDrop, SourceKind, SourceState
from models.runtime.errors import ImageError
from models.runtime.imaging import read_image

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as it was when it last changed.

    Attributes:
        size_bytes, modified_ns: of the file.
        since_s: the monotonic clock when it was first seen like this.
    """

    size_bytes: int
    modified_ns: int
    since_s: float


class FolderSource(ReplayedSource):
    """Picture files directly in a folder. Reference: `FOLDER-HASH/NAME`.

    Not watched: in the order of their names, as they stand on opening; then it ends. Watched: in the order of their
    modification, each name once, as soon as its size and time have been stable for `settle_s`; it never ends.
    """

    def __init__(self, settings: SourceSettings, *, on_drop: OnDrop | None = None) -> None:
        self._folder = Path(settings.spec)
        where = self._folder.absolute()
        prefix = f"{where.name}-{short_hash(str(where))}/"
        super().__init__(settings, label=f"folder {self._folder}", prefix=prefix, on_drop=on_drop)
        self._names: list[str] = []
        self._done: set[str] = set()
        self._sightings: dict[str, Sighting] = {}
        self._next_look_s = 0.0

    @property
    def kind(self) -> SourceKind:
        """Always a folder."""
        return "folder"

    def _open(self) -> None:
        if not self._folder.exists():
            raise SourceNotFound(f"{self._folder}: there is no such folder; create it or correct the path")
        if not self._folder.is_dir():
            raise SourceNotFound(f"{self._folder} is a file; a folder of pictures is needed here")
        self._sightings, self._next_look_s = {}, 0.0
        last = self._resume_ref.removeprefix(self._prefix) if self._resume_ref is not None else None
        # Names say nothing about the order in which files appear: of a watched folder only that one is left out.
        self._done = {last} if self._settings.watch and last is not None else set()
        if self._settings.watch:
            return
        names = sorted(self._pictures())
        if not names:
            raise SourceNotFound(
                f"{self._folder} holds no picture ({', '.join(sorted(s[1:] for s in PICTURE_SUFFIXES))}); pictures in "
                "folders below it are not read"
            )
        self._names = [name for name in reversed(names) if last is None or name > last]

    def _close(self) -> None:
        self._names = []

    def _pictures(self) -> dict[str, os.stat_result]:
        """Name -> state of each picture file; hidden files are somebody's temporary ones.

        Raises:
            SourceNotFound: the folder cannot be listed.
        """
        found: dict[str, os.stat_result] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name = entry.name
                    wanted = not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES
                    if wanted and name not in self._done and entry.is_file():
                        found[name] = entry.stat()
        except FileNotFoundError as exc:
            if not self._folder.exists():
                raise SourceNotFound(f"{self._folder} is gone; is the share or disk still connected?") from exc
        except OSError as exc:
            raise SourceNotFound(f"{self._folder} cannot be listed: {exc.strerror}; check its permissions") from exc
        return found

    def _next(self, deadline_s: float) -> Frame:
        while True:
            name = self._next_name(deadline_s)
            source_ref = f"{self._prefix}{name}"
            frame = None if self._is_skipped(source_ref) else self._load(name, source_ref)
            self._done.add(name)
            if frame is not None:
                return frame
            if time.monotonic() > deadline_s:
                raise SourceTimeout(f"{self._label}: still looking for the next picture")

    def _load(self, name: str, source_ref: str) -> Frame | None:
        try:
            return self._frame(read_image(self._folder / name), source_ref)
        except ImageError as exc:
            if not self._folder.is_dir():
                # The share went away, the picture did not: it is read when the share is back.
                if not self._settings.watch:
                    self._names.append(name)
                self._lost()
                raise SourceLost(self.status().text) from exc
            self._drop(source_ref, DropReason.UNREADABLE, str(exc))
            return None

    def _next_name(self, deadline_s: float) -> str:
        if self._settings.watch:
            return self._next_settled(deadline_s)
        if not self._names:
            raise SourceEnded(f"{self._label} is read to its end ({self._end_detail()})")
        if self._state[0] is SourceState.RECONNECTING:
            self._await_folder(deadline_s)
        return self._names.pop()

    def _await_folder(self, deadline_s: float) -> None:
        while not self._folder.is_dir():
            if time.monotonic() >= deadline_s:
                raise SourceLost(self.status().text)
            time.sleep(min(self._settings.poll_s, max(0.0, deadline_s - time.monotonic())))
        self._reconnects += 1
        self._set_state(SourceState.UP)

    def _next_settled(self, deadline_s: float) -> str:
        while True:
            if self._names:
                return self._names.pop()
            now_s = time.monotonic()
            if now_s >= self._next_look_s:
                self._next_look_s = now_s + self._settings.poll_s
                self._look(now_s)
                continue
            left_s = deadline_s - now_s
            if left_s <= 0:
                if self._state[0] is SourceState.RECONNECTING:
                    raise SourceLost(self.status().text)
                raise SourceTimeout(self.status().text)
            time.sleep(min(left_s, self._next_look_s - now_s))

    def _look(self, now_s: float) -> None:
        """List the folder once and queue the files that are complete."""
        try:
            found = self._pictures()
        except SourceNotFound as exc:
            self._lost(str(exc))
            return
        if self._state[0] is SourceState.RECONNECTING:
            self._reconnects += 1
        sightings: dict[str, Sighting] = {}
        settled: list[tuple[int, str]] = []
        for name, stat in found.items():
            if self._is_skipped(f"{self._prefix}{name}"):
                self._done.add(name)
                continue
            seen = self._sightings.get(name)
            if seen is None or (seen.size_bytes, seen.modified_ns) != (stat.st_size, stat.st_mtime_ns):
                seen = Sighting(stat.st_size, stat.st_mtime_ns, now_s)
            # An empty file is one whose writer has not begun; it stays waiting instead of being dropped.
            if seen.size_bytes > 0 and now_s - seen.since_s >= self._settings.settle_s:
                settled.append((seen.modified_ns, name))
            else:
                sightings[name] = seen
        self._sightings = sightings
        self._names = [name for _, name in sorted(settled, reverse=True)]
        self._set_state(SourceState.UP if self._names else SourceState.WAITING)

    def _lost(self, detail: str = "is the share or disk still connected?") -> None:
        if self._settings.watch:
            self._names = []
        self._set_state(SourceState.RECONNECTING, detail)
