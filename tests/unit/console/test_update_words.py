"""The model update in plain words, on the page and for every state and code."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.console.app import create_console
from edge_agent.update.core import Progress
from edge_agent.update.record import Hold, Model, UpdateRecord
from edge_agent.update.states import UNDER_WAY
from edge_agent.update_words import CODES, WORDS, update_card, update_text
from fleet.contract.messages import UpdateState
from fleet.contract.release import UpdateCode
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.console_agent import RECORD, FakeAgent
from tests.unit.update.update_bench import good_evidence, model, release

STATES = [state for state in UpdateState if state is not UpdateState.UNKNOWN]


def record(state: UpdateState, code: UpdateCode | None = None, hold: Hold | None = None) -> UpdateRecord:
    under_way = state in UNDER_WAY
    return UpdateRecord(
        state=state,
        code=code,
        text="16 of 20 white cells are named differently" if code else "",
        hold=hold,
        confirmed=model(2),
        previous=model(1),
        candidate=release(3) if under_way else None,
        about=Model.of(release(3)) if state not in (UpdateState.IDLE, UpdateState.CONFIRMED) else None,
        journal="journal-1",
    )


def test_a_list_that_has_expired_is_waited_for_in_plain_words() -> None:
    refused = record(UpdateState.REJECTED, UpdateCode.STALE)
    card = update_card(refused, None, None, "")
    assert "waits until the cloud has sent a newly signed list" in card.sentence
    assert card.code == "E_STALE"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("hold", [None, *Hold])
def test_every_state_has_its_word_and_its_sentence(state: UpdateState, hold: Hold | None) -> None:
    if (state is UpdateState.WAITING) != (hold is not None):
        return
    card = update_card(record(state, hold=hold), None, None, "")
    assert card.word
    assert card.sentence.endswith(".")
    assert "{" not in card.sentence
    names = dict(card.lines)
    runs = "release 3" if state is UpdateState.UNCONFIRMED else "release 2"
    assert runs in names["Runs"]


def test_every_state_and_every_code_has_words() -> None:
    assert set(WORDS) == set(UpdateState)
    assert set(CODES) == set(UpdateCode)


def test_why_something_was_refused_is_said_in_words_with_its_code_and_its_figures() -> None:
    card = update_card(record(UpdateState.ROLLED_BACK, UpdateCode.QUALITY), None, None, "")
    assert (card.why, card.code) == (CODES[UpdateCode.QUALITY], "E_QUALITY")
    assert "16 of 20" in card.detail
    assert "release 3" in update_text(record(UpdateState.ROLLED_BACK, UpdateCode.QUALITY))


def test_progress_is_a_share_and_parts() -> None:
    card = update_card(record(UpdateState.DOWNLOADING), Progress(chunks=8, missing=2), None, "")
    assert (card.progress_ratio, card.word) == (0.75, "receiving 75\u00a0%")
    assert dict(card.lines)["Received"] == "6 of 8 parts"


def test_what_both_models_have_shown_so_far_stands_there_while_the_new_one_proves_itself() -> None:
    figures = good_evidence(10, differ=2).figures()
    lines = dict(update_card(record(UpdateState.UNCONFIRMED), None, figures, "10 of 20 fields").lines)
    assert lines["Named differently"] == "10\u00a0%"
    assert lines["So far"] == "10 of 20 fields"
    assert "release 2" in lines["Before it"]


def test_the_live_page_says_nothing_when_there_is_nothing_to_say() -> None:
    assert update_text(record(UpdateState.CONFIRMED)) == update_text(record(UpdateState.IDLE)) == ""


def test_the_page_and_its_living_part_show_the_update() -> None:
    agent = FakeAgent(field_count=1)
    client = AsgiClient(create_console(agent))
    for path in ("/model", "/fragments/model"):
        text = client.get(path).text
        assert "up to date" in text
        assert "spring-heads" in text
    assert agent.model_card is not None
    refused = RECORD.model_copy(
        update={"state": UpdateState.REJECTED, "code": UpdateCode.SIGNATURE, "text": "<b>not</b> signed"}
    )
    agent.model_card = dataclasses.replace(agent.model_card, update=update_card(refused, None, None, ""))
    text = client.get("/fragments/model").text
    assert "not signed by the keys that this device trusts" in text
    assert "&lt;b&gt;not&lt;/b&gt; signed" in text
    agent.model_card = dataclasses.replace(agent.model_card, update=None)
    assert "Update" not in client.get("/fragments/model").text
