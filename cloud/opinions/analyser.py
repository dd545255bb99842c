"""The larger model, seen from the service."""

from __future__ import annotations

from typing import Protocol

from fleet.contract.cells import ModelRef
from models.runtime.results import FieldAnalysis, ImageRGB


class Analyser(Protocol):
    """Reads one field at a time. Called from worker threads, several at once when `parallel` allows it."""

    @property
    def model(self) -> ModelRef:
        """Which model answers."""

    def analyse(self, image: ImageRGB) -> FieldAnalysis:
        """All detections of an (H, W, 3) uint8 RGB field.

        Raises:
            ModelRuntimeError: the model failed; nobody is to blame for the image.
        """

    def self_test(self) -> list[str]:
        """Proves the model on its golden inputs; the failures, empty when it passed."""
