"""A folder of picture files: read once, or watched for new ones (a microscope's export folder, a network share)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.frame import FileStamp, Frame
from edge_agent.capture.replay import ReplayedSource, short_hash
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DropReason, Known, OnDrop, SourceKind, SourceState, Stamps
from edge_agent.capture.watching import Patience, Stamp, Taken, Trouble, Watcher
from models.runtime.errors import ImageError
from models.runtime.imaging import read_image
from models.runtime.results import ImageRGB

log = structlog.get_logger(__name__)

RESERVED_TAIL_BYTES = 512
"""A file that ends in so many zeros is one whose size was reserved and that is not written to its end."""
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class FolderSource(ReplayedSource):
    """Picture files directly in a folder. Reference: `FOLDER-HASH/NAME`.

    Not watched: in the order of their names, as they stand on opening; then it ends. Watched: in the order of their
    modification, each file once, as soon as it is complete (see `watching`); it never ends, and is waited for when it
    is not there. Another picture under a name that was read before is a field of its own: `FOLDER-HASH/NAME#PICTURE`.
    """

    def __init__(
        self,
        settings: SourceSettings,
        *,
        on_drop: OnDrop | None = None,
        known: Known | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        self._folder = Path(settings.spec)
        where = self._folder.absolute()
        prefix = f"{where.name}-{short_hash(str(where))}/"
        super().__init__(settings, label=f"folder {self._folder}", prefix=prefix, on_drop=on_drop)
        self._names: list[str] = []
        self._patience = Patience(settings.settle_s, settings.incomplete_s, settings.locked_s)
        self._watcher = Watcher(self._patience)
        self._next_look_s = 0.0
        self._known: Known = known or (lambda refs: ())
        self._stamps: Stamps = stamps or (lambda refs: {})

    @property
    def comes_by_itself(self) -> bool:
        """A share is mounted when the network is there; a folder to be read once is a matter of the command line."""
        return self._settings.watch

    @property
    def kind(self) -> SourceKind:
        """Always a folder."""
        return "folder"

    def _open(self) -> None:
        if not self._folder.exists():
            raise SourceNotFound(f"{self._folder}: there is no such folder; create it or correct the path")
        if not self._folder.is_dir():
            raise SourceNotFound(f"{self._folder} is a file; a folder of pictures is needed here")
        self._next_look_s = 0.0
        last = self._resume_ref.removeprefix(self._prefix) if self._resume_ref is not None else None
        # Names say nothing about the order in which files appear: of a watched folder only that one is left out.
        self._watcher = Watcher(self._patience, () if last is None else (last,))
        if self._settings.watch:
            return
        names = sorted(self._pictures())
        if not names:
            raise SourceNotFound(
                f"{self._folder} holds no picture ({', '.join(sorted(s[1:] for s in PICTURE_SUFFIXES))}); pictures in "
                "folders below it are not read"
            )
        wanted = self._wanted(name for name in names if last is None or name > last)
        self._names = sorted(wanted, reverse=True)

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
                there = {entry.name: entry for entry in entries if _is_picture(entry.name)}
            # Not each of thousands of files on a network share is asked about with each look.
            for name in self._watcher.to_look_at(there) if self._settings.watch else there:
                # On some network shares a file is gone again before it can be asked about.
                with contextlib.suppress(FileNotFoundError):
                    if there[name].is_file():
                        found[name] = there[name].stat()
        except FileNotFoundError as exc:
            if not self._folder.exists():
                raise SourceNotFound(f"{self._folder} is gone; is the share or disk still connected?") from exc
        except OSError as exc:
            raise SourceNotFound(f"{self._folder} cannot be listed: {exc.strerror}; check its permissions") from exc
        return found

    def _wanted(self, names: Iterable[str]) -> set[str]:
        """Those that are neither skipped nor stored already."""
        refs = {f"{self._prefix}{name}": name for name in names}
        known = set(self._known(refs.keys()))
        return {name for ref, name in refs.items() if ref not in known and not self._is_skipped(ref)}

    def _next(self, deadline_s: float) -> Frame:
        while True:
            name = self._next_name(deadline_s)
            source_ref = f"{self._prefix}{name}"
            frame = self._load(name, source_ref) if not self._settings.watch else self._try(name, source_ref)
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
                self._names.append(name)
                self._lost()
                raise SourceLost(self.status().text) from exc
            self._drop(source_ref, DropReason.UNREADABLE, str(exc))
            return None

    def _try(self, name: str, source_ref: str) -> Frame | None:
        """A picture of a watched folder, if it is one by now."""
        path = self._folder / name
        try:
            image = None if _is_reserved(path) else read_image(path)
        except (ImageError, OSError) as exc:
            fault = exc if isinstance(exc, OSError) else exc.__cause__
            if not self._folder.is_dir():
                self._lost()
                raise SourceLost(self.status().text) from exc
            if isinstance(fault, FileNotFoundError):
                self._watcher.gone(name)
                return None
            self._failed(name, source_ref, Trouble.LOCKED if isinstance(fault, OSError) else Trouble.INCOMPLETE, exc)
            return None
        if image is None:
            return self._reserved(name, path, source_ref)
        return self._took(name, image, source_ref)

    def _reserved(self, name: str, path: Path, source_ref: str) -> Frame | None:
        """A picture may end in zeros of its own; then it is one all the same, only later."""
        stamp = self._watcher.stamp_of(name)
        if not self._watcher.failed(name, Trouble.INCOMPLETE, time.monotonic()):
            return None
        try:
            image = read_image(path)
        except ImageError as exc:
            self._drop(self._as_it_stands(name, source_ref, stamp), DropReason.UNREADABLE, str(exc))
            return None
        return self._took(name, image, source_ref, stamp)

    def _took(self, name: str, image: ImageRGB, source_ref: str, stamp: Stamp | None = None) -> Frame | None:
        """Its frame; None when the file was written anew with the picture that was read already."""
        taken = Taken(stamp or self._watcher.stamp_of(name), _fingerprint(image))
        before = self._watcher.before(name)
        self._watcher.taken(name, taken)
        self._set_state(SourceState.UP)
        frame_ref = source_ref if before is None else f"{source_ref}#{taken.content}"
        if before is not None and (before.content == taken.content or self._known([frame_ref])):
            log.info("file_rewritten", source_ref=source_ref)
            return None
        return replace(self._frame(image, frame_ref), file_stamp=FileStamp(source_ref, _written(taken)))

    def _as_it_stands(self, name: str, source_ref: str, stamp: Stamp) -> str:
        """A file that is told of: not mistaken for the one that was read under this name."""
        return source_ref if self._watcher.before(name) is None else f"{source_ref}#{stamp.modified_ns}"

    def _failed(self, name: str, source_ref: str, trouble: Trouble, exc: Exception) -> None:
        stamp = self._watcher.stamp_of(name)
        if self._watcher.failed(name, trouble, time.monotonic()):
            self._drop(self._as_it_stands(name, source_ref, stamp), DropReason.UNREADABLE, str(exc))

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
        stamps = {name: Stamp(status.st_size, status.st_mtime_ns) for name, status in found.items()}
        self._recall({name: stamp for name, stamp in stamps.items() if not self._watcher.knows(name)})
        self._names = self._watcher.look(stamps, now_s)[::-1]
        waiting = self._watcher.waiting - len(self._names)
        detail = f"{waiting} not complete yet" if waiting else ""
        # What is tried now may turn out to be half a picture: only one that was read makes the source be up.
        if not self._names or self._state[0] is SourceState.RECONNECTING:
            self._set_state(SourceState.WAITING, detail)

    def _recall(self, unknown: Mapping[str, Stamp]) -> None:
        """Tells the watcher what is stored or not wanted; of a file stored without its stamp it is the one it finds."""
        refs = {name: f"{self._prefix}{name}" for name in unknown.keys() - self._wanted(unknown)}
        stored = self._stamps([ref for ref in refs.values() if not self._is_skipped(ref)]) if refs else {}
        for name, ref in refs.items():
            self._watcher.taken(name, _read_stamp(stored.get(ref, "")) or Taken(unknown[name]))

    def _lost(self, detail: str = "is the share or disk still connected?") -> None:
        if self._settings.watch:
            self._names = []
        self._set_state(SourceState.RECONNECTING, detail)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def _fingerprint(image: ImageRGB) -> str:
    """Of the pixels, not of the file: programs write into a file's header after the picture is there."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}:".encode() + image.tobytes()).hexdigest()[:16]


def _written(taken: Taken) -> str:
    return f"{taken.stamp.size_bytes}:{taken.stamp.modified_ns}:{taken.content}"


def _read_stamp(text: str) -> Taken | None:
    size, _, rest = text.partition(":")
    modified, _, content = rest.partition(":")
    if not (size.isdecimal() and modified.removeprefix("-").isdecimal() and content):
        return None
    return Taken(Stamp(int(size), int(modified)), content)


def _is_reserved(path: Path) -> bool:
    """Whether a file ends in zeros.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - RESERVED_TAIL_BYTES))
        return not any(file.read(RESERVED_TAIL_BYTES))
