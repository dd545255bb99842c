"""One frame as it leaves a source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from models.runtime.results import ImageRGB

if TYPE_CHECKING:
    from models.synthetic import TruthCell


@dataclass(frozen=True, slots=True)
class FileStamp:
    """How a file of a watched folder was told from others of the same name.

    Attributes:
        ref: of the file by its name.
        text: its size, its time and its picture; only to be compared.
    """

    ref: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture and where it came from.

    Attributes:
        image: (H, W, 3) uint8 RGB, contiguous, owned by the frame (the source never writes into it again).
        source_ref: names the frame within its source. On a replayable source it is the same in each run, so that a
            restarted agent can tell what it has already counted; on a live one it holds the capture time.
        frame: 1, 2, 3, ... within this run of the source; frames that were dropped leave no gap.
        captured_at: UTC, by the workstation's clock (which may be wrong).
        captured_monotonic_s: the monotonic clock at the same moment, for durations.
        um_per_px: size of a pixel in the specimen, where known.
        file_stamp: of the file it was read from (watched folders only).
        truth: cells that are really there (simulated microscope only), boxes in pixels of this frame.
    """

    image: ImageRGB
    source_ref: str
    frame: int
    captured_at: datetime
    captured_monotonic_s: float
    um_per_px: float | None = None
    file_stamp: FileStamp | None = None
    truth: tuple[TruthCell, ...] | None = None

    @property
    def width_px(self) -> int:
        """Columns of the picture."""
        return int(self.image.shape[1])

    @property
    def height_px(self) -> int:
        """Rows of the picture."""
        return int(self.image.shape[0])
