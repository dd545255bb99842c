"""Settings of capture: what to read from, and the limits of freshness, field selection and quality."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.capture.source import SourceKind

URL_PATTERN = re.compile(r"^(https?|rtsps?|rtmp|udp|tcp)://", re.IGNORECASE)
SIMULATED_PREFIX = "sim"
SIMULATED_UM_PER_PX = 0.083


class Part(BaseModel):
    """Frozen and closed: a key nobody knows is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LinkSettings(Part):
    """Connection to a camera or stream."""

    open_timeout_ms: int = Field(3000, ge=50, le=60_000, description="longest wait for a stream to open, milliseconds")
    read_timeout_ms: int = Field(2000, ge=50, le=60_000, description="longest wait for one frame, milliseconds")
    stall_after_s: float = Field(5.0, gt=0, le=600, description="no frame for so long counts as stalled, seconds")
    abandon_after_s: float = Field(
        15.0, gt=0, le=3600, description="a reader stuck in the driver for so long is replaced, seconds"
    )
    backoff_first_s: float = Field(0.5, gt=0, le=600, description="wait before the first reconnection, seconds")
    backoff_last_s: float = Field(30.0, gt=0, le=3600, description="longest wait between reconnections, seconds")
    backoff_jitter_ratio: float = Field(0.3, ge=0, le=1, description="random share added to each wait")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.backoff_last_s < self.backoff_first_s:
            raise ValueError("backoff_last_s must not be shorter than backoff_first_s")
        if self.abandon_after_s * 1000 <= max(self.open_timeout_ms, self.read_timeout_ms):
            raise ValueError("abandon_after_s must be longer than open_timeout_ms and read_timeout_ms")
        return self


class FreshnessSettings(Part):
    """When a live picture is not believed (a camera that says it works may be dead)."""

    frozen_after_s: float = Field(
        2.0, gt=0, le=600, description="byte-identical frames for so long mean a frozen camera: sensors have noise"
    )
    frozen_after_frames: int = Field(3, ge=2, le=10_000, description="and at least so many of them")
    reconnect_frozen_after_s: float = Field(10.0, gt=0, le=3600, description="frozen for so long: reconnect, seconds")
    black_below_level: float = Field(
        8.0, ge=0, le=255, description="a frame whose 99th percentile is below this grey level is black"
    )
    saturated_above_ratio: float = Field(
        0.98, gt=0, le=1, description="a frame with a larger share of pixels at 250 or above is saturated"
    )
    trickling_below_fps: float = Field(2.0, ge=0, le=1000, description="fewer frames per second are a trickle")
    window_s: float = Field(5.0, gt=0, le=600, description="frames per second are measured over so long, seconds")


class SelectionSettings(Part):
    """When a frame of a live source is a new field."""

    still_for_s: float = Field(0.3, ge=0, le=60, description="the stage must have stood still for so long, seconds")
    still_difference_level: float = Field(
        2.0, gt=0, le=255, description="frames that differ less (mean grey levels of the thumbnail) show a still stage"
    )
    overlap_above_ratio: float = Field(
        0.15, ge=0, lt=1, description="a field that shares more of its area with one of those last counted is not new"
    )
    remembered_fields: int = Field(8, ge=1, le=64, description="fields counted last that a new one is compared with")
    look_again_s: float = Field(
        0.5,
        gt=0,
        le=60,
        description="pause between two looks whether the picture of a withheld field is better, seconds",
    )
    peak_above_ratio: float = Field(
        0.75, gt=0, le=1, description="overlapping fields correlate at least so well over their common area"
    )


