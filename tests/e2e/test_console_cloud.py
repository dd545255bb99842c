"""The cloud's console in a real browser, on a real cloud with a staged larger model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.chromium import DESK, SMALL_TARGETS, TABLET, UNNAMED, Chromium, Watched, chromium
from tests.fakes.console_cloud import CloudForConsole, running_cloud
from tests.fakes.releases import ReleaseDesk

pytestmark = pytest.mark.chromium


@dataclass
class Filled:
    """A cloud with two devices of our site, one of another, and their uncertain images."""

    cloud: CloudForConsole
    pending: dict[str, Any]
    answered: dict[str, Any]
    foreign: dict[str, Any]
    token: str
    releases: list[dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    desk = ReleaseDesk(tmp_path_factory.mktemp("desk") / "keys")
    with running_cloud(tmp_path_factory.mktemp("cloud"), online_key_file=desk.online_key_file) as cloud:
        ours = cloud.add_device("bench-1", "Bench 1, window")
        cloud.add_device("bench-2")
        theirs = cloud.add_device("bench-9", site="south-lab")
        yield Filled(
            cloud,
            pending=cloud.ask(ours, 0, device="bench-1", unsure=2),
            answered=cloud.ask(ours, 1, device="bench-1"),
            foreign=cloud.ask(theirs, 2, device="bench-9", site="south-lab"),
            token=cloud.token(),
            releases=[cloud.release(desk, evidence=evidence) for evidence in (False, True)],
        )


def sign_in(watched: Watched, token: str) -> None:
    """Types the token and presses Enter."""
    watched.open("/")
    watched.page.wait_for_url("**/sign-in?**")
    watched.page.keyboard.type(token)
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url("**/devices")


def wait_drawn(watched: Watched, count: int) -> None:
    """Waits until so many cells are drawn."""
    watched.page.wait_for_function("n => document.querySelector('#field').dataset.drawn === String(n)", arg=count)


def white_words(opinion: dict[str, Any], side: str) -> int:
    """How many white cells one side sees."""
    return sum(cell[side] is not None for cell in opinion["cells"])


def test_the_keyboard_alone_signs_in_and_the_devices_are_there(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        text = watched.page.inner_text("#devices")
        assert "Bench 1, window" in text
        assert "bench-2" in text
        assert "bench-9" not in text
        assert "Dr. Weiss" in watched.page.inner_text("header")
        assert watched.troubles == []


def test_a_wrong_token_is_told_and_opens_nothing(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        watched.open("/sign-in")
        watched.page.keyboard.type("not-a-token")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("text=This token is not known here.")
        watched.open("/devices")
        assert "/sign-in" in watched.page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
def test_every_page_is_whole_in_light_and_dark_at_the_desk_and_on_a_tablet(
    browser: Chromium, filled: Filled, size: dict[str, int], scheme: str
) -> None:
    with browser.page(filled.cloud.base_url, size=size, scheme=scheme) as watched:
        sign_in(watched, filled.token)
        for path in (
            "/devices",
            "/review",
            "/review?state=all",
            f"/review/{filled.pending['id']}",
            "/models",
            "/system",
        ):
            watched.open(path)
            assert watched.overflow_px() <= 0, path
            assert watched.page.get_by_text("Research use only").is_visible()
            assert watched.page.evaluate(UNNAMED) == [], path
            if size is TABLET:
                assert watched.page.evaluate(SMALL_TARGETS) == [], path
            ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        assert watched.troubles == []


def test_what_waits_for_a_person_comes_first(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.open("/review")
        text = watched.page.inner_text("#queue")
        assert filled.pending["capture_id"] in text
        assert filled.answered["capture_id"] not in text
        watched.open("/review?state=all")
        text = watched.page.inner_text("#queue")
        assert filled.answered["capture_id"] in text
        assert filled.foreign["capture_id"] not in text
        watched.page.keyboard.press("ArrowDown")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_url("**/review/*")


def test_both_opinions_stand_side_by_side_on_the_picture_and_beside_the_cell(browser: Chromium, filled: Filled) -> None:
    opinion = filled.pending
    edge, cloud = white_words(opinion, "edge"), white_words(opinion, "cloud")
    assert edge
    assert cloud
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.open(f"/review/{opinion['id']}")
        cells = len(opinion["cells"])
        wait_drawn(watched, cells)
        watched.page.keyboard.press("e")
        wait_drawn(watched, cells + edge)
        watched.page.keyboard.press("c")
        wait_drawn(watched, cells + edge + cloud)
        watched.page.keyboard.press("e")
        wait_drawn(watched, cells + cloud)
        assert watched.page.locator("#gallery [data-cell]").count() == cells
        assert "Unidentified 51" in watched.page.inner_text("#gallery")
        assert "Unidentified" in watched.page.inner_text(".cell-facts")
        watched.page.click(".origin summary")
        assert "A person is asked" in watched.page.inner_text(".verdict")
        assert watched.troubles == []


def test_a_cell_chosen_with_the_arrows_is_shown_large(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.open(f"/review/{filled.pending['id']}")
        watched.page.wait_for_selector("#review[data-ready=true]")
        watched.page.wait_for_function("() => parseFloat(document.querySelector('[data-zoom-figure]').textContent) > 1")
        first = watched.page.get_attribute("#gallery [aria-selected=true]", "data-cell")
        watched.page.keyboard.press("ArrowRight")
        assert watched.page.get_attribute("#gallery [aria-selected=true]", "data-cell") != first
        watched.page.keyboard.press("Escape")
        watched.page.wait_for_selector("text=1.0×")
        watched.page.keyboard.press("z")
        watched.page.wait_for_function("() => parseFloat(document.querySelector('[data-zoom-figure]').textContent) > 1")


def test_the_models_are_listed_newest_first_with_what_speaks_for_them(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.page.click("nav >> text=Models")
        watched.page.wait_for_url("**/models")
        rows = watched.page.locator(".releases tbody tr")
        assert [rows.nth(at).locator("td").first.inner_text() for at in range(rows.count())] == ["3", "2", "1"]
        newest = rows.nth(0).inner_text()
        assert filled.releases[1]["digest"].removeprefix("sha256:")[:12] in newest
        assert "accepted" in newest
        assert "Ada" in newest
        assert "bench only" in rows.nth(1).inner_text()
        trust = watched.page.locator(".trust tbody tr")
        assert trust.count() == 4
        assert all("holds" in trust.nth(at).inner_text() for at in range(4))
        assert watched.troubles == []


def test_another_sites_image_is_as_if_it_were_not_there(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.open(f"/review/{filled.foreign['id']}")
        assert watched.page.inner_text("h1") == "Not found"
        assert filled.foreign["capture_id"] not in watched.page.content()


def test_signing_out_ends_the_session(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        sign_in(watched, filled.token)
        watched.page.click("text=Sign out")
        watched.page.wait_for_url("**/sign-in")
        watched.open("/devices")
        assert "/sign-in" in watched.page.url


def test_the_api_is_documented_without_the_internet(browser: Chromium, filled: Filled) -> None:
    with browser.page(filled.cloud.base_url) as watched:
        watched.open("/docs")
        watched.page.get_by_text("/v1/second-opinions", exact=True).first.wait_for()
        assert watched.page.locator(".opblock").count() >= 8
        assert "Research use only" in watched.page.inner_text("footer")
        assert watched.troubles == []
