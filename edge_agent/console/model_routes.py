"""The model page.

/model  what runs here              /fragments/model    the parts that change
"""

from __future__ import annotations

from fastapi import FastAPI, Response

from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.view import ConsoleView


def add_model(app: FastAPI, view: ConsoleView, rendering: ConsoleRendering) -> None:
    """Adds the model page and what it asks for."""

    @app.get("/model")
    def model_page() -> Response:
        return rendering.page("model.html", "/model", live=view.snapshot(), card=view.model())

    @app.get("/fragments/model")
    def model_parts() -> Response:
        return rendering.piece("model_parts.html", live=view.snapshot(), card=view.model())