class QualitySettings(Part):
    """Limits of the quality gate; how the defaults were found stands in docs/capture.md."""

    focus_min: float = Field(0.14, ge=0, description="smallest sharpness, see FieldMeasurements.focus")
    brightness_min_level: float = Field(90.0, ge=0, le=255, description="smallest median grey level of the field")
    brightness_max_level: float = Field(250.0, ge=0, le=255, description="largest median grey level of the field")
    saturated_max_ratio: float = Field(0.5, ge=0, le=1, description="largest share of pixels at 250 or above")
    cast_max_level: float = Field(85.0, ge=0, le=255, description="largest tint of the background in grey levels")
    cells_min: int = Field(3, ge=0, description="fewest counted cells")
    density_max_ratio: float = Field(
        1.2,
        gt=0,
        le=10,
        description="largest share of the field that its red and white cells would cover, each a disc as wide as the "
        "median red cell; above 1 they would not fit side by side",
    )
    red_cell_min_px: float = Field(30.0, gt=0, description="smallest median diameter of the red cells, pixels")
    red_cell_max_px: float = Field(300.0, gt=0, description="largest median diameter of the red cells, pixels")
    red_cell_min_um: float = Field(5.0, gt=0, description="the same in micrometres, where the scale is known")
    red_cell_max_um: float = Field(10.0, gt=0, description="the same in micrometres, where the scale is known")

    @model_validator(mode="after")
    def _order(self) -> Self:
        for low, high in (
            ("brightness_min_level", "brightness_max_level"),
            ("red_cell_min_px", "red_cell_max_px"),
            ("red_cell_min_um", "red_cell_max_um"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"{low} ({getattr(self, low):g}) must be smaller than {high} ({getattr(self, high):g})"
                )
        return self


class SimulatedSettings(Part):
    """The simulated microscope. In the source string: `sim:seed=7,fields=40,fields_per_s=2`."""

    seed: int = Field(1, ge=0, le=2**31 - 1, description="slide, path and noise all follow from it")
    fields: int | None = Field(None, ge=1, description="fields on the slide's path; without end if not given")
    stain: str | None = Field(None, description="stain of the slide; the generator's default if not given")
    stain_intensity_ratio: float | None = Field(
        None, ge=0.3, le=2, description="below 1 stained palely, above 1 too strongly; the generator's if not given"
    )
    stain_tint: tuple[float, float, float] | None = Field(
        None, description="density of the stain in red, green and blue, each .3 to 2; the generator's if not given"
    )
    white_cells_per_field: float | None = Field(None, ge=0, le=3, description="mean; the generator's if not given")
    ambiguous_ratio: float = Field(0.0, ge=0, le=1, description="share of white cells drawn between two types")
    step_ratio: float = Field(1.1, gt=0, le=10, description="stage step as share of the field's side")
    noise_sigma_level: float = Field(2.0, ge=0, le=50, description="sensor noise, grey levels")
    focus_drift_um: float = Field(0.4, ge=0, le=20, description="slow drift of the focus, amplitude in micrometres")
    light_drift_ratio: float = Field(0.06, ge=0, le=0.9, description="slow drift of the lamp, share of its light")
    bad_field_ratio: float = Field(0.0, ge=0, le=1, description="share of fields grossly out of focus")
    journal: Path | None = Field(None, description="JSON lines file: one line a produced frame, with its truth")


class SourceSettings(Part):
    """What to read frames from.

    A plain string is accepted in its place: `0` (camera), `http://...`, `rtsp://...`, a video file, a folder, or
    `sim:seed=7`.
    """

    spec: str = Field(min_length=1, description="camera number, stream URL, video file, folder, or sim:KEY=VALUE,...")
    width_px: int | None = Field(None, ge=16, le=16_384, description="width to ask a camera for and to expect, pixels")
    height_px: int | None = Field(None, ge=16, le=16_384, description="height likewise, pixels")
    fps: float | None = Field(None, gt=0, le=1000, description="frames per second to ask a camera for")
    um_per_px: float | None = Field(None, gt=0, le=100, description="size of a pixel in the specimen, micrometres")
    fields_per_s: float | None = Field(
        None, gt=0, le=1000, description="pace of folder, video and simulation; as fast as asked for if not given"
    )
    every_nth: int = Field(1, ge=1, le=100_000, description="read every n-th frame of a video")
    watch: bool = Field(False, description="folder: keep waiting for new pictures instead of ending")
    settle_s: float = Field(1.0, ge=0, le=600, description="watched file: size must be stable for so long, seconds")
    incomplete_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="watched file that is no whole picture: given up when unchanged so long, seconds",
    )
    locked_s: float = Field(
        600.0,
        ge=0,
        le=86_400,
        description="watched file that cannot be opened: given up when unchanged so long, seconds",
    )
    poll_s: float = Field(0.5, gt=0, le=600, description="watched folder: pause between two looks, seconds")
    link: LinkSettings = LinkSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    simulated: SimulatedSettings = SimulatedSettings()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str):
            value = {"spec": value}
        if isinstance(value, dict) and isinstance(value.get("spec"), str):
            return _with_simulation_options(value)
        return value

    @model_validator(mode="after")
    def _whole_size(self) -> Self:
        if (self.width_px is None) != (self.height_px is None):
            raise ValueError("give width_px and height_px together, or neither")
        return self

    @property
    def frame_um_per_px(self) -> float | None:
        """The scale that every frame of this source has, and so every judgement of one."""
        if self.um_per_px is None and is_simulated(self.spec):
            return SIMULATED_UM_PER_PX
        return self.um_per_px

    @property
    def kind(self) -> SourceKind:
        """What sort of source the text means; a path that is no folder is taken for a video."""
        if self.spec.isdecimal():
            return "camera"
        if URL_PATTERN.match(self.spec):
            return "stream"
        if is_simulated(self.spec):
            return "simulated"
        return "folder" if self.watch or Path(self.spec).is_dir() else "video"


def is_simulated(spec: str) -> bool:
    """Whether the text means the simulated microscope."""
    return spec == SIMULATED_PREFIX or spec.startswith(f"{SIMULATED_PREFIX}:")


TOP_LEVEL_OPTIONS = frozenset({"fields_per_s", "width_px", "height_px", "um_per_px"})


def _with_simulation_options(value: dict[str, Any]) -> dict[str, Any]:
    """`sim:seed=7,fields_per_s=2` -> the same with the options where they belong; what is given explicitly wins."""
    spec = value["spec"].strip()
    if not is_simulated(spec) or ":" not in spec:
        return {**value, "spec": spec}
    inner: dict[str, str] = {}
    outer: dict[str, str] = {}
    for option in filter(None, spec.split(":", 1)[1].split(",")):
        name, equals, text = (part.strip() for part in option.partition("="))
        if not equals or not name or not text:
            raise ValueError(f"'{option}' in '{spec}' is not KEY=VALUE; an example: sim:seed=7,fields_per_s=2")
        (outer if name in TOP_LEVEL_OPTIONS else inner)[name] = text
    given = value.get("simulated") or {}
    if isinstance(given, SimulatedSettings):
        given = given.model_dump(exclude_unset=True)
    return {**outer, **value, "spec": spec, "simulated": {**inner, **given}}
