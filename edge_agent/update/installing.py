"""Models of the slots opened and put into use, with the shadow and the comparison beside a new one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from edge_agent.errors import BadArtefact
from edge_agent.inference.engine import BundleEngine, open_engine
from edge_agent.inference.switch import Switch, Watcher
from edge_agent.update.errors import ArchiveRefused
from edge_agent.update.record import Key, Model
from edge_agent.update.slots_files import Slots
from edge_agent.update.soak import Evidence
from edge_agent.update.trial import TrialResult
from fleet.contract.cells import Decision
from fleet.contract.release import UpdateCode
from models.runtime import SelfTestReport
from models.runtime.results import FieldAnalysis, ImageRGB

Judge = Callable[[ImageRGB, tuple[FieldAnalysis, FieldAnalysis]], tuple[Decision, Decision]]
"""What triage makes of each of two analyses of one picture."""

log = structlog.get_logger()


class ModelInUse:
    """The switch, as the update uses it.

    Args:
        switch: what the recorder reads with.
        slots: where models lie.
        judge: triage, for the shares beside the new model.
        on_use: told of each model that comes into use.
    """

    def __init__(self, switch: Switch, slots: Slots, judge: Judge, on_use: Callable[[], None]) -> None:
        self.switch = switch
        self._slots = slots
        self._judge = judge
        self._on_use = on_use
        self._lock = threading.Lock()
        self._evidence: Evidence | None = None
        self._tried: tuple[Key, SelfTestReport] | None = None
        self._in_use: tuple[Key, Key | None] | None = None

    @property
    def evidence(self) -> Evidence | None:
        """A copy of what both models have shown so far; None without a shadow."""
        with self._lock:
            return None if self._evidence is None else self._evidence.copy()

    def tried(self, model: Model, result: TrialResult) -> None:
        """Keeps the report of a trial, to be shown with the model."""
        if result.report is not None:
            self._tried = (model.key, result.report)

    def use(self, model: Model, shadow: Model | None) -> None:
        """Lets a model answer. Doing it again changes nothing.

        Raises:
            ArchiveRefused: it cannot be opened; what answered before still does.
        """
        wanted = (model.key, None if shadow is None else shadow.key)
        if self._in_use == wanted:
            return
        engine = self._open(model)
        beside = None if shadow is None else self._shadow(shadow)
        evidence = Evidence() if beside is not None else None
        with self._lock:
            self._evidence = evidence
        watcher = None if evidence is None else Watcher(self._compare(evidence), self._failed(evidence))
        self.switch.use(engine, shadow=beside, watcher=watcher)
        self._in_use = wanted
        log.info("model_in_use", model=f"{engine.model.name} {engine.model.version}", digest=engine.model.digest,
                 counter=model.counter, shadow=shadow is not None)  # fmt: skip
        self._on_use()

    def _open(self, model: Model) -> BundleEngine:
        held = self.switch.held(model.digest)
        if held is not None:
            return held
        proven = self._tried[1] if self._tried is not None and self._tried[0] == model.key else None
        try:
            return open_engine(
                self._slots.archive(model),
                threads=self.switch.facts.threads,
                self_test=False,
                digest=model.digest,
                proven=proven,
            )
        except BadArtefact as exc:
            raise ArchiveRefused(UpdateCode.LOAD, str(exc)) from exc

    def _shadow(self, model: Model) -> BundleEngine | None:
        """Without its shadow a new model is never confirmed, but it is not its own fault."""
        try:
            return self._open(model)
        except ArchiveRefused as exc:
            log.error("shadow_not_opened", error=exc.text)
            return None

    def _compare(self, evidence: Evidence) -> Callable[[ImageRGB, FieldAnalysis, FieldAnalysis], None]:
        def compare(image: ImageRGB, new: FieldAnalysis, old: FieldAnalysis) -> None:
            decisions = self._judge(image, (new, old))
            with self._lock:
                evidence.add(new, old, decisions)

        return compare

    def _failed(self, evidence: Evidence) -> Callable[[], None]:
        def failed() -> None:
            with self._lock:
                evidence.faults += 1

        return failed
