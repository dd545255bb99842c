from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.console.app import create_console
from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.server import ConsoleServer, is_loopback, read_token
from edge_agent.console.view import CellCard, PartState
from edge_agent.errors import ConfigurationError, PortInUse
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.console_agent import FROZEN, FakeAgent

TOKEN = "a-long-enough-console-token"
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def drawn() -> FakeAgent:
    return FakeAgent(field_count=2)


@pytest.fixture
def agent(drawn: FakeAgent) -> FakeAgent:
    drawn.live = drawn.start_snapshot()
    drawn._live = None
    drawn.alive = True
    return drawn


@pytest.fixture
def client(agent: FakeAgent) -> AsgiClient:
    return AsgiClient(create_console(agent))


@pytest.mark.parametrize("path", ["/", "/slide", "/health", "/model", "/nowhere"])
def test_every_page_says_research_use_only_and_allows_nothing_inline(client: AsgiClient, path: str) -> None:
    answer = client.get(path, headers=HTML)
    assert "Research use only" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert answer.headers["x-frame-options"] == "DENY"


def test_before_the_first_field_the_pages_say_what_to_do_and_show_no_zeros(
    agent: FakeAgent, client: AsgiClient
) -> None:
    agent.set(slide=None, field=None)
    page = client.get("/").text
    assert "No slide yet" in page
    assert client.get("/live.jpg").status_code == 404
    assert client.get("/api/live").status_code == 204


def test_an_empty_differential_shows_dashes(agent: FakeAgent, client: AsgiClient) -> None:
    slide = agent.live.slide
    assert slide is not None
    agent.set(slide=replace(slide, white_cells_seen=0))
    page = client.get("/").text
    assert "61" not in page.split("Unidentified")[0].split("Neutrophils")[1]


def test_the_differential_stands_with_its_exact_limits(client: AsgiClient) -> None:
    page = client.get("/").text
    assert "Neutrophils" in page
    assert "48–73" in page


def test_a_problem_is_shown_with_what_to_do_and_only_while_it_lasts(agent: FakeAgent, client: AsgiClient) -> None:
    assert FROZEN.text not in client.get("/").text
    agent.set(problems=(FROZEN,))
    page = client.get("/").text
    assert FROZEN.text in page
    assert FROZEN.what_to_do in page


def test_the_picture_and_its_cells_belong_together_although_newer_fields_come(
    agent: FakeAgent, client: AsgiClient
) -> None:
    agent.next_field()
    cells = client.get("/api/live").json()
    first = agent.live_field()
    agent.next_field()
    picture = client.get("/live.jpg", params={"capture": cells["capture_id"]})
    assert first is not None
    assert picture.content == first.jpeg
    assert picture.headers["x-capture-id"] == cells["capture_id"]
    assert len(cells["boxes"]) == len(first.boxes)
    assert client.get("/live.jpg").headers["x-capture-id"] != cells["capture_id"]


def test_names_from_outside_are_text_and_never_markup(agent: FakeAgent, client: AsgiClient) -> None:
    slide = agent.live.slide
    assert slide is not None
    agent.set(slide=replace(slide, name="<img src=x>"))
    assert "<img src=x>" not in client.get("/").text


def test_health_for_machines_follows_the_agent(agent: FakeAgent, client: AsgiClient) -> None:
    assert client.get("/healthz").status_code == 200
    agent.alive = False
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["parts"][0]["name"] == "Camera"


def test_metrics_and_snapshot_are_served(client: AsgiClient) -> None:
    assert b"ahs_fields_total 41" in client.get("/metrics").content
    snapshot = client.get("/api/snapshot").json()
    assert snapshot["camera"]["state"] == "ok"
    assert snapshot["taken_at"].endswith("Z")


def test_a_cell_whose_picture_is_gone_is_a_404(client: AsgiClient) -> None:
    assert client.get("/cells/1.jpg").headers["content-type"] == "image/jpeg"
    assert client.get("/cells/9999.jpg").status_code == 404


