"""The edge console in a real browser, on a stand-in agent."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edge_agent.console.server import ConsoleServer
from tests.fakes.chromium import DESK, SMALL_TARGETS, TABLET, UNNAMED, Chromium, Watched, chromium
from tests.fakes.console_agent import FROZEN, FakeAgent

pytestmark = pytest.mark.chromium
PAGES = ("/", "/slide", "/health", "/model")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def agent() -> FakeAgent:
    return FakeAgent(field_count=3)


@pytest.fixture
def console(agent: FakeAgent) -> Iterator[ConsoleServer]:
    agent.live = agent.start_snapshot()
    agent.next_field()
    with ConsoleServer(agent, host="127.0.0.1", port=0) as server:
        yield server


def live_page(watched: Watched) -> str:
    """Opens the live page and waits for its first picture; returns the capture id shown."""
    watched.open("/")
    watched.page.wait_for_selector("#field[data-capture]")
    watched.page.wait_for_function("() => +document.querySelector('#field').dataset.drawn > 0")
    return shown(watched)


def shown(watched: Watched) -> str:
    """Capture id of the picture on the canvas."""
    return str(watched.page.get_attribute("#field", "data-capture"))


def wait_drawn(watched: Watched, count: int) -> None:
    """Waits until so many cells are drawn."""
    watched.page.wait_for_function("n => document.querySelector('#field').dataset.drawn === String(n)", arg=count)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
def test_every_page_is_whole_in_light_and_dark_at_the_desk_and_on_a_tablet(
    browser: Chromium, console: ConsoleServer, size: dict[str, int], scheme: str
) -> None:
    with browser.page(console.url.rstrip("/"), size=size, scheme=scheme) as watched:
        for path in PAGES:
            watched.open(path)
            assert watched.overflow_px() <= 0, path
            assert watched.page.get_by_text("Research use only").is_visible()
            assert watched.page.evaluate(UNNAMED) == [], path
            if size is TABLET:
                assert watched.page.evaluate(SMALL_TARGETS) == [], path
            ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        assert watched.troubles == []


def test_keys_toggle_the_layers(browser: Chromium, console: ConsoleServer, agent: FakeAgent) -> None:
    field = agent.live_field()
    assert field is not None
    count = {cls: sum(box.cls == cls for box in field.boxes) for cls in ("RBC", "WBC", "Platelets")}
    assert all(count.values())
    total = sum(count.values())
    with browser.page(console.url.rstrip("/")) as watched:
        live_page(watched)
        for key, cls in (("r", "RBC"), ("w", "WBC"), ("p", "Platelets")):
            watched.page.keyboard.press(key)
            wait_drawn(watched, total - count[cls])
            watched.page.keyboard.press(key)
            wait_drawn(watched, total)
        watched.page.keyboard.press("o")
        wait_drawn(watched, 0)
        assert watched.page.get_attribute("[data-layer=overlay]", "aria-pressed") == "false"
        assert watched.troubles == []


def test_freezing_holds_the_picture_while_counting_goes_on(
    browser: Chromium, console: ConsoleServer, agent: FakeAgent
) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        held = live_page(watched)
        watched.page.keyboard.press("f")
        newest = agent.next_field()
        watched.page.wait_for_function("id => document.querySelector('#panel').textContent.includes(id)", arg=newest)
        assert shown(watched) == held
        assert watched.page.locator("#field-frozen").is_visible()
        watched.page.keyboard.press("f")
        watched.page.wait_for_function("id => document.querySelector('#field').dataset.capture === id", arg=newest)


def test_the_problem_bar_comes_and_goes_by_itself(browser: Chromium, console: ConsoleServer, agent: FakeAgent) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        live_page(watched)
        assert watched.page.locator(".problem").count() == 0
        agent.set(problems=(FROZEN,))
        watched.page.wait_for_selector(f"text={FROZEN.what_to_do}")
        agent.set(problems=())
        watched.page.wait_for_function("() => !document.querySelector('.problem')")


def test_a_withheld_field_is_said_to_be_not_counted(
    browser: Chromium, console: ConsoleServer, agent: FakeAgent
) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        live_page(watched)
        agent.next_field(decision="withheld", reasons=("out_of_focus",))
        watched.page.wait_for_selector("text=Not counted: out of focus.")


def test_a_silent_agent_is_noticed_and_its_return_too(browser: Chromium, agent: FakeAgent) -> None:
    with browser.page("http://127.0.0.1") as watched:
        with ConsoleServer(agent, host="127.0.0.1", port=0) as console:
            watched.base_url = console.url.rstrip("/")
            port = int(watched.base_url.rpartition(":")[2])
            watched.open("/")
            watched.page.wait_for_selector("#field[data-capture]")
        watched.page.wait_for_selector("body[data-stale=true]", timeout=60_000)
        assert "No answer" in watched.page.inner_text(".stale-note")
        with ConsoleServer(agent, host="127.0.0.1", port=port):
            watched.page.wait_for_selector("body[data-stale=false]", timeout=60_000)


def test_browsers_that_never_read_hold_nobody_up(browser: Chromium, console: ConsoleServer, agent: FakeAgent) -> None:
    port = int(console.url.rstrip("/").rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    try:
        for connection in silent:
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with browser.page(console.url.rstrip("/")) as watched:
            live_page(watched)
            newest = agent.next_field()
            watched.page.wait_for_function("id => document.querySelector('#field').dataset.capture === id", arg=newest)
            assert watched.troubles == []
    finally:
        for connection in silent:
            connection.close()


def test_the_console_is_worked_without_a_mouse(browser: Chromium, console: ConsoleServer) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        keyboard = watched.page.keyboard
        live_page(watched)
        keyboard.press("Tab")
        assert watched.page.evaluate("document.activeElement.textContent") == "To the content"
        assert watched.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        keyboard.press("?")
        assert watched.page.locator("dialog[open]").is_visible()
        keyboard.press("Escape")
        assert watched.page.locator("dialog[open]").count() == 0
        keyboard.press("+")
        watched.page.wait_for_selector("text=1.5×")
        keyboard.press("0")
        watched.page.wait_for_selector("text=1.0×")


def test_the_gallery_is_walked_with_arrows_and_filtered_with_letters(
    browser: Chromium, console: ConsoleServer, agent: FakeAgent
) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        watched.open("/slide")
        watched.page.wait_for_function("() => document.querySelector('#gallery-count').textContent !== ''")
        assert watched.page.locator("#gallery-count").inner_text() == f"{len(agent.cards)} white cells"
        watched.page.keyboard.press("ArrowRight")
        watched.page.wait_for_selector("#cell-detail img")
        first = watched.page.get_attribute(".cell[aria-selected=true]", "data-cell")
        watched.page.keyboard.press("ArrowRight")
        assert watched.page.get_attribute(".cell[aria-selected=true]", "data-cell") != first
        watched.page.keyboard.press("2")
        assert watched.page.locator("#cell-detail h2").inner_text().startswith("Neutrophil")
        watched.page.keyboard.press("s")
        differing = watched.page.locator(".cell:visible")
        assert 0 < differing.count() < len(agent.cards)
        assert differing.count() == watched.page.locator(".cell-differs:visible").count()
        assert watched.troubles == []


def test_the_chosen_theme_stays(browser: Chromium, console: ConsoleServer) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        watched.open("/health")
        watched.page.click("[data-theme-toggle]")
        watched.open("/model")
        assert watched.page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
        assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_zooming_with_the_wheel_keeps_the_place_under_the_pointer(browser: Chromium, console: ConsoleServer) -> None:
    with browser.page(console.url.rstrip("/")) as watched:
        live_page(watched)
        box = watched.page.locator("#field").bounding_box()
        watched.page.mouse.move(box["x"] + 200, box["y"] + 150)
        watched.page.mouse.wheel(0, -400)
        watched.page.wait_for_function(
            "() => parseFloat(document.querySelector('[data-zoom-figure]').textContent) > 1.5"
        )
        assert watched.overflow_px() <= 0
        assert watched.troubles == []
