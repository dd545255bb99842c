"""The simulated microscope: a stage that steps over a generated slide, with focus, lamp and sensor of its own.

Everything about field number n follows from the seed and n alone, never from the fields before it: so a restarted
agent that goes on behind field n sees exactly what it would have seen without the restart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.capture.errors import SourceEnded, SourceLost, SourceNotFound
from edge_agent.capture.frame import Frame
from edge_agent.capture.journal import Journal
from edge_agent.capture.replay import ReplayedSource, short_hash
from edge_agent.capture.settings import SIMULATED_UM_PER_PX, SimulatedSettings, SourceSettings
from edge_agent.capture.source import OnDrop, SourceKind
from models.synthetic import Optics, SlideSpec, TruthCell, VirtualSlide

RENEW_AFTER_FIELDS = 500
WIDTH_PX, HEIGHT_PX = 640, 480
FIELDS_A_ROW = 20
BACKLASH_RATIO = 0.03
"""How far a stage step misses its place, as share of the field's side."""
FOCUS_PERIOD_FIELDS, LIGHT_PERIOD_FIELDS = 37.0, 53.0
BAD_DEFOCUS_UM = 5.0


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where the stage stands and how the microscope is set for one field.

    Attributes:
        x_um, y_um: upper left corner of the field on the slide.
        defocus_um: distance from the focal plane.
        gain: light, 1 is nominal.
        noise_seed: of the sensor's noise.
    """

    x_um: float
    y_um: float
    defocus_um: float
    gain: float
    noise_seed: tuple[int, int, int]


def exposure_of(number: int, s: SimulatedSettings, *, width_um: float, height_um: float) -> Exposure:
    """The exposure of field `number` (1, 2, ...): a serpentine over the slide, with drift of focus and lamp."""
    rng = np.random.default_rng((s.seed, number))
    row, column = divmod(number - 1, FIELDS_A_ROW)
    if row % 2:
        column = FIELDS_A_ROW - 1 - column
    miss_x, miss_y = rng.uniform(-BACKLASH_RATIO, BACKLASH_RATIO, 2)
    # Phases belong to the slide, not to the field: drift is slow.
    focus_phase, light_phase = np.random.default_rng((s.seed, 0)).uniform(0.0, 2.0 * math.pi, 2)
    defocus_um = s.focus_drift_um * math.sin(2.0 * math.pi * number / FOCUS_PERIOD_FIELDS + focus_phase)
    if rng.random() < s.bad_field_ratio:
        defocus_um += math.copysign(BAD_DEFOCUS_UM, defocus_um)
    return Exposure(
        x_um=(column * s.step_ratio + float(miss_x)) * width_um,
        y_um=(row * s.step_ratio + float(miss_y)) * height_um,
        defocus_um=defocus_um,
        gain=1.0 + s.light_drift_ratio * math.sin(2.0 * math.pi * number / LIGHT_PERIOD_FIELDS + light_phase),
        noise_seed=(s.seed, number, 1),
    )


class SimulatedSource(ReplayedSource):
    """Fields of a generated slide. Reference: `sim-SEED-HASH/000001`; the hash tells other settings apart."""

    def __init__(self, settings: SourceSettings, *, on_drop: OnDrop | None = None) -> None:
        s = settings.simulated
        self._width_px = settings.width_px or WIDTH_PX
        self._height_px = settings.height_px or HEIGHT_PX
        self._scale = settings.um_per_px or SIMULATED_UM_PER_PX
        decisive = s.model_dump_json(exclude={"journal", "fields"})
        about = short_hash(f"{decisive} {self._width_px} {self._height_px} {self._scale!r}")
        super().__init__(
            settings,
            label=f"simulated microscope (seed {s.seed})",
            prefix=f"sim-{s.seed}-{about}/",
            on_drop=on_drop,
        )
        self._simulated = s
        self._spec: SlideSpec | None = None
        self._slide: VirtualSlide | None = None
        self._journal: Journal | None = None
        self._number = 0

    @property
    def kind(self) -> SourceKind:
        """Always simulated."""
        return "simulated"

    def _open(self) -> None:
        s = self._simulated
        self._number = int(self._resume_ref.removeprefix(self._prefix)) if self._resume_ref is not None else 0
        chosen: dict[str, Any] = {"seed": s.seed, "ambiguous_ratio": s.ambiguous_ratio}
        for name in ("stain", "stain_intensity_ratio", "stain_tint"):
            if (value := getattr(s, name)) is not None:
                chosen[name] = value
        if s.white_cells_per_field is not None:
            chosen["wbc_per_field_mean"] = s.white_cells_per_field
        try:
            self._spec = SlideSpec(**chosen)
            self._slide = VirtualSlide(self._spec)
        except ValueError as exc:
            raise SourceNotFound(f"{self._label} cannot draw this slide: {exc}") from exc
        if s.journal is not None:
            self._journal = Journal(s.journal)

    def _close(self) -> None:
        self._slide = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _next(self, deadline_s: float) -> Frame:
        if self._slide is None:
            raise SourceLost(f"{self._label} is not open")
        while True:
            last = self._simulated.fields
            if last is not None and self._number >= last:
                raise SourceEnded(f"{self._label} is read to its end ({self._end_detail()})")
            number = self._number + 1
            source_ref = f"{self._prefix}{number:06d}"
            if number % RENEW_AFTER_FIELDS == 0:
                # A slide remembers each place it has shown; the same specification draws the same places again.
                self._slide = VirtualSlide(self._spec)
            if not self._is_skipped(source_ref):
                frame = self._produce(self._slide, number, source_ref)
                self._number = number
                return frame
            self._number = number

    def _produce(self, slide: VirtualSlide, number: int, source_ref: str) -> Frame:
        width_um, height_um = self._width_px * self._scale, self._height_px * self._scale
        at = exposure_of(number, self._simulated, width_um=width_um, height_um=height_um)
        view = slide.render(
            x_um=at.x_um, y_um=at.y_um, width_px=self._width_px, height_px=self._height_px, um_per_px=self._scale
        )
        optics = Optics(defocus_um=at.defocus_um, gain=at.gain, noise_sigma=self._simulated.noise_sigma_level)
        image = optics.apply(view.image, np.random.default_rng(at.noise_seed), um_per_px=self._scale)
        if self._journal is not None:
            entry = self._entry(number, at, view.cells)
            self._journal.write(source_ref, {**entry, "sha256": hashlib.sha256(image.tobytes()).hexdigest()})
        frame = self._frame(image, source_ref)
        return dataclasses.replace(frame, um_per_px=self._scale, truth=tuple(view.cells))

    def _entry(self, number: int, at: Exposure, cells: list[TruthCell]) -> dict[str, Any]:
        return {
            "field": number,
            "x_um": at.x_um,
            "y_um": at.y_um,
            "um_per_px": self._scale,
            "width_px": self._width_px,
            "height_px": self._height_px,
            "defocus_um": at.defocus_um,
            "gain": at.gain,
            "truth": [dataclasses.asdict(cell) for cell in cells],
        }
