"""A model that can be exchanged while fields are read, with the one before beside it as a shadow.

The shadow reads every field as well, which about doubles the time of a field: it is there only while a new model is
not yet confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from edge_agent.inference.engine import BundleEngine, EngineFacts
from fleet.contract.cells import ModelRef
from models.runtime import ModelRuntimeError
from models.runtime.results import FieldAnalysis, ImageRGB

log = structlog.get_logger()

Compare = Callable[[ImageRGB, FieldAnalysis, FieldAnalysis], None]
"""Takes a picture, what the new model says of it, and what the shadow says."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told of what both models make of a field.

    Attributes:
        compare: of each field that both have read.
        failed: of each field that the new model could not read.
    """

    compare: Compare
    failed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Pair:
    engine: BundleEngine
    shadow: BundleEngine | None = None
    watcher: Watcher | None = None


class Switch:
    """Implements `Engine`; safe to use from several threads.

    Args:
        engine: what answers at first.
    """

    def __init__(self, engine: BundleEngine) -> None:
        self._pair = _Pair(engine)

    @property
    def model(self) -> ModelRef:
        """The one that answers now."""
        return self._pair.engine.model

    @property
    def facts(self) -> EngineFacts:
        """Of the one that answers now."""
        return self._pair.engine.facts

    @property
    def shadow(self) -> ModelRef | None:
        """The one beside it."""
        shadow = self._pair.shadow
        return None if shadow is None else shadow.model

    def for_field(self) -> Turn:
        """What answers now, for one field."""
        return Turn(self._pair)

    def analyse(self, image: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        """One field by what answers now."""
        return self.for_field().analyse(image, min_score)

    def use(self, engine: BundleEngine, *, shadow: BundleEngine | None = None, watcher: Watcher | None = None) -> None:
        """Exchanges the model. A field in hand is finished as it began; with it goes the last use of what was before.

        Args:
            engine: answers from now on.
            shadow: reads the same fields.
            watcher: told of both.
        """
        # Not closed: the field in hand may be about to use it. Nobody holds it any longer than that.
        self._pair = _Pair(engine, shadow, watcher)

    def held(self, digest: str) -> BundleEngine | None:
        """The engine of this digest, if it is one of the two that are open."""
        pair = self._pair
        return next((e for e in (pair.engine, pair.shadow) if e is not None and e.model.digest == digest), None)

    def close(self) -> None:
        """Lets go of both."""
        pair = self._pair
        for engine in (pair.engine, pair.shadow):
            if engine is not None:
                engine.close()


class Turn:
    """One field's model. `model` is the one whose analysis was given, once it was given."""

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self.model: ModelRef = pair.engine.model

    def for_field(self) -> Turn:
        """Itself."""
        return self

    def analyse(self, image: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        """One field. What an unconfirmed model cannot read, the one before it reads.

        Raises:
            ModelRuntimeError: as `Pipeline.analyse`, when nobody can.
        """
        shadow, watcher = self._pair.shadow, self._pair.watcher
        if shadow is None:
            return self._pair.engine.analyse(image, min_score)
        try:
            new = self._pair.engine.analyse(image, min_score)
        except ModelRuntimeError as exc:
            analysis = shadow.analyse(image, min_score)  # raises as well where it is the picture's fault
            log.warning("field_read_by_shadow", error=str(exc))
            self.model = shadow.model
            if watcher is not None:
                watcher.failed()
            return analysis
        try:
            old = shadow.analyse(image, min_score)
        except ModelRuntimeError as exc:
            log.warning("shadow_failed", error=str(exc))
            return new
        if watcher is not None:
            watcher.compare(image, new, old)
        return new
