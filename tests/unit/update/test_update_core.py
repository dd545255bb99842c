"""The update core by hand: a base chain that ends confirmed, and that chain with one edit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from edge_agent.update.proving import STEADY_S
from edge_agent.update.record import MAX_STARTS, Hold, Model, booted
from edge_agent.update.traffic import (
    Ask,
    ChunkFalse,
    ChunkForeign,
    DesiredNotTaken,
    DesiredTaken,
    FollowChunks,
    LinkChanged,
    NoRoom,
    NoteCode,
    Prepared,
    Save,
    Started,
    StopTrial,
    Tick,
    TrialEnded,
    TrustNotTaken,
    Use,
)
from fleet.contract.base import ClockQuality
from fleet.contract.messages import Activation, Desired, UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, UpdateCode
from tests.unit.edge.edge_builders import DEVICE, START
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
    notes,
    of,
    release,
)

S = UpdateState
THREE = release(3)
Step = Callable[[UpdateBench], object]


def links(bench: UpdateBench) -> None:
    bench.tell(LinkChanged(True))


def trusts(bench: UpdateBench) -> None:
    bench.trust(*ALL)


def wants(bench: UpdateBench) -> None:
    bench.want(TWO)


def delivers(bench: UpdateBench) -> None:
    bench.deliver(TWO)


def tries(bench: UpdateBench) -> None:
    bench.end_trial()


def soaks(bench: UpdateBench) -> None:
    bench.wait(11)
    bench.soak(good_evidence())


CHAIN: tuple[tuple[str, Step], ...] = (
    ("link", links),
    ("trust", trusts),
    ("want", wants),
    ("deliver", delivers),
    ("try", tries),
    ("soak", soaks),
)
PATH = [S.IDLE, S.DOWNLOADING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED, S.CONFIRMED]
BEFORE = {S.DOWNLOADING: "deliver", S.TRIAL: "try", S.UNCONFIRMED: "soak"}
"""State -> the step of the chain that would leave it."""


def run(bench: UpdateBench, *, until: str | None = None, instead: dict[str, Step] | None = None) -> UpdateBench:
    """The chain, up to a step (without it), with some steps done otherwise."""
    for name, step in CHAIN:
        if name == until:
            break
        (instead or {}).get(name, step)(bench)
    return bench


def started(**more: Any) -> UpdateBench:
    bench = UpdateBench(**more)
    bench.tell(Started())
    return bench


def reach(state: UpdateState) -> UpdateBench:
    """A bench whose update stands in a state that is under way."""
    bench = started()
    match state:
        case S.WAITING:
            run(bench, until="deliver")
            bench.tell(LinkChanged(False))
        case S.VERIFIED:
            run(bench, instead={"want": lambda b: b.want(TWO, activation=Activation.DOWNLOAD)}, until="try")
        case _:
            run(bench, until=BEFORE[state])
    assert bench.state is state
    return bench


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


def _false_chunks(bench: UpdateBench) -> None:
    for _ in range(SETTINGS.max_bad_chunks):
        bench.tell(ChunkFalse(TWO.chunks[0].sha256))


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


def _soak(**more: Any) -> Step:
    def step(bench: UpdateBench) -> None:
        bench.wait(1)
        bench.soak(good_evidence(**more))

    return step


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
    Edit("deliver", _false_chunks, S.REJECTED, UpdateCode.HASH),
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
    Edit("soak", _soak(differ=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _soak(faults=3), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _soak(new_white=0), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _soak(uncertain=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _soak(withheld=4), S.ROLLED_BACK, UpdateCode.QUALITY),
    Edit("soak", _soak(new_ms=deque([50.0])), S.ROLLED_BACK, UpdateCode.QUALITY),
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


# --- cancel, supersede, go back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED])
def test_in_each_state_it_can_be_cancelled(state: UpdateState) -> None:
    for wish in (None, release(1)):
        bench = reach(state)
        found = bench.want(wish, 5, rollout="r-2")
        assert bench.stands(S.CANCELLED)
        assert (bench.in_use, bench.trying, bench.following) == ((model(1), None), None, False)
        assert bench.disk.slots == {model(1).key}
        assert bool(of(StopTrial, found)) == (state is S.TRIAL)


@pytest.mark.parametrize("state", [S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED])
def test_in_each_state_another_release_takes_over(state: UpdateState) -> None:
    bench = reach(state)
    links(bench)
    bench.want(THREE, 5, rollout="r-2")
    assert bench.told[-2:] == ["superseded:", "downloading:"]
    assert bench.in_use == (model(1), None)
    bench.deliver(THREE)
    bench.end_trial()
    soaks(bench)
    assert bench.core.record.confirmed == model(3)


def test_back_to_the_model_before_is_instant_and_needs_no_trial() -> None:
    bench = run(started())
    bench.want(release(1), 2, rollout="r-2")
    record = bench.core.record
    assert (record.state, record.confirmed, record.previous) == (S.CONFIRMED, model(1), model(2))
    assert bench.in_use == (model(1), None)
    assert bench.told[-1] == "confirmed:"


def test_the_model_before_that_cannot_be_opened_any_more_leaves_the_one_that_reads() -> None:
    bench = run(started())
    bench.disk.faults = {"use": deque([UpdateCode.LOAD])}
    bench.want(release(1), 2, rollout="r-2")
    record = bench.core.record
    assert (record.state, record.code, record.confirmed) == (S.ROLLED_BACK, UpdateCode.LOAD, model(2))
    assert bench.in_use == (model(2), None)


def test_the_model_before_waits_for_its_time() -> None:
    bench = run(started())
    bench.want(release(1), 2, not_before=START + timedelta(seconds=bench.at_s + 60))
    assert bench.core.record.confirmed == model(2)
    bench.wait(61)
    assert bench.core.record.confirmed == model(1)


def test_a_release_below_the_floor_is_refused_and_the_floor_follows_the_confirmed_models() -> None:
    bench = run(started())
    bench.want(THREE, 2)
    bench.deliver(THREE)
    bench.end_trial()
    soaks(bench)
    assert bench.core.record.floor == 2
    bench.want(release(1), 3, rollout="r-3")
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.ROLLBACK)
    bench.want(TWO, 4, rollout="r-4")
    assert bench.core.record.confirmed == model(2), "the one before is above the floor"


# --- what is wanted -------------------------------------------------------------------------------------------------


def test_a_lower_version_is_ignored_and_the_same_one_again_does_nothing() -> None:
    bench = run(started(), until="deliver")
    assert notes(bench.want(THREE, 0 + 1)) == []
    bench.want(TWO, 7)
    assert notes(bench.want(THREE, 6)) == [NoteCode.DESIRED_OLD]
    assert bench.core.record.candidate == TWO


def test_what_runs_and_is_wanted_is_in_place() -> None:
    bench = started()
    links(bench)
    bench.want(release(1))
    assert (bench.state, bench.told) == (S.CONFIRMED, ["confirmed:"])
    bench.want(release(1), 2)
    assert bench.told == ["confirmed:"]


def test_a_wish_before_its_trust_waits_for_it_and_offline_it_waits_without_end() -> None:
    bench = started()
    wants(bench)
    bench.wait(10_000)
    assert bench.stands(S.IDLE)
    links(bench)
    bench.wait(SETTINGS.trust_wait_s - 1)
    assert bench.stands(S.IDLE)
    trusts(bench)
    assert bench.stands(S.DOWNLOADING)


def test_a_release_whose_trust_comes_too_late_is_taken_all_the_same() -> None:
    bench = run(started(), until="trust")
    wants(bench)
    bench.wait(SETTINGS.trust_wait_s + 1)
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.STALE)
    trusts(bench)
    assert bench.stands(S.DOWNLOADING)


def test_trust_that_had_been_refused_is_forgotten_when_it_is_good_again() -> None:
    bench = run(started())
    bench.tell(TrustNotTaken(UpdateCode.SIGNATURE, "wrong key"))
    assert (bench.state, bench.core.record.about) == (S.REJECTED, None)
    bench.tell(TrustNotTaken(UpdateCode.SIGNATURE, "wrong key"))
    assert bench.told.count("rejected:E_SIG") == 1
    trusts(bench)
    assert bench.told[-2:] == ["idle:", "confirmed:"]


def test_trust_that_has_expired_says_so_only_while_something_is_to_be_installed() -> None:
    bench = run(started())
    bench.tell(TrustNotTaken(UpdateCode.STALE, "expired"))
    assert bench.stands(S.CONFIRMED)
    other = run(started(), until="want")
    other.want(release(7))
    other.tell(TrustNotTaken(UpdateCode.STALE, "expired"))
    assert (other.state, other.core.record.code) == (S.REJECTED, UpdateCode.STALE)


def wish(version: int, rollout: str = "r-2") -> Desired:
    return Desired(device=DEVICE, version=version, release=THREE.digest, counter=3, rollout=rollout,
                   activation=Activation.ACTIVATE)  # fmt: skip


def test_an_older_list_is_noted_and_no_more_unless_a_wish_waits_for_a_newer_one() -> None:
    older = TrustNotTaken(UpdateCode.ROLLBACK, "older")
    bench = run(started())
    assert notes(bench.tell(older)) == [NoteCode.TRUST_REFUSED]
    bench.wait(10_000)
    assert bench.stands(S.CONFIRMED)
    bench.want(release(7), 2)
    bench.tell(older)
    assert bench.stands(S.CONFIRMED), "the newer one may be on its way"
    bench.wait(SETTINGS.trust_wait_s + 1)
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.ROLLBACK)
    bench.trust(*ALL, release(7), metadata="list-2")
    assert bench.stands(S.DOWNLOADING)


def test_an_older_list_that_a_newer_one_follows_in_time_is_forgotten() -> None:
    bench = started()
    links(bench)
    wants(bench)
    bench.tell(TrustNotTaken(UpdateCode.ROLLBACK, "older"))
    trusts(bench)
    bench.wait(SETTINGS.trust_wait_s + 1)
    assert bench.stands(S.DOWNLOADING)
    assert "rejected:E_ROLLBACK" not in bench.told


def test_a_wish_that_waits_for_good_trust_is_told_with_its_release_and_rollout() -> None:
    bench = run(started())
    bench.tell(TrustNotTaken(UpdateCode.STALE, "expired", wish(2), "w"))
    record = bench.core.record
    assert (record.state, record.code, record.about, record.concerns) == (
        S.REJECTED, UpdateCode.STALE, Model(digest=THREE.digest, counter=3), "r-2",
    )  # fmt: skip
    bench.tell(TrustNotTaken(UpdateCode.STALE, "expired", wish(2), "w"))
    assert bench.told.count("rejected:E_STALE") == 1
    trusts(bench)
    bench.tell(DesiredTaken(wish(2)))
    assert bench.stands(S.DOWNLOADING)
    assert bench.core.record.refused is None


def test_expired_trust_says_nothing_of_a_wish_that_is_known_or_that_asks_for_what_runs() -> None:
    bench = run(started())
    bench.tell(TrustNotTaken(UpdateCode.STALE, "expired", wish(1), "w"))
    runs = wish(2).model_copy(update={"release": TWO.digest, "counter": 2})
    bench.tell(TrustNotTaken(UpdateCode.STALE, "expired", runs, "w"))
    assert bench.stands(S.CONFIRMED)


def test_the_rollout_before_does_not_answer_for_a_wish_that_nobody_vouches_for() -> None:
    bench = run(started())
    bench.tell(DesiredNotTaken(UpdateCode.SIGNATURE, "x", "one"))
    record = bench.core.record
    assert (record.state, record.about, record.rollout, record.concerns) == (S.REJECTED, None, "r-1", None)
    trusts(bench)
    bench.tell(DesiredNotTaken(UpdateCode.SIGNATURE, "x", "one"))
    assert bench.told.count("rejected:E_SIG") == 1, "the same wish, looked at again"
    bench.tell(DesiredNotTaken(UpdateCode.SIGNATURE, "x", "two"))
    assert bench.told.count("rejected:E_SIG") == 2, "another wish: a newer refusal"
    wants(bench)
    assert (bench.state, bench.core.record.concerns) == (S.CONFIRMED, "r-1")


def test_bad_trust_does_not_disturb_what_good_trust_has_started() -> None:
    bench = run(started(), until="deliver")
    assert notes(bench.tell(TrustNotTaken(UpdateCode.SIGNATURE, "x"))) == [NoteCode.TRUST_REFUSED]
    assert notes(bench.tell(DesiredNotTaken(UpdateCode.SIGNATURE, "x"))) == [NoteCode.DESIRED_REFUSED]
    assert bench.stands(S.DOWNLOADING)


def test_after_a_start_nothing_is_activated_before_fresh_trust_has_come() -> None:
    disk = reach(S.VERIFIED).disk
    again = started(disk=disk)
    links(again)
    again.want(TWO, 2)
    again.wait(1000)
    assert again.stands(S.VERIFIED)
    trusts(again)
    assert again.stands(S.TRIAL)


def test_what_expired_while_a_release_waited_for_its_turn_stops_it_and_is_taken_up_again() -> None:
    bench = reach(S.VERIFIED)
    bench.trust(*ALL, life_s=50)
    bench.wait(60)
    bench.want(TWO, 2)
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.STALE)
    assert model(2).key in bench.disk.slots, "what is here is not fetched again"
    trusts(bench)
    assert bench.stands(S.TRIAL)


def test_a_clock_that_was_never_set_judges_no_expiry_and_no_time_of_activation() -> None:
    bench = started()
    bench.quality = ClockQuality.UNSYNCED
    bench.start()
    bench.trust(*ALL, life_s=-100)
    bench.want(TWO, not_before=START + timedelta(days=1000))
    bench.deliver(TWO)
    assert bench.stands(S.TRIAL)


def test_activation_keeps_its_times() -> None:
    bench = run(started(), until="want")
    bench.want(TWO, not_before=START + timedelta(seconds=100), not_after=START + timedelta(seconds=200))
    bench.deliver(TWO)
    assert bench.stands(S.VERIFIED)
    bench.wait(101)
    assert bench.stands(S.TRIAL)
    late = run(started(at_s=500.0), until="want")
    late.want(TWO, not_after=START + timedelta(seconds=200))
    late.deliver(TWO)
    late.wait(1)
    assert late.stands(S.VERIFIED)


# --- repetition -----------------------------------------------------------------------------------------------------


def test_what_stops_an_update_in_passing_is_tried_again_ever_more_rarely_and_not_for_ever() -> None:
    bench = run(started(), until="deliver")
    pauses = []
    for _ in range(SETTINGS.max_attempts - 1):
        bench.wait(SETTINGS.chunk_timeout_s + 1)
        assert bench.stands(S.FAILED)
        waited = 0
        while bench.state is S.FAILED and waited < 1000:
            waited += 10
            bench.wait(10)
        pauses.append(waited)
    assert pauses == [40, 80]
    bench.wait(SETTINGS.chunk_timeout_s + 1)
    for _ in range(100):
        bench.wait(1000)
    trusts(bench)
    bench.want(TWO, 2)
    assert (bench.state, bench.core.record.attempts) == (S.FAILED, SETTINGS.max_attempts)
    bench.want(TWO, 3, rollout="r-2")
    assert bench.stands(S.DOWNLOADING), "a person has offered it anew"


def test_a_repeated_attempt_goes_on_with_the_chunks_that_are_here() -> None:
    bench = run(started(), until="deliver")
    bench.deliver(TWO, but=1)
    bench.wait(SETTINGS.chunk_timeout_s + 1)
    bench.wait(SETTINGS.retry_first_s + 1)
    assert (bench.state, len(bench.asked[-1])) == (S.DOWNLOADING, 1)


@pytest.mark.parametrize("code", [c for c in UpdateCode if CODE_FAMILIES[c] is CodeFamily.FINAL])
def test_what_is_wrong_with_the_release_is_not_tried_again_in_that_rollout(code: UpdateCode) -> None:
    bench = run(started(), until="try")
    bench.end_trial(code, "told to")
    steps = len(bench.told)
    bench.wait(100_000)
    bench.want(TWO, 2)
    bench.trust(*ALL, metadata="list-2")
    assert (bench.state, len(bench.told)) == (S.FAILED, steps)
    bench.want(TWO, 3, rollout="r-2")
    assert bench.stands(S.DOWNLOADING)


def test_what_smells_of_an_attack_is_not_tried_again_until_the_signed_list_is_another() -> None:
    bench = run(started(), until="deliver")
    _false_chunks(bench)
    bench.want(TWO, 2, rollout="r-2")
    trusts(bench)
    assert (bench.state, bench.core.record.code) == (S.REJECTED, UpdateCode.HASH)
    bench.trust(*ALL, metadata="list-2")
    assert bench.stands(S.DOWNLOADING)


def test_a_failed_release_does_not_keep_another_one_off() -> None:
    bench = run(started(), until="try")
    bench.end_trial(UpdateCode.SELF_TEST, "told to")
    bench.want(THREE, 2)
    assert bench.core.record.candidate == THREE


def test_a_failed_release_that_is_taken_back_is_over() -> None:
    bench = run(started(), instead={"soak": _soak(differ=4)})
    assert bench.stands(S.ROLLED_BACK)
    assert bench.core.record.soak is not None
    bench.want(release(1), 2)
    assert (bench.state, bench.core.record.code) == (S.CONFIRMED, None)


# --- delivery -------------------------------------------------------------------------------------------------------


def test_chunks_are_received_only_while_they_are_waited_for() -> None:
    bench = started()
    seen = [bench.following]
    run(bench, until="deliver")
    seen.append(bench.following)
    bench.deliver(TWO)
    seen.append(bench.following)
    assert seen == [False, True, False]


def test_bytes_of_installed_models_are_not_asked_for() -> None:
    bench = run(started(), until="want")
    shared = release(2, shared=release(1).chunks[0].sha256)
    bench.trust(release(1), shared, metadata="list-2")
    bench.want(shared)
    assert [len(missing) for missing in bench.asked] == [2]


def test_chunks_that_turn_out_damaged_are_asked_for_again() -> None:
    bench = run(started(), until="deliver")
    bench.deliver(TWO, but=1)
    bench.tell(Prepared(key(TWO), frozenset({TWO.chunks[0].sha256})))
    assert (bench.state, bench.following, bench.asked[-1]) == (S.DOWNLOADING, True, (TWO.chunks[0].sha256,))


def test_a_false_or_an_unsigned_chunk_is_told_once_with_its_code_and_stops_nothing() -> None:
    bench = run(started(), until="deliver")
    for _ in range(SETTINGS.max_bad_chunks - 1):
        bench.tell(ChunkFalse(TWO.chunks[0].sha256))
        bench.tell(ChunkForeign("f" * 64))
    assert bench.told == ["downloading:", "downloading:E_HASH", "downloading:E_CHUNK"]
    assert bench.core.record.code is None, "nothing has been refused"
    bench.wait(SETTINGS.need_first_s)
    assert len(bench.asked[-1]) == 3, "asked for again"
    bench.deliver(TWO)
    assert bench.stands(S.TRIAL)


def test_what_disturbs_a_delivery_is_not_told_again_after_a_kill() -> None:
    bench = run(started(), until="deliver")
    bench.tell(ChunkFalse(TWO.chunks[0].sha256))
    again = started(disk=bench.disk)
    links(again)
    trusts(again)
    again.tell(ChunkFalse(TWO.chunks[0].sha256))
    assert [told for told in again.told if told.endswith("E_HASH")] == ["downloading:E_HASH"]


def test_a_burst_of_unsigned_chunks_between_two_questions_refuses_nothing() -> None:
    bench = run(started(), until="deliver")
    for number in range(20 * SETTINGS.max_bad_chunks):
        bench.tell(ChunkForeign(f"{number:064x}"))
    assert bench.stands(S.DOWNLOADING)


def test_unsigned_chunks_beside_the_wanted_ones_refuse_nothing() -> None:
    many = release(2, chunks=14)
    bench = run(started(), until="trust")
    bench.trust(release(1), many)
    bench.want(many)
    for left in range(13, 0, -1):
        bench.wait(SETTINGS.need_last_s)
        for _ in range(SETTINGS.max_bad_chunks):
            bench.tell(ChunkForeign("f" * 64))
        bench.deliver(many, but=left)
    assert bench.stands(S.DOWNLOADING)


def test_chunks_of_other_signed_releases_are_on_their_way_to_others_and_nothing_is_told() -> None:
    bench = run(started(), until="deliver")
    for _ in range(3):
        bench.wait(SETTINGS.need_last_s)
        for chunk in release(3).chunks * SETTINGS.max_bad_chunks:
            assert bench.tell(ChunkForeign(chunk.sha256)) == []
    assert (bench.state, bench.told) == (S.DOWNLOADING, ["downloading:"])


def test_chunks_of_a_signed_release_that_this_program_cannot_read_are_no_sign_of_an_attack() -> None:
    bench = started()
    bench.unread = frozenset(f"{number:064x}" for number in range(SETTINGS.max_bad_chunks))
    run(bench, until="deliver")
    for _ in range(3):
        bench.wait(SETTINGS.need_last_s)
        for sha256 in bench.unread:
            assert bench.tell(ChunkForeign(sha256)) == []
    assert (bench.state, bench.told) == (S.DOWNLOADING, ["downloading:"])


def test_an_event_that_the_core_does_not_know_is_an_error_and_not_nothing() -> None:
    with pytest.raises(AssertionError):
        started().tell("something new")  # type: ignore[arg-type]


def test_what_chunks_belong_to_is_not_judged_before_a_list_is_known() -> None:
    disk = run(started(), until="deliver").disk
    again = started(disk=disk)
    links(again)
    for _ in range(3):
        again.wait(SETTINGS.need_last_s)
        for _ in range(SETTINGS.max_bad_chunks):
            again.tell(ChunkForeign("f" * 64))
    assert again.stands(S.DOWNLOADING)


@pytest.mark.parametrize("activation", list(Activation)[:2])
@pytest.mark.parametrize("state", [S.DOWNLOADING, S.WAITING, S.VERIFIED])
def test_a_start_with_an_expired_list_tells_what_was_ready_and_takes_it_up_again_with_a_fresh_one(
    state: UpdateState, activation: Activation
) -> None:
    bench = run(started(), until="trust")
    bench.trust(*ALL)
    bench.want(TWO, activation=Activation.DOWNLOAD)
    if state is not S.DOWNLOADING:
        bench.deliver(TWO)
    if state is S.WAITING:
        bench.reading = True
        bench.wait(1)
        bench.want(TWO, 2)
    assert bench.stands(state)
    again = started(disk=bench.disk)
    again.tell(TrustNotTaken(UpdateCode.STALE, "timestamp.json is expired"))
    links(again)
    again.tell(TrustNotTaken(UpdateCode.STALE, "timestamp.json is expired"))
    again.want(TWO, 3, activation=activation)
    again.deliver(TWO)
    again.wait(1)
    assert (again.state, again.core.record.code) == (S.REJECTED, UpdateCode.STALE)
    assert again.told[-1] == "rejected:E_STALE"
    told, asked = len(again.told), len(again.asked)
    again.wait(SETTINGS.trust_wait_s + 1)
    assert len(again.told) == told, "once"
    trusts(again)
    assert again.stands(S.TRIAL if activation is Activation.ACTIVATE else S.VERIFIED)
    assert len(again.asked) == asked, "what is here is not fetched a second time"


def test_answers_about_a_release_that_is_not_wanted_any_more_are_noted_and_nothing_else() -> None:
    bench = started()
    links(bench)
    for late in (Prepared(key(TWO), frozenset()), NoRoom(key(TWO), "x"), TrialEnded(key(TWO), None, "")):
        assert notes(bench.tell(late)) == [NoteCode.ANSWER_LATE]
    assert bench.stands(S.IDLE)


def test_progress_is_told_in_chunks() -> None:
    bench = run(started(), until="deliver")
    bench.deliver(TWO, but=1)
    progress = bench.core.progress
    assert progress is not None
    assert (progress.chunks, progress.missing) == (3, 1)


def test_without_a_connection_nothing_is_asked() -> None:
    bench = run(started(), until="link")
    trusts(bench)
    wants(bench)
    bench.wait(100)
    assert (bench.state, bench.asked) == (S.WAITING, [])
    found = bench.tell(LinkChanged(True))
    assert of(FollowChunks, found)
    assert of(Ask, found)


def test_a_tick_at_rest_does_nothing() -> None:
    bench = run(started())
    assert bench.tell(Tick()) == []
