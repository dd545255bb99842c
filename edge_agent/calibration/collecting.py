"""Good fields of a source, measured: each place once, no dead or repeated picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.calibration.rules import GoodField
from edge_agent.capture.errors import SourceEnded, SourceLost, SourceTimeout
from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import AnalysisSummary
from edge_agent.capture.measure import look, measure, thumbnail
from edge_agent.capture.selection import FieldSelector, Selection
from edge_agent.capture.settings import FreshnessSettings, SelectionSettings
from edge_agent.capture.source import FrameSource
from edge_agent.inference.engine import Engine
from models.runtime import ModelRuntimeError

READ_S = 1.0


@dataclass(slots=True)
class Collected:
    """What came of looking.

    Attributes:
        fields: the good ones.
        passed_over: reason -> pictures that were not used.
    """

    fields: list[GoodField] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


class Collector:
    """Reads a source until there are enough fields.

    Args:
        engine: finds the cells.
        selection, freshness: limits, as the agent applies them.
        wanted: fields.
        step: told of each good field.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        selection: SelectionSettings,
        freshness: FreshnessSettings,
        wanted: int,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._selector = FieldSelector(selection)
        self._freshness = freshness
        self._wanted = wanted
        self._step = step
        self._seen: set[int] = set()
        self.found = Collected()

    def read(self, source: FrameSource) -> Collected:
        """To the end of the source, or until there are enough. A live source is waited for.

        Raises:
            SourceNotFound: it is not there.
        """
        with source:
            while len(self.found.fields) < self._wanted:
                try:
                    frame = source.read(READ_S)
                except (SourceTimeout, SourceLost):
                    continue
                except SourceEnded:
                    break
                if not source.live or self._is_new_field(frame):
                    self._take(frame)
        return self.found

    def _is_new_field(self, frame: Frame) -> bool:
        at_s = frame.captured_monotonic_s
        said = self._selector.offer(frame.source_ref, thumbnail(frame.image), at_s, is_better=lambda: False)
        if said is Selection.NEW_FIELD:
            self._selector.counted(frame.source_ref)
        return said is Selection.NEW_FIELD

    def _take(self, frame: Frame) -> None:
        seen, limits = look(frame.image), self._freshness
        if seen.digest in self._seen:
            self.found.passed_over["repeated"] += 1
        elif seen.bright_level < limits.black_below_level:
            self.found.passed_over["black"] += 1
        elif seen.saturated_ratio > limits.saturated_above_ratio:
            self.found.passed_over["saturated"] += 1
        else:
            self._seen.add(seen.digest)
            self._measure(frame)

    def _measure(self, frame: Frame) -> None:
        try:
            analysis = self._engine.analyse(frame.image)
        except ModelRuntimeError:
            self.found.passed_over["not_analysed"] += 1
            return
        self.found.fields.append(GoodField(measure(frame.image), AnalysisSummary.of(analysis), frame.um_per_px))
        self._step()
