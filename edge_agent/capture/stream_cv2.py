"""A network camera: MJPEG or another stream over HTTP, RTSP, ... through OpenCV's FFmpeg."""

from __future__ import annotations

from urllib.parse import urlsplit

from edge_agent.capture.capture_cv2 import Cv2Connection
from edge_agent.capture.errors import SourceNotFound
from edge_agent.capture.live import LiveSource
from edge_agent.capture.opencv import cv2
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import OnDrop


def without_password(url: str) -> str:
    """The address as it may be shown and stored: no user, no password, no query (which often holds a token)."""
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    return f"{parts.scheme}://{host}{parts.path}"


def stream_source(settings: SourceSettings, *, on_drop: OnDrop | None = None) -> LiveSource:
    """A source over the stream at `settings.spec`."""
    label = f"stream {without_password(settings.spec)}"
    link = settings.link
    times = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        link.open_timeout_ms,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        link.read_timeout_ms,
    ]

    def connect() -> Cv2Connection:
        capture = cv2.VideoCapture(settings.spec, cv2.CAP_FFMPEG, times)
        if not capture.isOpened():
            capture.release()
            raise SourceNotFound(
                f"{label} cannot be opened within {link.open_timeout_ms} ms: check the address, that the camera is "
                "switched on and in this network, and its user name and password"
            )
        return Cv2Connection(capture)

    return LiveSource(settings, kind="stream", label=label, connect=connect, on_drop=on_drop)
