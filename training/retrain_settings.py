"""What is retrained, from what."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from training.config import Part


class RetrainSettings(Part):
    """`training/configs/retrain.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    bundle: Path = Field(description="current bundle: its detector stays, its model is the champion")
    base: Path | None = Field(None, description="base set of the current bundle; null: found by its embedder")
    recipe: Path = Field(description="bundle recipe: base cells, frozen cells")
    embedder: Path = Field(description="training configuration of the embedder")
    refit: Path = Field(description="how labels count in the head")
    gate: Path = Field(description="what the gate tolerates")
    site_ratio: float = Field(gt=0, lt=1, description="share of the site's cells in an epoch")
    int8: bool = True
    range_cells: int = Field(ge=4, description="cells for the int8 ranges")
