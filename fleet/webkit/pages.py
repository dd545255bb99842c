"""Pages: Jinja templates on the shared frame, with the headers every page carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from fleet.webkit import words
from fleet.webkit.assets import Assets

HERE = Path(__file__).parent

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""No inline script, no inline style, nothing from elsewhere, no framing, no copy left in a shared cache."""


class PageKit:
    """Renders a console's own templates over the shared frame and macros."""

    def __init__(self, console_dir: Path) -> None:
        """Args: console_dir: holds `templates/` and `static/` of one console."""
        self.assets = Assets(HERE / "static", console_dir / "static")
        self._environment = Environment(
            loader=ChoiceLoader(
                [FileSystemLoader(console_dir / "templates"), FileSystemLoader(HERE / "templates")],
            ),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(words.FILTERS)

    def fragment(self, template: str, **values: object) -> str:
        """A piece of a page as text."""
        return self._environment.get_template(template).render(**values)

    def page(self, template: str, *, status_code: int = 200, **values: object) -> HTMLResponse:
        """A whole page with its security headers."""
        return HTMLResponse(self.fragment(template, **values), status_code=status_code, headers=dict(SECURITY_HEADERS))
