"""A recorded video file; each frame (or each n-th) is a field."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent.capture.capture_cv2 import retrieve_rgb
from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound, SourceTimeout
from edge_agent.capture.folder import PICTURE_SUFFIXES
from edge_agent.capture.frame import Frame
from edge_agent.capture.opencv import cv2
from edge_agent.capture.replay import ReplayedSource, short_hash
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import DropReason, OnDrop, SourceKind


class VideoSource(ReplayedSource):
    """Frames of a video file, in order. Reference: `NAME-HASH#000001`, by the frame's number in the file."""

    def __init__(self, settings: SourceSettings, *, on_drop: OnDrop | None = None) -> None:
        self._path = Path(settings.spec)
        prefix = f"{self._path.name}-{short_hash(str(self._path.absolute()))}#"
        super().__init__(settings, label=f"video {self._path}", prefix=prefix, on_drop=on_drop)
        self._capture: cv2.VideoCapture | None = None
        self._position = 0
        self._announced = 0

    @property
    def kind(self) -> SourceKind:
        """Always a video."""
        return "video"

    def _open(self) -> None:
        resume = int(self._resume_ref.removeprefix(self._prefix)) if self._resume_ref is not None else 0
        self._check_path()
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise SourceNotFound(
                f"{self._path} cannot be read as a video: it is damaged or of an unknown format; MP4, AVI and MKV work"
            )
        self._capture, self._position = capture, 0
        self._announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        # Frame by frame: seeking lands on key frames in some formats, and the reference has to mean the same frame.
        while self._position < resume and capture.grab():
            self._position += 1

    def _check_path(self) -> None:
        if not self._path.exists():
            raise SourceNotFound(
                f"{self._path}: there is no such file or folder; give a camera number, a stream's URL, a video file, "
                "a folder of pictures, or sim:seed=1"
            )
        if self._path.suffix.lower() in PICTURE_SUFFIXES:
            raise SourceNotFound(f"{self._path} is a single picture; give the folder that holds it")

    def _close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _next(self, deadline_s: float) -> Frame:
        capture = self._capture
        if capture is None:
            raise SourceLost(f"{self._label} is not open")
        while capture.grab():
            self._position += 1
            source_ref = f"{self._prefix}{self._position:06d}"
            wanted = (self._position - 1) % self._settings.every_nth == 0 and not self._is_skipped(source_ref)
            if wanted:
                image = retrieve_rgb(capture)
                if image is not None:
                    return self._frame(image, source_ref)
                self._drop(source_ref, DropReason.UNREADABLE, f"frame {self._position} of {self._path.name} is damaged")
            if time.monotonic() > deadline_s:
                raise SourceTimeout(f"{self._label}: still looking for the next frame")
        raise SourceEnded(f"{self._label} is read to its end ({self._end_detail()})")

    def _end_detail(self) -> str:
        if self._position < self._announced:
            return (
                f"after {self._position} of {self._announced} frames that its header announces; "
                "the file may be cut short"
            )
        return f"{self._position} frames"
