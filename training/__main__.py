"""`python -m training` is `ahs-train`."""

from training.cli import app

app()
