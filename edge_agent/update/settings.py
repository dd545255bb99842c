"""Settings of the model update: times, limits, and what a new model must show."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

DAY_S = 86_400


class UpdateSettings(BaseModel):
    """When a new model is fetched, tried, believed and given up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factory: Path | None = Field(
        None, description="factory kit (folder with bundle.zip and trust.json); without it there are no updates"
    )
    # delivery
    need_first_s: float = Field(5.0, gt=0, le=600, description="first pause before missing chunks are asked for again")
    need_last_s: float = Field(60.0, gt=0, le=3600, description="longest pause between two such questions, seconds")
    trust_wait_s: float = Field(60.0, gt=0, le=DAY_S, description="longest wait for the trust of a release, seconds")
    chunk_timeout_s: float = Field(120.0, gt=0, le=DAY_S, description="no chunk for so long is too slow, seconds")
    download_deadline_s: float = Field(3600.0, gt=0, le=7 * DAY_S, description="longest download while connected")
    max_bad_chunks: int = Field(20, ge=1, le=10_000, description="false chunks of a release before it is refused")
    space_retry_s: float = Field(60.0, gt=0, le=DAY_S, description="pause between two looks for room on the disk")
    # repetition
    max_attempts: int = Field(5, ge=1, le=100, description="attempts at one release when something passing stops it")
    retry_first_s: float = Field(60.0, gt=0, le=DAY_S, description="pause before the second attempt, seconds")
    retry_last_s: float = Field(3600.0, gt=0, le=7 * DAY_S, description="longest pause between two attempts, seconds")
    # activation
    wait_for_slide_s: float = Field(900.0, ge=0, le=DAY_S, description="longest wait for the slide being read")
    quiet_s: float = Field(30.0, ge=0, le=3600, description="no field for so long: no slide is being read, seconds")
    trial_timeout_s: float = Field(180.0, gt=0, le=3600, description="longest trial of a new model, seconds")
    trial_memory_bytes: int = Field(
        8 * 1024**3, ge=256 * 1024**2, description="address space that the trial's process may use"
    )
    max_boots: int = Field(3, ge=1, le=100, description="unclean starts with an unconfirmed model before it is dropped")
    # soak
    soak_fields: int = Field(20, ge=1, le=100_000, description="live fields that both models must have read")
    soak_s: float = Field(120.0, ge=0, le=7 * DAY_S, description="shortest time beside the old model, seconds")
    soak_limit_s: float = Field(7 * DAY_S, gt=0, le=90 * DAY_S, description="longest time without enough evidence")
    min_white_cells: int = Field(10, ge=1, le=100_000, description="white cells that both models must have named")
    max_disagreement: float = Field(0.2, ge=0, le=1, description="share of them that may be named differently")
    max_count_change: float = Field(0.5, ge=0, description="largest relative change in the number of white cells")
    max_uncertain_rise: float = Field(0.3, ge=0, le=1, description="by how much the uncertain share may grow")
    max_withheld_rise: float = Field(0.2, ge=0, le=1, description="by how much the withheld share may grow")
    max_latency_ratio: float = Field(3.0, gt=0, description="median time of a field, new over old, at most")
