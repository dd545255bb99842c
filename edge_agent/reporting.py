"""What the device says of itself, from the model that answers and the record of its update."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from edge_agent.inference.engine import Engine, EngineFacts
from edge_agent.problems import Problems
from edge_agent.update.core import UpdateCore
from edge_agent.uplink.traffic import NO_UPDATES, DeviceReport, UpdateReport
from fleet.contract.messages import SelfTestSummary, SoakFigures, UpdateState

SOAK_S = 5.0
"""Figures that grow with each field are told no more often."""


class Reporter:
    """Makes the report of this moment; the same object's worth as long as nothing has changed.

    Args:
        engine: what answers.
        facts: of it.
        problems: what is wrong.
        core: of the update; None without updates.
    """

    def __init__(
        self,
        engine: Engine,
        facts: Callable[[], EngineFacts | None],
        problems: Problems,
        core: UpdateCore | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._facts = facts
        self._problems = problems
        self._monotonic = monotonic
        self._proved: tuple[EngineFacts, SelfTestSummary | None] | None = None
        self._soak: tuple[float, SoakFigures | None] | None = None
        self.core = core

    def __call__(self) -> DeviceReport:
        """The report."""
        degraded = tuple(problem.code for problem in self._problems.now())[:32]
        return DeviceReport(self._engine.model, self._self_test(), degraded=degraded, update=self._update())

    def _update(self) -> UpdateReport:
        if self.core is None:
            return NO_UPDATES
        record = self.core.record
        running = self._engine.model.digest
        models = [record.running, record.confirmed, *([] if record.previous is None else [record.previous])]
        counter = next((model.counter for model in models if model.digest == running), 0)
        pending = record.about
        before = record.before
        return UpdateReport(
            state=record.state,
            code=None if record.code is None else record.code.value,
            counter=counter,
            previous=None if before is None else before.digest,
            desired_version=0 if record.desired is None else record.desired.version,
            pending=None if pending is None else pending.digest,
            rollout=record.concerns,
            soak=self._soaked(self.core),
        )

    def _soaked(self, core: UpdateCore) -> SoakFigures | None:
        if core.record.state is not UpdateState.UNCONFIRMED:
            self._soak = None
            return core.record.soak
        now_s = self._monotonic()
        if self._soak is None or now_s - self._soak[0] >= SOAK_S:
            self._soak = (now_s, core.soak)
        return self._soak[1]

    def _self_test(self) -> SelfTestSummary | None:
        facts = self._facts()
        if facts is None:
            return None
        if self._proved is None or self._proved[0] is not facts:
            self._proved = (facts, summary(facts))
        return self._proved[1]


def summary(facts: EngineFacts) -> SelfTestSummary | None:
    """The last self-test of a model; its age as of now."""
    if facts.self_test is None:
        return None
    return SelfTestSummary(
        passed=facts.self_test.passed,
        age_s=max(0.0, (datetime.now(UTC) - facts.loaded_at).total_seconds()),
        failures=tuple(check.name for check in facts.self_test.failures)[:32],
    )
