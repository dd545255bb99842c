"""The update core by hand: a base chain that ends confirmed, and that chain with one edit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from edge_agent.update.proving import STEADY_S
from edge_agent.update.record import MAX_STARTS, Hold, booted
from edge_agent.update.traffic import (
    Ask,
    ChunkForeign,
    DesiredNotTaken,
    NoRoom,
    Save,
    TrustNotTaken,
    Use,
)
from fleet.contract.messages import UpdateState
from fleet.contract.release import UpdateCode
from tests.unit.edge.edge_builders import START
from tests.unit.update.update_bench import (
    ALL,
    SETTINGS,
    TWO,
    Disk,
    Killed,
    UpdateBench,
    good_evidence,
    key,
    model,
    of,
    release,
)
from tests.unit.update.update_chain import (
    PATH,
    THREE,
    S,
    Step,
    delivers,
    false_chunks,
    links,
    reach,
    run,
    soaks,
    soaks_with,
    started,
    tries,
    trusts,
    wants,
    wish,
)

# --- the base chain -------------------------------------------------------------------------------------------------


def test_a_release_goes_all_the_way() -> None:
    bench = run(started())
    assert bench.sees == PATH
    assert bench.told == ["downloading:", "verified:", "trial:", "unconfirmed:", "confirmed:"]
    record = bench.core.record
    assert (record.confirmed, record.previous, record.candidate, record.floor) == (model(2), model(1), None, 1)
    assert bench.in_use == (model(2), None)
    assert bench.disk.slots == {model(1).key, model(2).key}
    assert not bench.following


def test_the_record_is_saved_before_anything_is_done_that_it_speaks_of() -> None:
    bench = run(started())
    uses = [at for at, action in enumerate(bench.done) if isinstance(action, Use)]
    for at in uses:
        action = bench.done[at]
        assert isinstance(action, Use)
        before = of(Save, bench.done[:at])[-1].record
        assert before.running == action.model
    assert bench.disk.saved == bench.core.record.model_copy(update={"untold": bench.disk.saved.untold})


def test_the_new_model_reads_beside_the_old_one_only_until_it_is_confirmed() -> None:
    bench = run(started(), until="soak")
    assert bench.uses(model(2), shadow=model(1))
    soaks(bench)
    assert bench.uses(model(2))


# --- error in X -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """One step done otherwise (or a fault of the disk), and what must come of it."""

    step: str
    do: Step | None
    state: UpdateState
    code: UpdateCode | None
    faults: dict[str, list[Any]] = field(default_factory=dict)
    setup: Step | None = None

    @property
    def name(self) -> str:
        return f"{self.step}-{self.code}-{self.state}"


def _unsigned_chunks(bench: UpdateBench) -> None:
    """In the place of every chunk that is asked for, whenever it is asked for."""
    for _ in range(4):
        bench.wait(SETTINGS.need_last_s)
        for number in range(SETTINGS.max_bad_chunks):
            bench.tell(ChunkForeign(f"ff{number:02x}".ljust(64, "0")))


def _slow(bench: UpdateBench) -> None:
    bench.deliver(TWO, but=1)
    bench.wait(SETTINGS.chunk_timeout_s + 1)


def _dripping(bench: UpdateBench) -> None:
    for _ in range(31):
        bench.core._arriving.delivery.progress_s = 1000.0 + bench.at_s  # a byte now and then: never silent, never done
        bench.wait(10)


def _no_room_for_long(bench: UpdateBench) -> None:
    bench.tell(NoRoom(key(TWO), "full"))
    bench.wait(SETTINGS.download_deadline_s + 1)


def _withdrawn(bench: UpdateBench) -> None:
    bench.trust(release(1), metadata="list-2")


def test_a_release_that_is_withdrawn_is_never_gone_back_to() -> None:
    bench = run(started())
    bench.trust(TWO, THREE, metadata="list-2")
    bench.want(release(1), 2, rollout="r-2")
    bench.wait(SETTINGS.trust_wait_s + 1)
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.STALE)
    assert bench.uses(model(2))
    trusts(bench)
    assert bench.uses(model(1)), "listed again"


def _trial(code: UpdateCode) -> Step:
    return lambda bench: bench.end_trial(code, "told to")


def _hanging_trial(bench: UpdateBench) -> None:
    bench.wait(SETTINGS.trial_timeout_s + 31)


def _idle_for_long(bench: UpdateBench) -> None:
    bench.soak(good_evidence(1))
    bench.wait(SETTINGS.soak_limit_s + 1)


ERRORS = (
    Edit("trust", lambda b: b.tell(TrustNotTaken(UpdateCode.SIGNATURE, "x")), S.REJECTED, UpdateCode.SIGNATURE),
    Edit("trust", lambda b: (b.want(TWO), b.tell(TrustNotTaken(UpdateCode.ROLLBACK, "x")), b.wait(31)),
         S.REJECTED, UpdateCode.ROLLBACK),
    Edit("trust", lambda b: (b.tell(TrustNotTaken(UpdateCode.ROLLBACK, "x", wish(1), "w")), b.wait(31)),
         S.REJECTED, UpdateCode.ROLLBACK),
    Edit("want", lambda b: b.tell(DesiredNotTaken(UpdateCode.SIGNATURE, "x")), S.REJECTED, UpdateCode.SIGNATURE),
    Edit("want", lambda b: b.want(release(9, schema="ahs.bundle/9")), S.REJECTED, UpdateCode.INCOMPATIBLE,
         setup=lambda b: b.trust(release(9, schema="ahs.bundle/9"))),
    Edit("want", lambda b: (b.want(release(7)), b.wait(31)), S.REJECTED, UpdateCode.STALE),
    Edit("want", lambda b: (b.want(TWO), b.wait(31)), S.REJECTED, UpdateCode.STALE,
         setup=lambda b: (b.trust(*ALL, life_s=1.0), b.wait(40))),
    Edit("deliver", false_chunks, S.REJECTED, UpdateCode.HASH),
    Edit("deliver", _unsigned_chunks, S.REJECTED, UpdateCode.CHUNK),
    Edit("deliver", _slow, S.FAILED, UpdateCode.SLOW),
    Edit("deliver", _dripping, S.FAILED, UpdateCode.SLOW),
    Edit("deliver", _no_room_for_long, S.FAILED, UpdateCode.SPACE),
    Edit("deliver", _withdrawn, S.REJECTED, UpdateCode.STALE),
    *(Edit("deliver", delivers, S.REJECTED, code, {"assemble": [code]})
      for code in (UpdateCode.HASH, UpdateCode.LENGTH, UpdateCode.SIGNATURE, UpdateCode.PATH)),
    *(Edit("deliver", delivers, S.FAILED, code, {"assemble": [code]})
      for code in (UpdateCode.INCOMPATIBLE, UpdateCode.LOAD)),
    *(Edit("try", _trial(code), S.FAILED, code)
      for code in (UpdateCode.LOAD, UpdateCode.SELF_TEST, UpdateCode.PARITY, UpdateCode.LATENCY, UpdateCode.TIMEOUT)),
    Edit("try", _withdrawn, S.FAILED, UpdateCode.STALE),
    Edit("soak", _withdrawn, S.ROLLED_BACK, UpdateCode.STALE),
    Edit("try", _hanging_trial, S.FAILED, UpdateCode.TIMEOUT),
    Edit("try", tries, S.ROLLED_BACK, UpdateCode.LOAD, {"use": [UpdateCode.LOAD]}),
    Edit("soak", soaks_with(differ=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", soaks_with(faults=3), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", soaks_with(new_white=0), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", soaks_with(uncertain=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", soaks_with(withheld=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", soaks_with(new_ms=deque([50.0])), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _idle_for_long, S.ROLLED_BACK, UpdateCode.TIMEOUT),
)  # fmt: skip


@pytest.mark.parametrize("edit", ERRORS, ids=lambda edit: edit.name)
def test_error_in_each_step_ends_where_the_last_good_model_reads(edit: Edit) -> None:
    bench = started()
    bench.disk.faults = {act: deque(answers) for act, answers in edit.faults.items()}
    run(bench, until=edit.step)
    if edit.setup is not None:
        edit.setup(bench)
    assert edit.do is not None
    edit.do(bench)
    record = bench.core.record
    assert (record.state, record.code) == (edit.state, edit.code)
    assert bench.told[-1] == f"{edit.state}:{edit.code}"
    assert bench.in_use == (model(1), None)
    assert (record.confirmed, record.candidate) == (model(1), None)
    assert not bench.following
    assert bench.trying is None


def test_every_code_is_somewhere_in_the_table_of_errors() -> None:
    assert {edit.code for edit in ERRORS} == set(UpdateCode) - {UpdateCode.UNKNOWN}


# --- killed in X ----------------------------------------------------------------------------------------------------


def _saves_of_the_chain() -> int:
    return run(started()).saves


@pytest.mark.parametrize("after", range(1, _saves_of_the_chain() + 1))
def test_killed_after_each_save_and_before_the_act_it_goes_on_and_nothing_is_told_twice(after: int) -> None:
    bench = started(kill_at_save=after)
    with pytest.raises(Killed):
        run(bench)
    disk: Disk = bench.disk
    disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
    again = started(disk=disk, at_s=100.0)
    # The broker sends trust and wish at each connection.
    links(again)
    trusts(again)
    wants(again)
    if again.state is S.DOWNLOADING:
        again.deliver(TWO)
    if again.state is S.TRIAL:
        again.end_trial()
    if again.state is S.UNCONFIRMED:
        soaks(again)
    assert again.stands(S.CONFIRMED)
    assert again.in_use == (model(2), None)
    path = ["downloading:", "verified:", "trial:", "unconfirmed:", "confirmed:"]
    assert again.told in (path, ["downloading:", "waiting:", *path]), "after a start the link is not there at once"
    assert [number for number, _ in disk.steps] == list(range(1, len(again.told) + 1))


@pytest.mark.parametrize("state", [S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED])
def test_killed_in_each_state_it_does_again_what_the_state_asks_for(state: UpdateState) -> None:
    disk = reach(state).disk
    disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
    again = started(disk=disk)
    links(again)
    assert again.state is (S.DOWNLOADING if state is S.WAITING else state)
    assert {
        S.DOWNLOADING: again.following,
        S.WAITING: again.following,
        S.VERIFIED: again.in_use == (model(1), None),
        S.TRIAL: again.trying == model(2),
        S.UNCONFIRMED: again.in_use == (model(2), model(1)),
    }[state]


@pytest.mark.parametrize(("state", "outcome"), [(S.TRIAL, S.FAILED), (S.UNCONFIRMED, S.ROLLED_BACK)])
def test_a_model_that_brings_the_agent_down_again_and_again_is_dropped(
    state: UpdateState, outcome: UpdateState
) -> None:
    disk = reach(state).disk
    for _ in range(SETTINGS.max_boots):
        disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
        assert disk.saved.state is state
        started(disk=disk)
    disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
    again = started(disk=disk)
    assert (again.state, again.core.record.code) == (outcome, UpdateCode.LOAD)
    assert again.in_use == (model(1), None)
    links(again)
    trusts(again)
    assert again.state is outcome, "and it is not tried again in this rollout"


def test_evenings_on_which_the_workstation_is_switched_off_say_nothing_against_a_model() -> None:
    disk = reach(S.UNCONFIRMED).disk
    for evening in range(2 * SETTINGS.max_boots):
        disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
        again = started(disk=disk)
        assert (disk.saved.state, disk.saved.boots) == (S.UNCONFIRMED, 1)
        if evening % 2:
            again.wait(STEADY_S)
        else:
            again.soak(good_evidence(1))
        assert disk.saved.boots == 0
    assert again.stands(S.UNCONFIRMED), "one field after each start is no evidence yet"


def test_a_model_that_reads_a_field_and_then_brings_the_agent_down_is_dropped_too() -> None:
    disk = reach(S.UNCONFIRMED).disk
    for _ in range(MAX_STARTS + 1):
        disk.saved = booted(disk.saved, at=START, max_boots=SETTINGS.max_boots)
        again = started(disk=disk)
        if again.stands(S.UNCONFIRMED):
            again.soak(good_evidence(1))
    assert (again.state, again.core.record.code) == (S.ROLLED_BACK, UpdateCode.LOAD)


# --- hang in X ------------------------------------------------------------------------------------------------------


def test_hang_in_downloading_asks_again_ever_more_rarely_and_only_for_what_is_missing() -> None:
    bench = run(started(), until="deliver")
    assert [len(missing) for missing in bench.asked] == [3]
    asked_at = []
    for second in range(1, 50):
        if of(Ask, bench.wait(1)):
            asked_at.append(second)
    assert asked_at == [5, 15, 35]
    bench.deliver(TWO, but=1)
    bench.wait(5)
    assert [len(missing) for missing in bench.asked][-1] == 1


def test_hang_in_waiting_for_the_link_is_no_failure_however_long() -> None:
    bench = reach(S.WAITING)
    assert bench.core.record.hold is Hold.LINK
    for _ in range(100):
        bench.wait(1000)
    assert bench.stands(S.WAITING)
    links(bench)
    bench.deliver(TWO)
    assert bench.stands(S.TRIAL)


def test_hang_in_waiting_for_room_looks_again_and_goes_on_with_room() -> None:
    bench = started()
    bench.disk.faults = {"prepare": deque(["full", "still full"])}
    run(bench, until="deliver")
    assert (bench.state, bench.core.record.hold) == (S.WAITING, Hold.SPACE)
    bench.wait(SETTINGS.space_retry_s)
    assert bench.stands(S.WAITING)
    bench.wait(SETTINGS.space_retry_s)
    assert (bench.state, bench.following) == (S.DOWNLOADING, True)


def test_hang_in_waiting_for_the_slide_ends_with_the_slide_or_at_the_limit() -> None:
    for until in ("quiet", "limit"):
        bench = started()
        bench.reading = True
        bench.wait(0)
        run(bench, until="try")
        assert (bench.state, bench.core.record.hold) == (S.WAITING, Hold.BUSY)
        bench.wait(SETTINGS.wait_for_slide_s - 1)
        assert bench.stands(S.WAITING)
        bench.reading = until == "limit"
        bench.wait(2)
        assert bench.stands(S.TRIAL)


def test_hang_in_verified_waits_for_its_turn_and_no_deadline_takes_it_away() -> None:
    bench = reach(S.VERIFIED)
    bench.wait(100_000)
    assert bench.stands(S.VERIFIED)
    bench.want(TWO, 2)
    assert bench.stands(S.TRIAL)


def test_hang_in_unconfirmed_too_little_evidence_is_not_yet_and_never_a_pass() -> None:
    bench = run(started(), until="soak")
    bench.wait(500)
    for poor in (good_evidence(3), good_evidence(4, both_named=3), good_evidence(4, both_named=0, differ=0)):
        bench.soak(poor)
        assert bench.stands(S.UNCONFIRMED)
    bench.soak(good_evidence(4))
    assert bench.stands(S.CONFIRMED)
