"""From a setting to a source."""

from __future__ import annotations

from edge_agent.capture.device_cv2 import device_source
from edge_agent.capture.folder import FolderSource
from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import FrameSource, Known, OnDrop, Stamps
from edge_agent.capture.stream_cv2 import stream_source
from edge_agent.capture.video_cv2 import VideoSource


def open_source(
    settings: SourceSettings,
    *,
    on_drop: OnDrop | None = None,
    known: Known | None = None,
    stamps: Stamps | None = None,
) -> FrameSource:
    """Choose the adapter for a setting. Nothing is opened yet: that happens on entering it.

    Args:
        settings: what to read from.
        on_drop: told of every frame that is not delivered and matters; see `source.OnDrop`.
        known: asked by a folder which of its pictures are not to be delivered, beside those to `skip`.
        stamps: asked by a watched folder what the known ones were like, so that it finds names that are used again.
    """
    kind = settings.kind
    if kind == "camera":
        return device_source(settings, on_drop=on_drop)
    if kind == "stream":
        return stream_source(settings, on_drop=on_drop)
    if kind == "folder":
        return FolderSource(settings, on_drop=on_drop, known=known, stamps=stamps)
    if kind == "simulated":
        # Only here: an agent with a real camera does not load the generator.
        from edge_agent.capture.simulated import SimulatedSource

        return SimulatedSource(settings, on_drop=on_drop)
    return VideoSource(settings, on_drop=on_drop)
