"""`python -m fleet` is `ahs-fleet`."""

from fleet.cli import app

app(prog_name="ahs-fleet")
