"""`python -m edge_agent`."""

from __future__ import annotations

from edge_agent.cli import app

if __name__ == "__main__":
    app()
