"""What can go wrong with a source of frames.

DeviceFault
  SourceError
    SourceNotFound   it is not there or cannot be opened: the message says what to do (a person acts)
    SourceTimeout    nothing new within the time asked for: read again
    SourceLost       it was there and is gone; it reconnects by itself: read again
    SourceEnded      a clean end: the last frame of a video or folder was read
"""

from __future__ import annotations

from edge_agent.errors import DeviceFault


class SourceError(DeviceFault):
    """Something about a source of frames; the message is meant for the person at the microscope."""


class SourceNotFound(SourceError):
    """The source is not there or cannot be opened. The message says what to do."""


class SourceTimeout(SourceError):
    """No new frame within the time asked for. Not a fault in itself; the status says why. Read again."""


class SourceLost(SourceError):
    """The source was there and is gone. It reconnects by itself with back-off. Read again."""


class SourceEnded(SourceError):
    """There will be no further frame: the end of a video, a folder or a simulated slide."""