def test_the_gallery_puts_the_unidentified_first_and_in_each_class_the_worst(client: AsgiClient) -> None:
    sure = CellCard(1, "b/1/1", "lymphocyte", 0.99, ("lymphocyte",))
    weak = CellCard(2, "b/1/1", "lymphocyte", 0.61, ("lymphocyte",))
    foreign = CellCard(3, "b/1/1", "lymphocyte", 0.99, ("lymphocyte",), in_domain=False)
    contradicted = CellCard(4, "b/1/1", "lymphocyte", 0.99, ("lymphocyte",), second_label="monocyte")
    unknown = CellCard(5, "b/1/1", "unidentified", 0.4)
    groups = ConsoleRendering.groups([sure, weak, foreign, contradicted, unknown])
    assert [label for label, _ in groups] == ["unidentified", "lymphocyte"]
    assert [cell.cell_id for cell in groups[1][1]] == [4, 3, 2, 1]


def test_the_gallery_tells_a_persons_word_from_the_larger_models(agent: FakeAgent, client: AsgiClient) -> None:
    sure = CellCard(1, "b/1/1", "lymphocyte", 0.99, ("lymphocyte",))
    agent.cards = [
        replace(sure, second_label="not_classed", second_source="reader"),
        replace(sure, cell_id=2, second_label="lymphocyte", second_source="reader"),
        replace(sure, cell_id=3, second_label="monocyte", second_source="larger model"),
    ]
    page = client.get("/fragments/gallery").text
    assert "reader: not classed" in page
    assert "reader agrees" in page
    assert "monocyte</span>" in page
    assert "reader: monocyte" not in page


def test_a_web_page_that_points_its_own_name_at_this_workstation_is_refused(agent: FakeAgent) -> None:
    client = AsgiClient(create_console(agent), base_url="http://evil.example")
    assert client.get("/api/snapshot").status_code == 421
    assert AsgiClient(create_console(agent), base_url="http://localhost:8600").get("/api/snapshot").status_code == 200


def test_opened_to_the_network_nothing_is_told_without_the_token(agent: FakeAgent) -> None:
    client = AsgiClient(create_console(agent, token=TOKEN), base_url="http://bench")
    for path in ("/api/snapshot", "/metrics", "/live.jpg", "/events", "/cells/1.jpg"):
        assert client.get(path).status_code == 401, path
    page = client.get("/slide", headers=HTML)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=/slide")
    assert client.get("/healthz").status_code == 200
    assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_opens_the_console_once_a_browser(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.console.access.WRONG_TOKEN_PAUSE_S", 0.0)
    client = AsgiClient(create_console(agent, token=TOKEN), base_url="http://bench")
    assert client.post("/sign-in", data={"token": "wrong", "next": "/"}).status_code == 403
    answer = client.post("/sign-in", data={"token": TOKEN, "next": "//evil.example/"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert TOKEN not in answer.headers["set-cookie"]
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert client.get("/", headers=HTML).status_code == 200


def test_the_console_is_never_opened_to_the_network_without_a_token(agent: FakeAgent) -> None:
    with pytest.raises(ConfigurationError, match=r"console\.token_file"):
        ConsoleServer(agent, host="0.0.0.0", port=0)
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("bench.lab")


def test_a_short_or_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_token(tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigurationError, match="at least"):
        read_token(tmp_path / "short")


def test_a_port_in_use_is_said_in_words(agent: FakeAgent) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} on 127\.0\.0\.1 is taken"):
            ConsoleServer(agent, host="127.0.0.1", port=port).__enter__()


def test_who_has_the_address_may_connect_at_once(agent: FakeAgent) -> None:
    for _ in range(20):
        with ConsoleServer(agent, host="127.0.0.1", port=0) as console:
            socket.create_connection(("127.0.0.1", int(console.url.rstrip("/").rpartition(":")[2]))).close()


def test_states_are_announced_without_the_ticking_figures(agent: FakeAgent) -> None:
    from edge_agent.console.rendering import announce

    before = announce(agent.live)
    agent.set(camera=replace(agent.live.camera, text="17 fps", fps=17.0))
    assert announce(agent.live) == before
    agent.set(camera=replace(agent.live.camera, state=PartState.FAULT))
    assert "Camera does not work" in announce(agent.live)
