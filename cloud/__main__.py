"""`python -m cloud`."""

from __future__ import annotations

from cloud.cli import app

if __name__ == "__main__":
    app(prog_name="ahs-cloud")
