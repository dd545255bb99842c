"""The last few live fields, so that a picture and its cells always belong together."""

from __future__ import annotations

import threading
from collections import OrderedDict

from edge_agent.console.view import ConsoleView, LiveField

KEPT_FIELDS = 4


class FrameShelf:
    """A browser asks for the cells, then for the picture of just that field; meanwhile a newer one may have come."""

    def __init__(self, view: ConsoleView, *, kept_fields: int = KEPT_FIELDS) -> None:
        self._view = view
        self._kept_fields = kept_fields
        self._fields: OrderedDict[str, LiveField] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self) -> LiveField | None:
        """The newest field of the agent; it is kept for `find` until a few more have come."""
        field = self._view.live_field()
        if field is None:
            return None
        with self._lock:
            self._fields[field.capture_id] = field
            self._fields.move_to_end(field.capture_id)
            while len(self._fields) > self._kept_fields:
                self._fields.popitem(last=False)
        return field

    def find(self, capture_id: str) -> LiveField | None:
        """A field handed out lately; None when it is no longer kept."""
        with self._lock:
            return self._fields.get(capture_id)
