"""The pages of rollouts in a real browser, on a real cloud whose controller moves when the test says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fleet.contract.release import WavePlan
from tests.fakes.chromium import DESK, SMALL_TARGETS, TABLET, UNNAMED, Chromium, Watched, chromium
from tests.fakes.console_cloud import running_cloud
from tests.fakes.console_rollouts import StagedRollouts
from tests.fakes.fleet_reports import OLD

pytestmark = pytest.mark.chromium

WAVES = (WavePlan(devices=("bench-1",)), WavePlan(percent=100))
NAMES = ("bench-1", "ward-1", "ward-2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[StagedRollouts]:
    with running_cloud(tmp_path / "cloud", field_count=1) as cloud:
        rollouts = StagedRollouts(cloud, tmp_path)
        rollouts.add(*NAMES)
        yield rollouts


def sign_in(watched: Watched, token: str) -> None:
    watched.open("/")
    watched.page.wait_for_url("**/sign-in?**")
    watched.page.keyboard.type(token)
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url("**/devices")


def steps(watched: Watched, device: str) -> int:
    return int(watched.page.get_attribute(f"[data-device='{device}']", "data-steps"))


def notice(watched: Watched) -> str:
    return str(watched.page.inner_text("#rollout .notice"))


def test_devices_move_from_offered_to_confirmed_while_somebody_looks(browser: Chromium, staged: StagedRollouts) -> None:
    token = staged.cloud.token(role="operator", name="Ada")
    rollout = staged.start(WAVES, token)
    staged.look()
    with browser.page(staged.cloud.base_url) as watched:
        sign_in(watched, token)
        watched.open("/rollouts")
        assert "under way" in watched.page.inner_text("#rollouts")
        watched.page.keyboard.press("Tab")
        watched.page.click("text=Release 2")
        watched.page.wait_for_url(f"**/rollouts/{rollout}")
        assert steps(watched, "bench-1") == 1
        assert steps(watched, "ward-1") == 0
        staged.go()
        watched.page.wait_for_selector("[data-device='bench-1'][data-steps='5']")
        watched.page.wait_for_selector("text=Wave 0 is confirmed and rests.")
        assert steps(watched, "ward-1") == 2
        staged.go(seconds=601)
        staged.go(seconds=601)
        watched.page.wait_for_selector("text=Completed: 3 of 3 devices run the release.")
        assert watched.troubles == []


def test_a_model_that_was_stopped_says_why_in_plain_words_at_the_top(browser: Chromium, staged: StagedRollouts) -> None:
    token = staged.cloud.token(role="operator", name="Ada")
    rollout = staged.start(WAVES, token)
    staged.devices["bench-1"].fails = "E_SELFTEST"
    staged.go()
    staged.go()
    with browser.page(staged.cloud.base_url) as watched:
        sign_in(watched, token)
        watched.open(f"/rollouts/{rollout}")
        assert "in wave 0, bench-1 says: the model fails its self-test (E_SELFTEST)" in notice(watched)
        assert "back on its old model" in notice(watched)
        assert "red" in watched.page.inner_text(".gates")
        assert {device.active for device in staged.devices.values()} == {OLD}
        watched.open("/rollouts")
        assert "E_SELFTEST" in watched.page.inner_text("#rollouts")


def test_a_pause_is_one_key_and_an_abort_asks_once(browser: Chromium, staged: StagedRollouts) -> None:
    token = staged.cloud.token(role="operator", name="Ada")
    rollout = staged.start(WAVES, token)
    staged.go()
    with browser.page(staged.cloud.base_url) as watched:
        sign_in(watched, token)
        watched.open(f"/rollouts/{rollout}")
        watched.page.keyboard.press("p")
        watched.page.wait_for_selector("text=Paused by a person")
        watched.page.click("text=Resume")
        watched.page.wait_for_selector("text=Wave 0 is confirmed and rests.")
        watched.page.keyboard.press("a")
        watched.page.wait_for_selector("dialog[open]")
        watched.page.keyboard.press("Escape")
        assert watched.page.locator("dialog[open]").count() == 0
        watched.page.click("text=Abort…")
        watched.page.keyboard.type("the stain has changed")
        watched.page.wait_for_timeout(2500)  # the page is renewed behind the question
        assert watched.page.input_value("#abort-reason") == "the stain has changed"
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("text=Stopped by a person: the stain has changed.")
        staged.go()
        watched.page.wait_for_selector("text=Every device that was told of it is back on its old model.")
        assert watched.troubles == []


def test_who_may_only_look_sees_everything_and_can_do_nothing(browser: Chromium, staged: StagedRollouts) -> None:
    rollout = staged.start(WAVES, staged.cloud.token(role="operator"))
    staged.look()
    with browser.page(staged.cloud.base_url) as watched:
        sign_in(watched, staged.cloud.token(role="viewer", name="Lou"))
        watched.open(f"/rollouts/{rollout}")
        assert watched.page.locator("[data-device]").count() == 3
        assert watched.page.locator("#rollout button, #rollout form, dialog#abort").count() == 0
        watched.open("/rollouts/no-such")
        assert watched.page.inner_text("h1") == "Not found"


def test_another_sites_page_cannot_act_for_who_is_signed_in(browser: Chromium, staged: StagedRollouts) -> None:
    token = staged.cloud.token(role="operator")
    rollout = staged.start(WAVES, token)
    staged.look()
    path = f"{staged.cloud.base_url}/rollouts/{rollout}/abort"
    with httpx.Client(follow_redirects=False) as http:
        origin = {"Origin": staged.cloud.base_url}
        signed = http.post(f"{staged.cloud.base_url}/sign-in", data={"token": token}, headers=origin)
        assert signed.status_code == 303
        for headers in ({}, {"Origin": "https://elsewhere.example"}):
            assert http.post(path, headers=headers).status_code == 403
        assert http.post(path, headers=origin).status_code == 303
        assert http.post(f"{staged.cloud.base_url}/rollouts/{rollout}/explode", headers=origin).status_code == 404
    with httpx.Client(follow_redirects=False) as stranger:
        assert "/sign-in" in stranger.post(path, headers=origin).headers["location"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
def test_the_pages_are_whole_in_light_and_dark_at_the_desk_and_on_a_tablet(
    browser: Chromium, staged: StagedRollouts, size: dict[str, int], scheme: str
) -> None:
    token = staged.cloud.token(role="operator")
    with browser.page(staged.cloud.base_url, size=size, scheme=scheme) as watched:
        sign_in(watched, token)
        watched.open("/rollouts")
        assert "No rollout yet" in watched.page.inner_text("#rollouts")
        rollout = staged.start(WAVES, token)
        staged.go()
        for path in ("/rollouts", f"/rollouts/{rollout}"):
            watched.open(path)
            assert watched.overflow_px() <= 0, path
            assert watched.page.get_by_text("Research use only").is_visible()
            assert watched.page.evaluate(UNNAMED) == [], path
            if size is TABLET:
                assert watched.page.evaluate(SMALL_TARGETS) == [], path
        assert watched.troubles == []
