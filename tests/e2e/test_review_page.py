"""Reading an uncertain image in a real browser: keys, undo, reload, two readers, and a server that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.chromium import DESK, SMALL_TARGETS, TABLET, UNNAMED, Chromium, Watched, chromium
from tests.fakes.console_cloud import CloudForConsole, running_cloud

pytestmark = pytest.mark.chromium

FIELDS = 4


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


class Desk:
    """A cloud whose images are asked for anew by each test, and the readers who sit before it."""

    def __init__(self, cloud: CloudForConsole) -> None:
        self.cloud = cloud
        self.device_token = cloud.add_device("bench-1")
        self.readers = {name: cloud.token(name=name, role=role) for name, role in PEOPLE.items()}
        self._asked = 0

    def image(self, *, unsure: int = 2) -> dict[str, Any]:
        """A new image that waits for a person: always of the field with the most white cells."""
        fields = self.cloud.fields
        most = max(range(len(fields)), key=lambda i: sum(c.cell_type is not None for c in fields[i].cells))
        self._asked += 1
        return self.cloud.ask(
            self.device_token, most, device="bench-1", unsure=unsure, capture=f"bench-1/9/{self._asked}"
        )

    def labels(self, opinion: dict[str, Any]) -> dict[Any, str]:
        """What counts on the server now, by cell."""
        answer = httpx.get(
            f"{self.cloud.base_url}/v1/reviews/{opinion['id']}/labels",
            headers={"Authorization": f"Bearer {self.readers['Dr. Weiss']}"},
            timeout=20,
        )
        return {row["cell"]: row["label"] for row in answer.json()["labels"]}

    def state(self, opinion: dict[str, Any]) -> str:
        """The state on the server now."""
        answer = httpx.get(
            f"{self.cloud.base_url}/v1/second-opinions/{opinion['id']}",
            headers={"Authorization": f"Bearer {self.readers['Dr. Weiss']}"},
            timeout=20,
        )
        return str(answer.json()["state"])


PEOPLE = {"Dr. Weiss": "reviewer", "Dr. Adler": "reviewer", "Viola": "viewer"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), field_count=FIELDS) as cloud:
        yield Desk(cloud)


def sign_in(watched: Watched, token: str) -> None:
    watched.open("/sign-in")
    watched.page.keyboard.type(token)
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url("**/devices")


def read(watched: Watched, opinion: dict[str, Any], query: str = "") -> None:
    """Opens an image and waits until it can be read."""
    watched.open(f"/review/{opinion['id']}{query}")
    watched.page.wait_for_selector("#review[data-ready=true]")


def saved(watched: Watched) -> None:
    watched.page.wait_for_function("() => document.querySelector('#save-state').textContent.trim() === 'All saved'")


def place(watched: Watched) -> str:
    """The chosen cell."""
    return str(watched.page.get_attribute("#gallery [aria-selected=true]", "data-cell"))


def progress(watched: Watched) -> str:
    return str(watched.page.inner_text("#progress-text"))


def label_of(watched: Watched, cell: str) -> str:
    return str(watched.page.inner_text(f"#gallery [data-cell='{cell}'] [data-label-line]")).strip()


def test_keys_label_cell_after_cell_the_least_sure_first_and_enter_goes_on(browser: Chromium, desk: Desk) -> None:
    older, opinion = desk.image(), desk.image()
    cells = len(opinion["cells"])
    unsure = [n for n, cell in enumerate(opinion["cells"]) if cell["cloud"]["cell_type"]["label"] == "unidentified"]
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        assert progress(watched) == f"0 of {cells} cells labelled"
        visited = []
        for key in "1nx2345"[:cells]:
            visited.append(int(place(watched)))
            watched.page.keyboard.press(key)
        saved(watched)
        assert sorted(visited[: len(unsure)]) == unsure
        names = ["neutrophil", "not_classed", "artefact", "lymphocyte", "monocyte", "eosinophil", "basophil"]
        assert desk.labels(opinion) == dict(zip(visited, names, strict=False))
        assert progress(watched) == f"{cells} of {cells} cells labelled"
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_url(f"**/review/{older['id']}")
        assert desk.state(opinion) == "reviewed"
        assert watched.troubles == []


def test_undo_takes_labels_back_one_after_the_other(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.keyboard.press("1")
        watched.page.keyboard.press("ArrowLeft")
        watched.page.keyboard.press("2")
        saved(watched)
        assert desk.labels(opinion) == {int(first): "lymphocyte"}
        watched.page.keyboard.press("u")
        saved(watched)
        assert label_of(watched, first) == "Neutrophil"
        assert desk.labels(opinion) == {int(first): "neutrophil"}
        watched.page.keyboard.press("u")
        saved(watched)
        assert desk.labels(opinion) == {}
        assert place(watched) == first
        assert watched.page.is_disabled("#undo")


def test_a_reload_keeps_the_work_and_its_undo(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.keyboard.press("3")
        saved(watched)
        read(watched, opinion)
        assert label_of(watched, first) == "Monocyte"
        assert progress(watched).startswith("1 of ")
        assert place(watched) != first
        watched.page.keyboard.press("u")
        saved(watched)
        assert desk.labels(opinion) == {}


def test_done_is_refused_while_a_cell_has_no_label_and_goes_to_it(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.keyboard.press("End")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("text=Not done yet")
        assert place(watched) == first
        assert desk.state(opinion) == "pending_review"


def test_several_cells_get_one_label(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        watched.page.keyboard.press("Space")
        watched.page.keyboard.press("ArrowRight")
        watched.page.keyboard.press("Space")
        assert watched.page.inner_text("#marked-text") == "2 selected"
        watched.page.keyboard.press("5")
        saved(watched)
        assert sorted(desk.labels(opinion).values()) == ["basophil", "basophil"]
        watched.page.keyboard.press("u")
        saved(watched)
        assert desk.labels(opinion) == {}


def test_a_second_reader_sees_the_first_ones_word_and_may_differ(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as one, browser.page(desk.cloud.base_url) as two:
        sign_in(one, desk.readers["Dr. Weiss"])
        sign_in(two, desk.readers["Dr. Adler"])
        read(one, opinion)
        first = place(one)
        one.page.keyboard.press("1")
        saved(one)
        read(two, opinion)
        assert label_of(two, first) == "Neutrophil Dr. Weiss"
        two.page.click(f"#gallery [data-cell='{first}']")
        two.page.keyboard.press("4")
        saved(two)
        assert desk.labels(opinion) == {int(first): "eosinophil"}
        two.page.keyboard.press("u")
        saved(two)
        assert label_of(two, first) == "Neutrophil Dr. Weiss"
        assert desk.labels(opinion) == {int(first): "neutrophil"}


def test_a_read_of_ones_own_shows_no_suggestion_and_says_so_with_each_label(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Adler"])
        read(watched, opinion)
        watched.page.click("text=Hide suggestions")
        watched.page.wait_for_selector("#review[data-blind=true][data-ready=true]")
        html = watched.page.content()
        assert "Suggested" not in html
        assert "possible:" not in html
        assert "51" not in watched.page.inner_text("#gallery")
        watched.page.keyboard.press("1")
        saved(watched)
        answer = httpx.get(
            f"{desk.cloud.base_url}/v1/reviews/{opinion['id']}/labels",
            headers={"Authorization": f"Bearer {desk.readers['Dr. Adler']}"},
            timeout=20,
        )
        assert [row["suggestion_shown"] for row in answer.json()["labels"]] == [False]


def test_labels_given_while_the_server_is_away_are_kept_told_and_sent_when_it_is_back(
    browser: Chromium, desk: Desk
) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.route("**/v1/reviews/**", lambda route: route.abort())
        watched.page.keyboard.press("2")
        watched.page.wait_for_selector("#save-problem:not([hidden])")
        assert "1 label is kept in this browser" in watched.page.inner_text("#save-problem")
        assert label_of(watched, first) == "Lymphocyte not saved yet"
        watched.page.keyboard.press("3")
        watched.page.wait_for_selector("text=2 labels are kept in this browser")
        assert desk.labels(opinion) == {}
        watched.page.unroute("**/v1/reviews/**")
        watched.page.click("#try-now")
        saved(watched)
        assert watched.page.is_hidden("#save-problem")
        assert sorted(desk.labels(opinion).values()) == ["lymphocyte", "monocyte"]


def test_a_crash_while_the_server_is_away_loses_nothing(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.route("**/v1/reviews/**", lambda route: route.abort())
        watched.page.keyboard.press("2")
        watched.page.wait_for_selector("#save-problem:not([hidden])")
        watched.page.context.new_page()
        again = watched.page.context.pages[-1]
        watched.page.close(run_before_unload=False)
        again.goto(f"{desk.cloud.base_url}/review/{opinion['id']}")
        again.wait_for_function("() => document.querySelector('#save-state').textContent.trim() === 'All saved'")
        again.wait_for_selector(f"#gallery [data-cell='{first}'][data-labelled=true]")
        assert desk.labels(opinion) == {int(first): "lymphocyte"}


def test_a_session_that_ends_keeps_the_labels_until_one_has_signed_in_again(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        first = place(watched)
        watched.page.context.clear_cookies()
        watched.page.keyboard.press("2")
        watched.page.wait_for_selector("text=Your session is over")
        assert desk.labels(opinion) == {}
        other = Watched(watched.page.context.new_page(), watched.base_url)
        sign_in(other, desk.readers["Dr. Weiss"])
        watched.page.click("#try-now")
        saved(watched)
        assert desk.labels(opinion) == {int(first): "lymphocyte"}


def test_a_missed_cell_is_added_by_dragging_a_box(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        where = free_spot(watched, opinion)
        watched.page.keyboard.press("b")
        drag(watched, *where)
        watched.page.wait_for_selector("#added:not([hidden]) [data-cell]")
        watched.page.keyboard.press("Escape")
        assert watched.page.is_hidden("#added")
        watched.page.keyboard.press("b")
        drag(watched, *where)
        watched.page.wait_for_selector("#added:not([hidden]) [aria-selected=true]")
        watched.page.keyboard.press("5")
        saved(watched)
        assert desk.labels(opinion) == {None: "basophil"}
        read(watched, opinion)
        assert "Basophil" in watched.page.inner_text("#added")


def free_spot(watched: Watched, opinion: dict[str, Any]) -> tuple[int, int]:
    """A place of the field, in pixels, where 50 by 50 of them touch no white cell."""
    boxes = [(cell["cloud"] or cell["edge"])["bbox"] for cell in opinion["cells"]]
    for y in range(10, 400, 20):
        for x in range(10, 560, 20):
            if all(x + 60 < bx or x > bx + bw + 10 or y + 60 < by or y > by + bh + 10 for bx, by, bw, bh in boxes):
                return x, y
    raise AssertionError("no free spot")


def drag(watched: Watched, x: int, y: int) -> None:
    """Drags a box of 50 by 50 pixels of the field, which is shown whole."""
    frame = watched.page.locator("#field").bounding_box()
    size = watched.page.evaluate("fetch(document.querySelector('#field').dataset.boxes).then((a) => a.json())")
    scale = min(frame["width"] / size["width_px"], frame["height"] / size["height_px"])
    left = frame["x"] + (frame["width"] - size["width_px"] * scale) / 2
    top = frame["y"] + (frame["height"] - size["height_px"] * scale) / 2
    watched.page.mouse.move(left + x * scale, top + y * scale)
    watched.page.mouse.down()
    watched.page.mouse.move(left + (x + 50) * scale, top + (y + 50) * scale, steps=4)
    watched.page.mouse.up()


def test_mouse_and_touch_alone_read_an_image(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url, size=TABLET) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        for group in watched.page.locator("[data-select-group]").all():
            group.click()
        watched.page.click("#gallery [data-labelled=false] >> nth=0")
        total = len(opinion["cells"])
        for _ in range(total):
            if progress(watched).startswith(f"{total} of"):
                break
            watched.page.click("#labels [data-label=monocyte]")
        saved(watched)
        assert set(desk.labels(opinion).values()) == {"monocyte"}
        watched.page.click("#done")
        watched.page.wait_for_url(lambda url: opinion["id"] not in url.split("?")[0])
        assert desk.state(opinion) == "reviewed"


def test_who_may_not_label_sees_labels_and_no_keys(browser: Chromium, desk: Desk) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url) as watched:
        sign_in(watched, desk.readers["Viola"])
        read(watched, opinion)
        assert watched.page.locator("#labels").count() == 0
        assert "You may look, not label." in watched.page.inner_text("main")
        watched.page.keyboard.press("1")
        watched.page.keyboard.press("u")
        assert desk.labels(opinion) == {}
        assert watched.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, {"width": 820, "height": 1180}, {"width": 390, "height": 844}], ids=str)
def test_the_page_is_whole_at_each_size(browser: Chromium, desk: Desk, size: dict[str, int], scheme: str) -> None:
    opinion = desk.image()
    with browser.page(desk.cloud.base_url, size=size, scheme=scheme) as watched:
        sign_in(watched, desk.readers["Dr. Weiss"])
        read(watched, opinion)
        assert watched.overflow_px() <= 0
        assert watched.page.evaluate(UNNAMED) == []
        if size is not DESK:
            assert watched.page.evaluate(SMALL_TARGETS) == []
        assert watched.page.get_by_text("Research use only").is_visible()
        watched.page.keyboard.press("?")
        assert "Not classed" in watched.page.inner_text("#help")
        assert watched.troubles == []
