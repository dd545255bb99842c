"""What the commands of `ahs-fleet` share: where the cloud is, who asks, and errors as a sentence and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fleet.client import CloudClient
from fleet.client.errors import ClientError

EXIT_BAD_INPUT = 2

Cloud = Annotated[str, typer.Option(envvar="AHS_FLEET_CLOUD", help="address of the cloud")]
Token = Annotated[Path | None, typer.Option(help="file with your access token; else AHS_FLEET_TOKEN")]
DEFAULT_CLOUD = "http://127.0.0.1:8080"

out = Console()
err = Console(stderr=True)


@contextmanager
def connected(cloud: str, token_file: Path | None, *, timeout_s: float = 10.0) -> Iterator[CloudClient]:
    """A client, its errors turned into a sentence and an exit code."""
    try:
        token = token_file.read_text().strip() if token_file else os.environ.get("AHS_FLEET_TOKEN")
    except OSError as exc:
        err.print(f"[bold red]{token_file}[/]: {exc.strerror}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from exc
    if not token:
        err.print("no access token: give --token-file, or set AHS_FLEET_TOKEN")
        raise typer.Exit(EXIT_BAD_INPUT)
    try:
        with CloudClient(cloud, token, timeout_s=timeout_s) as client:
            yield client
    except (ClientError, ValueError) as exc:
        err.print(f"[bold red]{cloud}[/]: {exc}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from exc
