"""A real browser that remembers everything that went wrong in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DESK = {"width": 1280, "height": 800}
TABLET = {"width": 834, "height": 1112}
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 60_000
SMALL_TARGETS = """() => [...document.querySelectorAll("button, .nav a, .tabs a, input:not([type=hidden])")]
  .filter((e) => e.checkVisibility() && !e.closest("dialog"))
  .filter((e) => { const b = e.getBoundingClientRect(); return b.height < 43.5 || b.width < 43.5; })
  .map((e) => e.outerHTML.slice(0, 90))"""
UNNAMED = """() => [...document.querySelectorAll("button, a, input:not([type=hidden]), canvas")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
  .map((e) => e.outerHTML.slice(0, 90))"""
VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
)


@dataclass
class Watched:
    """A page and its troubles: errors of scripts, refused by policy, requests that leave this machine."""

    page: Any
    base_url: str
    troubles: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Begins to remember."""

        def on_console(message: Any) -> None:
            if message.type == "error":
                self.troubles.append(message.text)

        def on_request(request: Any) -> None:
            if not request.url.startswith((self.base_url, "blob:", "data:")):
                self.troubles.append(f"left: {request.url}")

        self.page.on("console", on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", on_request)

    def open(self, path: str) -> None:
        """Goes to a path of the console and waits until its modules have run."""
        self.page.goto(self.base_url + path)
        self.page.wait_for_load_state("load")

    def overflow_px(self) -> int:
        """By how much the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


class Chromium:
    """Opens watched pages, each in a fresh profile."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextlib.contextmanager
    def page(
        self, base_url: str, *, size: dict[str, int] = DESK, scheme: str = "light", cookies: list[Any] | None = None
    ) -> Iterator[Watched]:
        """A page of `base_url` in a window of the given size."""
        context = self._browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(VIOLATIONS)
        if cookies:
            context.add_cookies(cookies)
        watched = Watched(context.new_page(), base_url)
        watched.listen()
        try:
            yield watched
        finally:
            context.close()


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    """Starts the browser that is installed; closes it at the end."""
    from playwright.sync_api import sync_playwright

    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield Chromium(browser)
        finally:
            browser.close()
