"""Whether the second half of the loop really happened: figures against limits, and the page a person would open."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from fleet.contract.http import RolloutDetail
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState
from fleet.local.learning import Learned
from fleet.local.summary import LoopSummary, Step
from fleet.local.system import LocalSystem
from models.bundle import read_bundle


def step(name: str, passed: bool, figure: object, limit: str) -> Step:
    """One thing that had to happen."""
    return Step(name=name, passed=passed, figure=str(figure), limit=limit)


def loop_summary(learned: Learned) -> LoopSummary:
    """The second half as it is written down."""
    rollout = learned.rollout
    members = rollout.members if rollout else ()
    return LoopSummary(
        reader=learned.reader,
        opinions_read=learned.opinions,
        cells_labelled=learned.labels,
        model_before=learned.model_before,
        model_after=learned.model_after,
        release_digest=learned.digest,
        release_counter=learned.counter,
        release_bytes=learned.release_bytes,
        refit_s=round(learned.refit_s, 2),
        rollout_state=rollout.summary.state.value if rollout else "",
        rollout_reason=rollout.summary.reason if rollout else "",
        rollout_waves=rollout.summary.waves if rollout else 0,
        device_states={m.device: f"{m.state.value}{f' {m.code}' if m.code else ''}" for m in members},
        reported=learned.reported,
        unsure_cells=len(learned.unsure),
        named_before=learned.named_before,
        named_after=learned.named_after,
        later_unsure_cells=len(learned.later),
        later_named_before=learned.later_before,
        later_named_after=learned.later_after,
    )


def loop_steps(learned: Learned, system: LocalSystem) -> Iterator[Step]:
    """A label has become a model that runs on every device."""
    devices = len(system.agents)
    yield step("cells labelled over REST", learned.labels > 0, learned.labels, "≥ 1")
    old = read_bundle(system.edge_bundle).digest
    yield step("the refitted model is another one", learned.digest not in ("", old), learned.digest[:19], old[:19])
    yield step("its release is signed and stored", learned.counter == 2, learned.counter, "release 2")
    rollout = learned.rollout
    state = rollout.summary.state if rollout else RolloutState.UNKNOWN
    waves = rollout.summary.waves if rollout else 0
    done = state is RolloutState.COMPLETED and waves == 2
    yield step("rolled out in two waves", done, f"{state.value}, {waves} waves", "completed, 2 waves")
    running = sum(digest == learned.digest for digest in learned.reported.values())
    yield step("devices report it as running", running == devices, running, f"all {devices}")
    confirmed = sum(m.state is UpdateState.CONFIRMED for m in rollout.members) if rollout else 0
    yield step("proven on live fields and confirmed", confirmed == devices, confirmed, f"all {devices}")
    if not learned.truthful and not learned.unsure:
        return  # real pictures may hold no cell that only one of the models is unsure of
    better = learned.named_after > learned.named_before
    figure = f"{learned.named_before} -> {learned.named_after} of {len(learned.unsure)}"
    yield step("cells unsure before are classified", better, figure, "more than before")
    if learned.truthful:
        better = learned.later_after > learned.later_before
        figure = f"{learned.later_before} -> {learned.later_after} of {len(learned.later)}"
        yield step("so are cells that it was not taught", better, figure, "more than before")


def bad_model_steps(learned: Learned, system: LocalSystem) -> Iterator[Step]:
    """A bad model was stopped where it should be."""
    rollout = learned.rollout
    state = rollout.summary.state if rollout else RolloutState.UNKNOWN
    stopped = rollout is not None and state is RolloutState.ABORTED and rollout.summary.wave == 0
    yield step("the bad model was stopped in the first wave", stopped, state.value, "aborted in wave 0")
    bench = [member for member in rollout.members if member.wave == 0] if rollout else []
    codes = sorted({member.code or "" for member in bench})
    yield step("the device said why", any(codes), ", ".join(codes), "a code")
    later = [member.device for member in rollout.members if member.wave > 0 and member.offered] if rollout else []
    yield step("no device beyond the first wave was offered it", not later, len(later), "0")
    old = read_bundle(system.edge_bundle).digest
    on_old = sum(system.running_digest(agent) == old for agent in system.agents.values())
    yield step("every device runs the old model", on_old == len(system.agents), on_old, f"all {len(system.agents)}")
    said = rollout is not None and reason_on_page(system, rollout)
    yield step("the rollout page says why", said, rollout.summary.reason if rollout else "", "the reason")


def reason_on_page(system: LocalSystem, rollout: RolloutDetail) -> bool:
    """Signs in as a person does and looks for the reason on the rollout's page."""
    with httpx.Client(base_url=system.cloud_url, follow_redirects=True, timeout=10.0) as browser:
        browser.post("/sign-in", data={"token": system.admin_token}, headers={"origin": system.cloud_url})
        page = browser.get(f"/rollouts/{rollout.summary.id}")
    codes = {member.code for member in rollout.members if member.code}
    return page.status_code == 200 and bool(codes) and any(code in page.text for code in codes)
