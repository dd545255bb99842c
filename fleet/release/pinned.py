"""What evidence is held against: the gate's limits and the frozen sets, as they ship with the program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from fleet.release.gate import GatePlan, PinnedSet

GATE_FILE = Path(__file__).with_name("gate.yaml")
FROZEN_SETS_FILE = Path(__file__).with_name("frozen_sets.yaml")


class _FrozenSets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: tuple[PinnedSet, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Pinned:
    """Limits that no evidence may exceed, and the frozen sets that it may rest on."""

    plan: GatePlan
    frozen_sets: tuple[PinnedSet, ...]

    def frozen_set(self, sha256: str) -> PinnedSet | None:
        """The set with this hash; None for one that does not count."""
        return next((known for known in self.frozen_sets if known.sha256 == sha256), None)


@cache
def pinned() -> Pinned:
    """Read once; a file that ships and cannot be read is a broken installation, and raises."""
    plan = GatePlan.model_validate(yaml.safe_load(GATE_FILE.read_text(encoding="utf-8")))
    known = _FrozenSets.model_validate(yaml.safe_load(FROZEN_SETS_FILE.read_text(encoding="utf-8")))
    return Pinned(plan, known.sets)
