"""From a setting to a source."""

from __future__ import annotations

from edge_agent.capture.settings import SourceSettings
from edge_agent.capture.source import FrameSource, OnDrop


def open_source(settings: SourceSettings, *, on_drop: OnDrop | None = None) -> FrameSource:
    """Choose the adapter for a setting. Nothing is opened yet: that happens on entering it.

    Args:
        settings: what to read from.
        on_drop: told of every frame that is not delivered and matters; see `source.OnDrop`.
    """
    raise NotImplementedError(settings.kind)
