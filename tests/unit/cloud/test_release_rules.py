"""Which chunks go out, for whom, and when a document is signed again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.releases.rules import Place, Sent, Want, documents, is_due, is_shared, places_of, plan
from fleet.contract.release import ChunkRef, ReleaseTarget, Trust

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a1" * 32
OTHER = "sha256:" + "b2" * 32
REPEAT_S = 2.0


def name(number: int) -> str:
    return f"{number:064x}"


PLACES = {DIGEST: {name(n): Place("f" * 64, 100 * n, 100) for n in range(8)}}


def want(device: str, *numbers: int, seen_s: float = 10.0, digest: str = DIGEST) -> Want:
    return Want(device, digest, tuple(name(n) for n in numbers), NOW, seen_s)


def test_what_several_lack_is_due_once_for_the_one_that_waits_longest() -> None:
    planned = plan([want("b", 1, 2, seen_s=11), want("a", 2, 3)], PLACES, {}, repeat_s=REPEAT_S)
    assert [(due.sha256, due.device) for due in planned.chunks] == [(name(2), "a"), (name(3), "a"), (name(1), "b")]
    assert planned.served == ()


def test_what_went_out_since_a_want_was_seen_is_not_due_for_it() -> None:
    sent = {name(1): Sent(10.5, "a"), name(2): Sent(11.0, "a")}
    planned = plan([want("a", 1, 2)], PLACES, sent, repeat_s=REPEAT_S)
    assert planned.chunks == ()
    assert [served.device for served in planned.served] == ["a"]


def test_what_went_out_a_moment_before_is_not_repeated_but_what_went_out_earlier_is() -> None:
    sent = {name(1): Sent(8.5, "a"), name(2): Sent(8.0, "a")}
    planned = plan([want("b", 1, 2)], PLACES, sent, repeat_s=REPEAT_S)
    assert [due.sha256 for due in planned.chunks] == [name(2)]


def test_what_no_release_has_is_nobodys() -> None:
    planned = plan([want("a", 99), want("b", 1, digest=OTHER)], PLACES, {}, repeat_s=REPEAT_S)
    assert planned.chunks == ()
    assert len(planned.served) == 2


def test_a_want_is_shared_when_one_of_its_chunks_went_out_for_another() -> None:
    sent = {name(1): Sent(11, "a"), name(2): Sent(11, "b")}
    assert is_shared(want("a", 1, 2), PLACES[DIGEST], sent)
    assert not is_shared(want("a", 1), PLACES[DIGEST], sent)


@given(
    st.lists(
        st.builds(
            lambda device, numbers, seen_s: want(f"d{device}", *numbers, seen_s=seen_s),
            st.integers(0, 5),
            st.sets(st.integers(0, 9)),
            st.floats(0, 20),
        ),
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_in_runs_of_any_length_everyone_gets_what_they_lack_and_each_chunk_goes_out_once(
    wants: list[Want], run: int
) -> None:
    sent: dict[str, Sent] = {}
    clock_s = 20.0
    open_wants = wants
    published: list[str] = []
    while open_wants:
        planned = plan(open_wants, PLACES, sent, repeat_s=REPEAT_S)
        assert planned.chunks or planned.served, "each run gets on"
        for due in planned.chunks[:run]:
            clock_s += 1
            sent[due.sha256] = Sent(clock_s, due.device)
            published.append(due.sha256)
        open_wants = [each for each in open_wants if each not in planned.served]
    assert len(published) == len(set(published))
    assert set(published) == {sha256 for each in wants for sha256 in each.missing} & set(PLACES[DIGEST])


def test_chunks_lie_one_after_the_other() -> None:
    chunks = tuple(ChunkRef(sha256=name(n), size_bytes=n) for n in (3, 5, 3, 7))
    target = ReleaseTarget(
        digest=DIGEST,
        name="edge",
        version="1.0.0",
        counter=1,
        bundle_schema="ahs.bundle/1",
        size_bytes=18,
        chunks=chunks,
        created_at=NOW,
        checked=True,
    )
    found = places_of(target, "f" * 64)
    assert {sha256: (place.start_byte, place.size_bytes) for sha256, place in found.items()} == {
        name(3): (0, 3),
        name(5): (3, 5),
        name(7): (11, 7),
    }


@pytest.mark.parametrize(("left_h", "due"), [(23, False), (12.5, False), (11.5, True), (0, True), (-500, True)])
def test_a_document_is_signed_again_when_half_of_its_life_is_over(left_h: float, due: bool) -> None:
    assert is_due(NOW + timedelta(hours=left_h), life=timedelta(hours=24), now=NOW) is due


def document(role: str, **changes: object) -> str:
    signed = {"_type": role, "version": 1, "expires": "2026-05-01T00:00:00Z"} | changes
    return json.dumps({"signed": signed, "signatures": []})


def trust(**changes: str) -> Trust:
    texts = {role: document(role) for role in ("timestamp", "snapshot", "targets")} | changes
    return Trust(roots=(document("root"), document("root", version=2)), **texts)


def test_documents_are_read_with_their_role_version_and_end() -> None:
    found = documents(trust())
    assert [(each.role, each.version) for each in found] == [
        ("root", 1),
        ("root", 2),
        ("targets", 1),
        ("snapshot", 1),
        ("timestamp", 1),
    ]
    assert found[0].expires_at == datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"signed": []}',
        document("targets"),
        document("snapshot", version=0),
        document("snapshot", version="1"),
        document("snapshot", expires="soon"),
        document("snapshot", expires="2026-05-01T00:00:00"),
    ],
)
def test_what_is_no_document_of_its_role_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no TUF metadata"):
        documents(trust(snapshot=text))
