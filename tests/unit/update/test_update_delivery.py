"""Chunks on their way to the update core: wanted, false, unsigned, of other releases."""

from __future__ import annotations

import pytest

from edge_agent.update.traffic import (
    Ask,
    ChunkFalse,
    ChunkForeign,
    FollowChunks,
    LinkChanged,
    NoRoom,
    NoteCode,
    Prepared,
    Tick,
    TrialEnded,
    TrustNotTaken,
)
from fleet.contract.messages import Activation, UpdateState
from fleet.contract.release import UpdateCode
from tests.unit.update.update_bench import (
    ALL,
    SETTINGS,
    TWO,
    key,
    notes,
    of,
    release,
)
from tests.unit.update.update_chain import (
    S,
    links,
    run,
    started,
    trusts,
    wants,
)

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
