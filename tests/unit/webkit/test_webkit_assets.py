from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import cloud.web
import edge_agent.console
from fleet.webkit import Assets, PageKit
from fleet.webkit.pages import HERE
from tests.fakes.asgi_client import AsgiClient

CONSOLES = [Path(str(package.__file__)).parent for package in (edge_agent.console, cloud.web)]


def client_of(assets: Assets) -> AsgiClient:
    async def serve(request: Request) -> Response:
        return assets.respond(request.path_params["name"], request)

    return AsgiClient(Starlette(routes=[Route("/static/{name:path}", serve)]))


def test_a_file_is_served_once_and_then_only_revalidated() -> None:
    client = client_of(Assets(HERE / "static"))
    first = client.get("/static/kit.css")
    assert first.headers["content-type"].startswith("text/css")
    again = client.get("/static/kit.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../pages.py", "..%2fpages.py", "nothing.js", "/etc/passwd"])
def test_nothing_outside_the_folder_can_be_had(name: str) -> None:
    assert client_of(Assets(HERE / "static")).get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("console", CONSOLES, ids=lambda path: path.parts[-2])
def test_every_module_and_style_sheet_that_is_named_is_there(console: Path) -> None:
    names = set(PageKit(console).assets.names)
    texts = [
        path.read_text(encoding="utf-8")
        for root in (console, HERE)
        for path in [*root.glob("templates/**/*.html"), *root.glob("static/*.js")]
    ]
    wanted = {name for text in texts for name in re.findall(r'"(?:/static/|\./)([\w.]+)"', text)}
    assert wanted
    assert wanted <= names


@pytest.mark.parametrize("root", [*CONSOLES, HERE], ids=lambda path: "-".join(path.parts[-2:]))
def test_no_page_needs_the_internet_or_anything_inline(root: Path) -> None:
    for path in [*root.glob("templates/**/*.html"), *root.glob("static/*")]:
        text = path.read_text(encoding="utf-8")
        outside = [url for url in re.findall(r"https?://[^\s\"')]+", text) if "www.w3.org" not in url]
        assert not outside, f"{path.name} names {outside}"
        if path.suffix == ".html":
            assert not re.search(r"\sstyle=|\son\w+=\"|<style|<script>", text), (
                f"{path.name} has inline style or script"
            )


def test_what_came_from_outside_is_escaped() -> None:
    kit = PageKit(CONSOLES[0])
    template = kit._environment.from_string("{{ name }}")
    assert template.render(name="<script>") == "&lt;script&gt;"
