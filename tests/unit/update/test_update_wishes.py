"""What the update core makes of wishes and trust: cancelled, replaced, too old, too early, repeated."""

from __future__ import annotations

from collections import deque
from datetime import timedelta

import pytest

from edge_agent.update.record import Model
from edge_agent.update.traffic import (
    DesiredNotTaken,
    DesiredTaken,
    NoteCode,
    StopTrial,
    TrustNotTaken,
)
from fleet.contract.base import ClockQuality
from fleet.contract.messages import UpdateState
from fleet.contract.release import CODE_FAMILIES, CodeFamily, UpdateCode
from tests.unit.edge.edge_builders import START
from tests.unit.update.update_bench import (
    ALL,
    SETTINGS,
    TWO,
    model,
    notes,
    of,
    release,
)
from tests.unit.update.update_chain import (
    THREE,
    S,
    false_chunks,
    links,
    reach,
    run,
    soaks,
    soaks_with,
    started,
    trusts,
    wants,
    wish,
)

# --- cancel, supersede, go back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.DOWNLOADING, S.WAITING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED])
def test_in_each_state_it_can_be_cancelled(state: UpdateState) -> None:
    for wanted in (None, release(1)):
        bench = reach(state)
        found = bench.want(wanted, 5, rollout="r-2")
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
    false_chunks(bench)
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
    bench = run(started(), instead={"soak": soaks_with(differ=4)})
    assert bench.stands(S.ROLLED_BACK)
    assert bench.core.record.soak is not None
    bench.want(release(1), 2)
    assert (bench.state, bench.core.record.code) == (S.CONFIRMED, None)
