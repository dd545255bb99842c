"""What a rollout does next, as tables."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fleet.contract.messages import Activation, SoakFigures, UpdateState
from fleet.contract.release import RolloutState, Thresholds
from fleet.rollout.gates import WAIVABLE, lacking, waived_by, why_not_waived
from fleet.rollout.members import Member, Standing
from fleet.rollout.rules import (
    MarkStraggler,
    Move,
    Offer,
    Return,
    RolloutView,
    decide,
    gates_of,
    readable,
)
from fleet.rollout.states import RolloutEvent
from tests.unit.rollout.rollout_builders import GOOD, LIMITS, at, member, offline, soak, view, waiting

S, E, R = UpdateState, RolloutEvent, RolloutState
ACTIVATE, DOWNLOAD = Activation.ACTIVATE, Activation.DOWNLOAD


def moved(found: RolloutView, seconds: float = 10) -> tuple[RolloutEvent, str] | None:
    """Event and reason of the one move that is decided; None when nothing moves."""
    moves = [action for action in decide(found, at(seconds)) if isinstance(action, Move)]
    assert len(moves) <= 1
    return (moves[0].event, moves[0].reason) if moves else None


def test_an_approved_rollout_opens_its_first_wave() -> None:
    assert decide(view(waiting("bench-1", 0), state=R.APPROVED), at(0)) == [
        Move(E.OPEN_WAVE, "the first wave opens", 0)
    ]


def test_the_open_wave_is_told_to_activate_and_the_others_to_download() -> None:
    found = view(
        waiting("bench-1", 0, told=False),
        waiting("bench-2", 1, told=False),
        waiting("bench-3", 1, told=True),
    )
    assert decide(found, at(0)) == [Offer("bench-1", ACTIVATE), Offer("bench-2", DOWNLOAD)]


def test_a_release_without_accepted_evidence_is_not_even_downloaded_beyond_the_first_wave() -> None:
    members = (waiting("bench-1", 0, told=False), waiting("bench-2", 1, told=False))
    for evidence in (None, False):
        assert decide(view(*members, evidence_accepted=evidence), at(0)) == [Offer("bench-1", ACTIVATE)]


def test_an_offline_device_is_offered_on_its_return_and_one_that_never_reported_is_not() -> None:
    away = offline("bench-1", offered_at=None, told=False)
    assert decide(view(away), at(0)) == [Offer("bench-1", DOWNLOAD)]
    back = member("bench-1", offered_at=None)
    assert decide(view(back), at(0)) == [Offer("bench-1", ACTIVATE)]
    assert decide(view(replace(back, known=False)), at(0)) == []


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((member(state=S.FAILED, code="E_SELFTEST"),), "wave 0: bench-1 E_SELFTEST"),
        ((member(state=S.REJECTED, code="E_INCOMPAT"),), "wave 0: bench-1 E_INCOMPAT"),
        ((member(state=S.ROLLED_BACK),), "wave 0: bench-1 rolled_back"),
        ((member(state=S.WAITING, code="E_SIG"),), "wave 0: bench-1 E_SIG"),
        ((waiting("bench-2", 1, state=S.FAILED, code="E_HASH"),), "wave 1: bench-2 E_HASH"),
    ],
)
def test_a_bad_device_stops_the_rollout_and_the_reason_names_it(members: tuple[Member, ...], expected: str) -> None:
    assert moved(view(*members)) == (E.ABORT, expected)


@pytest.mark.parametrize("code", ["E_SPACE", "E_SLOW", "E_INCOMPAT", "E_LOAD", None])
def test_a_device_that_was_only_told_to_download_takes_nobody_back(code: str | None) -> None:
    first, later = member("a-1", state=S.TRIAL), waiting("a-2", 1, state=S.FAILED, code=code)
    assert decide(view(first, later), at(10)) == []
    rests = view(member("a-1", state=S.CONFIRMED), later, state=R.SOAKING)
    assert moved(rests, 60) == (E.OPEN_WAVE, "wave 0 has passed")
    gate = next(gate for gate in gates_of(view(later, wave=1), at(10)) if gate.name == "bad")
    assert gate.figure == 0


@pytest.mark.parametrize("state", [S.FAILED, S.REJECTED])
@pytest.mark.parametrize("code", ["E_SPACE", "E_SLOW", "E_STALE"])
def test_what_a_device_tries_again_is_undecided_until_the_step_deadline_and_pauses_then(
    state: UpdateState, code: str
) -> None:
    found = view(member(state=state, code=code))
    assert decide(found, at(300)) == []
    why = f"auto: wave 0: insufficient evidence: bench-1 is online and {state.value} ({code})"
    assert moved(found, 301) == (E.PAUSE, why)
    assert decide(view(member("a-1", state=S.CONFIRMED), member("a-2", state=state, code=code)), at(10)) == []


def test_a_model_that_was_taken_back_or_hangs_is_bad_whatever_the_code() -> None:
    assert moved(view(member(state=S.ROLLED_BACK, code="E_SLOW"))) == (E.ABORT, "wave 0: bench-1 E_SLOW")
    assert moved(view(member(state=S.FAILED, code="E_TIMEOUT"))) == (E.ABORT, "wave 0: bench-1 E_TIMEOUT")
    assert moved(view(member(state=S.TRIAL, code="E_SLOW")), 301) == (E.ABORT, "wave 0: bench-1 E_TIMEOUT")


def test_even_a_paused_rollout_stops_for_a_bad_device() -> None:
    assert moved(view(member(state=S.FAILED, code="E_LOAD"), state=R.PAUSED)) == (E.ABORT, "wave 0: bench-1 E_LOAD")
    assert moved(view(member(state=S.TRIAL), state=R.PAUSED)) is None


@pytest.mark.parametrize(
    ("bad", "tried", "min_errors", "stops"),
    [(1, 10, 2, False), (2, 10, 2, True), (1, 10, 1, False), (3, 20, 1, False), (4, 20, 1, True), (1, 1, 5, True)],
)
def test_a_rollout_stops_from_the_larger_of_the_least_number_and_the_share(
    bad: int, tried: int, min_errors: int, stops: bool
) -> None:
    members = [member(f"a-{i}", state=S.FAILED if i < bad else S.TRIAL, code=None) for i in range(tried)]
    found = view(*members, thresholds=LIMITS.model_copy(update={"p_ok": 0.5, "min_errors": min_errors}))
    assert (moved(found) is not None) == stops


def test_a_device_that_has_not_begun_does_not_water_the_share_down() -> None:
    idle = [member(f"idle-{i}") for i in range(90)]
    bad = [member(f"bad-{i}", state=S.FAILED) for i in range(3)]
    tried = [member(f"tried-{i}", state=S.TRIAL) for i in range(7)]
    assert moved(view(*idle, *bad, *tried)) is not None


def test_a_device_that_hangs_in_a_step_is_a_failed_one_but_not_while_it_is_offline() -> None:
    hangs = member(state=S.TRIAL)
    assert moved(view(hangs), 300) is None
    assert moved(view(hangs), 301) == (E.ABORT, "wave 0: bench-1 E_TIMEOUT")
    assert moved(view(offline("bench-1", state=S.TRIAL)), 301) is None
    assert moved(view(replace(hangs, online_since=at(200))), 301) is None
    assert moved(view(replace(hangs, since=at(200))), 301) is None


def test_a_device_that_hangs_with_a_code_of_security_is_no_mere_timeout() -> None:
    hangs, well = member("a-1", state=S.TRIAL, code="E_SIG"), member("a-2", state=S.CONFIRMED)
    limits = LIMITS.model_copy(update={"p_ok": 0.3, "p_error": 1.0, "min_errors": 2})
    assert moved(view(hangs, well, thresholds=limits), 301) == (E.ABORT, "wave 0: a-1 E_SIG")


def test_a_quality_that_is_red_stops_the_rollout_with_the_figure() -> None:
    worse = soak(disagreement_ratio=0.4)
    event, reason = moved(view(member(state=S.UNCONFIRMED, soak=worse))) or (None, "")
    assert event is E.ABORT
    assert reason == "wave 0: disagreement 40% of white cells named differently"


@pytest.mark.parametrize(
    "changes",
    [{"uncertain_ratio": 0.6}, {"withheld_ratio": 0.5}, {"latency_ratio": 4.0}],
)
def test_what_is_worse_than_the_devices_own_baseline_stops_it_too(changes: dict[str, Any]) -> None:
    assert (moved(view(member(state=S.CONFIRMED, soak=soak(**changes)))) or (None,))[0] is E.ABORT


@pytest.mark.parametrize("name", [name for name in SoakFigures.model_fields if name not in {"fields", "white_cells"}])
def test_a_figure_that_is_missing_is_insufficient_evidence(name: str) -> None:
    found = view(member(state=S.CONFIRMED, soak=soak(**{name: None})))
    assert decide(found, at(300)) == []
    event, reason = moved(found, 301) or (None, "")
    assert event is E.PAUSE
    assert "insufficient evidence: no figure yet" in reason


def test_a_device_that_had_the_release_already_needs_no_soak_and_is_counted_apart() -> None:
    had_it = member("a-1", state=S.CONFIRMED, soak=None, ran_before=True)
    assert moved(view(had_it)) == (E.SOAK, "wave 0 is confirmed and rests")
    texts = {gate.name: gate.text for gate in gates_of(view(had_it, member("a-2", state=S.CONFIRMED)), at(0))}
    assert texts["fields"] == "at least 20 fields on each confirmed device; 1 more had the release already"
    assert decide(view(had_it, member("a-2", state=S.CONFIRMED, soak=None)), at(10)) == []
    assert decide(view(had_it, member("a-2", state=S.TRIAL)), at(10)) == []
    assert decide(view(replace(had_it, ran_before=False)), at(10)) == []
    failing = replace(had_it, standing=replace(had_it.standing, self_test_passed=False))
    assert (moved(view(failing)) or (None,))[0] is E.ABORT


def test_a_straggler_is_held_against_the_quality_limits_too() -> None:
    worse = member("a-2", 0, S.CONFIRMED, straggler=True, soak=soak(white_cells=500, disagreement_ratio=0.4))
    well = member("a-1", 0, S.CONFIRMED)
    assert (moved(view(well, worse)) or (None,))[0] is E.ABORT
    failing = replace(worse, standing=Standing(S.CONFIRMED, None, GOOD, self_test_passed=False))
    assert moved(view(well, failing)) == (E.ABORT, "wave 0: self_test 1 devices fail their self-test")
    late = member("a-3", 0, offered_at=None, straggler=True)
    assert decide(view(well, failing, late, state=R.COMPLETED), at(10)) == []


def test_what_other_waves_have_shown_proves_nothing_for_a_wave_that_has_not() -> None:
    shown, silent = member("a-1", 0, S.CONFIRMED), member("a-2", 1, S.CONFIRMED, soak=soak(disagreement_ratio=None))
    gate = next(gate for gate in gates_of(view(shown, silent, wave=1), at(0)) if gate.name == "disagreement")
    assert not gate.row.passed


def test_few_fields_stop_nothing_and_pass_nothing() -> None:
    few = soak(fields=9, disagreement_ratio=0.9)
    assert decide(view(member(state=S.UNCONFIRMED, soak=few)), at(10)) == []
    assert decide(view(member(state=S.CONFIRMED, soak=soak(fields=9))), at(10)) == []


def test_the_disagreement_of_a_wave_is_that_of_all_its_cells() -> None:
    one = member("a-1", state=S.CONFIRMED, soak=soak(white_cells=10, disagreement_ratio=0.5))
    two = member("a-2", state=S.CONFIRMED, soak=soak(white_cells=90, disagreement_ratio=0.0))
    gate = next(gate for gate in gates_of(view(one, two), at(0)) if gate.name == "disagreement")
    assert gate.figure == pytest.approx(0.05)


def test_a_wave_that_is_confirmed_rests_then_the_next_opens_then_it_is_complete() -> None:
    first, second = member("bench-1", 0, S.CONFIRMED), waiting("bench-2", 1)
    assert moved(view(first, second)) == (E.SOAK, "wave 0 is confirmed and rests")
    resting = view(first, second, state=R.SOAKING, soaking_since=at(10))
    assert moved(resting, 69) is None
    assert decide(resting, at(70)) == [Move(E.OPEN_WAVE, "wave 0 has passed", 1)]
    last = view(first, member("bench-2", 1, S.CONFIRMED), state=R.SOAKING, wave=1)
    assert moved(last, 60) == (E.COMPLETE, "every wave is confirmed")


@pytest.mark.parametrize("evidence", [None, False])
def test_without_accepted_evidence_a_rollout_never_leaves_its_first_wave(evidence: bool | None) -> None:
    resting = view(
        member("bench-1", 0, S.CONFIRMED), waiting("bench-2", 1), state=R.SOAKING, evidence_accepted=evidence
    )
    assert moved(resting, 60) == (
        E.PAUSE,
        "auto: the release has no accepted evaluation: it does not leave the first wave",
    )
    alone = view(member("bench-1", 0, S.CONFIRMED), state=R.SOAKING, evidence_accepted=evidence)
    assert moved(alone, 60) == (E.COMPLETE, "every wave is confirmed")


def test_an_online_device_that_is_not_decided_holds_the_wave_up() -> None:
    limits = LIMITS.model_copy(update={"p_ok": 0.5})
    members = (member("a-1", state=S.CONFIRMED), member("a-2", state=S.TRIAL))
    assert decide(view(*members, thresholds=limits), at(10)) == []


def test_an_offline_device_holds_the_wave_up_until_the_deadline_and_is_a_straggler_then() -> None:
    found = view(member("a-1", state=S.CONFIRMED), offline("a-2", state=S.TRIAL))
    assert decide(found, at(3600)) == []
    assert decide(found, at(3601)) == [MarkStraggler("a-2")]
    later = view(member("a-1", state=S.CONFIRMED), offline("a-2", state=S.TRIAL, straggler=True))
    assert moved(later) == (E.SOAK, "wave 0 is confirmed and rests")


def test_where_a_share_is_enough_an_offline_device_is_not_waited_for_and_becomes_a_straggler() -> None:
    limits = LIMITS.model_copy(update={"p_ok": 0.5})
    found = view(member("a-1", state=S.CONFIRMED), offline("a-2"), thresholds=limits)
    assert decide(found, at(10)) == [MarkStraggler("a-2")]


def test_a_straggler_is_offered_on_its_return_whatever_wave_is_open() -> None:
    late = member("a-2", 0, offered_at=None, straggler=True)
    first, second = member("a-1", 0, S.CONFIRMED), member("a-3", 1, S.TRIAL)
    for state, wave in ((R.RUNNING, 0), (R.RUNNING, 1), (R.SOAKING, 1)):
        found = view(first, late, second, state=state, wave=wave)
        assert decide(found, at(10)) == [Offer("a-2", ACTIVATE)], (state, wave)
    assert decide(view(first, late, state=R.PAUSED), at(10)) == []
    assert decide(view(first, late, state=R.COMPLETED), at(10)) == [Offer("a-2", ACTIVATE)]


def test_a_straggler_that_goes_bad_stops_the_rollout_and_after_its_end_the_other_stragglers() -> None:
    bad = member("a-2", 0, S.FAILED, straggler=True, code="E_LOAD")
    assert moved(view(member("a-1", 0, S.CONFIRMED), bad)) == (E.ABORT, "wave 0: a-2 E_LOAD")
    late = member("a-3", 0, offered_at=None, straggler=True)
    assert decide(view(bad, late, state=R.COMPLETED), at(10)) == []


def test_a_wave_of_nobody_proves_nothing() -> None:
    found = view(offline("a-1", straggler=True), offline("a-2", straggler=True))
    assert moved(found) == (E.PAUSE, "auto: wave 0: none of its devices was online until the deadline")
    gone = view(member("a-1", state=S.CONFIRMED, gone=True))
    assert (moved(gone) or (None,))[0] is E.PAUSE


@pytest.mark.parametrize("state", [S.IDLE, S.WAITING, S.DOWNLOADING, S.UNCONFIRMED])
def test_a_device_that_shows_nothing_is_insufficient_evidence_neither_good_nor_bad(state: UpdateState) -> None:
    found = view(member(state=state))
    assert decide(found, at(300)) == []
    event, reason = moved(found, 301) or (None, "")
    assert event is E.PAUSE
    assert reason == f"auto: wave 0: insufficient evidence: bench-1 is online and {state.value}"
    assert moved(view(offline("bench-1", state=state)), 301) is None


def test_a_confirmed_wave_whose_evidence_does_not_come_pauses() -> None:
    few = soak(fields=3)
    found = view(member(state=S.CONFIRMED, soak=few))
    assert moved(found, 300) is None
    event, reason = moved(found, 301) or (None, "")
    assert event is E.PAUSE
    assert "insufficient evidence: too few fields" in reason
    assert moved(replace(found, wave_opened_at=at(300)), 301) is None


FOR_BENCH_1 = frozenset(("bench-1", name) for name in WAIVABLE)


def test_a_waived_wave_goes_on_without_the_observations_it_lacks() -> None:
    few = view(member(state=S.CONFIRMED, soak=soak(fields=3)))
    gates = gates_of(few, at(301))
    assert why_not_waived(gates) is None
    assert [gate.name for gate in lacking(gates)] == [
        *("fields", "disagreement", "uncertain_rise", "withheld_rise", "latency")
    ]
    waived = replace(few, waived=waived_by(few.members, 0, gates))
    assert moved(waived, 301) == (E.SOAK, "wave 0 is confirmed and rests")
    told = {gate.name: gate.text for gate in gates_of(waived, at(301))}
    assert told["fields"] == "insufficient evidence: too few fields; waived by a person"
    assert "waived" not in told["confirmed"] + told["evidence"] + told["soak"]


@pytest.mark.parametrize("shown", [None, soak(fields=3), soak(disagreement_ratio=None)])
def test_a_device_that_is_confirmed_after_the_waiver_owes_its_own_observations(shown: SoakFigures | None) -> None:
    first = member(state=S.CONFIRMED, soak=soak(fields=3))
    late = member("bench-2", state=S.CONFIRMED, soak=shown)
    both = view(first, late, waived=FOR_BENCH_1)
    assert moved(both, 299) is None
    assert (moved(both, 301) or (None,))[0] is E.PAUSE
    gates = gates_of(both, at(301))
    assert why_not_waived(gates) is None
    again = replace(both, waived=both.waived | waived_by(both.members, 0, gates))
    assert moved(again, 301) == (E.SOAK, "wave 0 is confirmed and rests")
    seen = replace(both, members=(first, replace(late, standing=replace(late.standing, soak=soak()))))
    assert moved(seen, 301) == (E.SOAK, "wave 0 is confirmed and rests")


def test_a_gate_that_was_not_waived_waits_though_others_were() -> None:
    without = frozenset(pair for pair in FOR_BENCH_1 if pair[1] != "latency")
    few = view(member(state=S.CONFIRMED, soak=soak(fields=3)), waived=without)
    assert [gate.name for gate in lacking(gates_of(few, at(301)))] == ["latency"]


def test_a_waiver_is_of_its_wave_and_of_nothing_that_has_failed_is_undecided_or_is_the_releases_own() -> None:
    red = view(member(state=S.CONFIRMED, soak=soak(latency_ratio=9.0, disagreement_ratio=None)), waived=FOR_BENCH_1)
    assert (moved(red, 301) or (None,))[0] is E.ABORT
    assert "failed, which is not waived" in (why_not_waived(gates_of(red, at(301))) or "")
    silent = view(member(), waived=FOR_BENCH_1)
    event, reason = moved(silent, 301) or (None, "")
    assert (event, "bench-1 is online and idle" in reason) == (E.PAUSE, True)
    assert "not decided yet" in (why_not_waived(gates_of(silent, at(301))) or "")
    assert why_not_waived(gates_of(view(member(state=S.CONFIRMED)), at(1))) == "no observations are lacking"
    unproven = view(
        member(state=S.CONFIRMED, soak=soak(fields=3)),
        waiting("bench-2", 1),
        state=R.SOAKING,
        evidence_accepted=None,
        waived=FOR_BENCH_1,
    )
    event, reason = moved(unproven, 61) or (None, "")
    assert (event, "does not leave the first wave" in reason) == (E.PAUSE, True)


@pytest.mark.parametrize(
    ("limit", "figures"),
    [
        ({"max_uncertain_rise": 0.5}, {"uncertain_ratio": 0.6}),
        ({"max_withheld_rise": 0.5}, {"withheld_ratio": 0.4}),
        ({"max_latency_ratio": 10.0}, {"latency_ratio": 9.0}),
    ],
)
def test_a_limit_of_the_rollout_stands_in_the_place_of_the_usual_one(
    limit: dict[str, float], figures: dict[str, float]
) -> None:
    found = view(member(state=S.CONFIRMED, soak=soak(**figures)))
    assert (moved(found, 1) or (None,))[0] is E.ABORT
    wider = replace(found, thresholds=LIMITS.model_copy(update=limit))
    assert moved(wider, 1) == (E.SOAK, "wave 0 is confirmed and rests")
    (name, value) = next(iter(limit.items()))
    assert value in [gate.limit for gate in gates_of(wider, at(1))], name


def test_what_follows_a_rollout_that_is_no_more_is_told_of_this_one_early_and_goes_back_with_it() -> None:
    bench, late = member("bench-1"), waiting("bench-2", 1, inherited=True)
    assert decide(view(bench, late), at(1)) == [Offer("bench-2", DOWNLOAD)]
    assert decide(view(bench, late, state=R.ABORTING), at(1)) == [Return("bench-1"), Return("bench-2")]


def test_a_wave_that_can_no_longer_pass_pauses_at_once() -> None:
    found = view(
        *(member(f"a-{i}", state=S.CONFIRMED) for i in range(19)), member("bad-1", state=S.FAILED, code="E_LOAD")
    )
    assert moved(found) == (E.PAUSE, "auto: wave 0: at most 19 of 20 devices can be confirmed, 20 are needed")


def test_a_confirmed_device_that_goes_back_by_itself_while_the_wave_rests_counts_against_it() -> None:
    found = view(member(state=S.ROLLED_BACK, code="E_QUALITY"), state=R.SOAKING)
    assert moved(found, 3000) == (E.ABORT, "wave 0: bench-1 E_QUALITY")


def test_an_abort_tells_everybody_who_was_told_and_ends_when_they_report_it() -> None:
    one = member("a-1", state=S.FAILED, code="E_LOAD")
    two, three = waiting("a-2", 1), waiting("a-3", 1, told=False)
    assert decide(view(one, two, three, state=R.ABORTING), at(10)) == [Return("a-1"), Return("a-2")]
    ordered = [replace(m, return_ordered_at=at(10)) for m in (one, two)]
    assert decide(view(*ordered, three, state=R.ABORTING), at(20)) == []
    back = [replace(m, standing=replace(m.standing, returned=True)) for m in ordered]
    assert moved(view(*back, three, state=R.ABORTING)) == (E.RETURNED, "every device is back on its old model")


def test_an_abort_waits_until_the_deadline_and_names_the_devices_that_are_not_back() -> None:
    away = offline("a-1", state=S.CONFIRMED, return_ordered_at=at(0))
    assert moved(view(away, state=R.ABORTING), 3600) is None
    assert moved(view(away, state=R.ABORTING), 3601) == (
        E.RETURNED,
        "offline, and told to go back: a-1",
    )
    stays = member("a-1", state=S.CONFIRMED, return_ordered_at=at(0))
    assert moved(view(stays, state=R.ABORTING), 3600) is None
    assert moved(view(stays, state=R.ABORTING), 3601) == (E.RETURNED, "not back: a-1")
    both = view(stays, replace(away, device="a-2"), state=R.ABORTING)
    assert moved(both, 3601) == (E.RETURNED, "not back: a-1; offline, and told to go back: a-2")
    assert moved(view(replace(stays, gone=True), state=R.ABORTING)) is not None


def test_an_abort_does_not_wait_for_a_device_that_refuses_to_go_back_and_names_it() -> None:
    refuses = member("a-1", return_ordered_at=at(0), standing=Standing(S.REJECTED, "E_ROLLBACK", stays=True))
    assert moved(view(refuses, state=R.ABORTING), 1) == (E.RETURNED, "not back: a-1 (E_ROLLBACK)")
    under_way = member("a-2", state=S.CONFIRMED, return_ordered_at=at(0))
    assert moved(view(refuses, under_way, state=R.ABORTING), 1) is None
    back = replace(under_way, standing=Standing(S.CANCELLED, returned=True))
    words = "the others are back; not back: a-1 (E_ROLLBACK)"
    assert moved(view(refuses, back, state=R.ABORTING), 1) == (E.RETURNED, words)


NUMBERS = (
    *("p_ok", "p_error", "soak_s", "step_deadline_s", "wave_deadline_s"),
    *("max_disagreement", "max_uncertain_rise", "max_withheld_rise", "max_latency_ratio"),
)


@pytest.mark.parametrize("name", [*NUMBERS, "min_errors", "min_fields"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1])
def test_a_threshold_that_is_no_limit_opens_nothing(name: str, value: float) -> None:
    broken = Thresholds.model_construct(**{**LIMITS.model_dump(), name: value})
    assert not readable(broken)
    first, second = member("bench-1", 0, S.CONFIRMED), waiting("bench-2", 1)
    for state in (R.APPROVED, R.RUNNING, R.SOAKING):
        found = view(first, second, state=state, thresholds=broken)
        assert moved(found, 1e6) == (E.PAUSE, "auto: the thresholds cannot be read")
    assert gates_of(view(first, thresholds=broken), at(0)) == []


def test_thresholds_that_could_not_be_read_at_all_pause_but_do_not_hide_a_forgery() -> None:
    assert moved(view(member(), thresholds=None)) == (E.PAUSE, "auto: the thresholds cannot be read")
    assert moved(view(member(state=S.FAILED, code="E_SIG"), thresholds=None)) == (E.ABORT, "wave 0: bench-1 E_SIG")
    assert decide(view(member(), state=R.PAUSED, thresholds=None), at(0)) == []


@pytest.mark.parametrize("state", [R.DRAFT, R.ABORTED, R.DENIED, R.SUPERSEDED, R.UNKNOWN])
def test_what_has_ended_or_not_begun_does_nothing(state: RolloutState) -> None:
    assert decide(view(member(state=S.FAILED, code="E_SIG"), waiting("bench-2", 1), state=state), at(1e7)) == []


def test_the_gates_are_rows_with_figure_and_limit() -> None:
    rows = {gate.name: gate.row for gate in gates_of(view(member(state=S.CONFIRMED, soak=GOOD)), at(0))}
    assert list(rows) == [
        *("confirmed", "undecided", "bad", "fields"),
        *("self_test", "disagreement", "uncertain_rise", "withheld_rise", "latency"),
        *("soak", "evidence"),
    ]
    assert (rows["disagreement"].figure, rows["disagreement"].limit) == (0.05, 0.2)
    assert rows["disagreement"].passed
    assert not rows["soak"].passed
