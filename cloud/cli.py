"""`ahs-cloud`: the web side, the worker, and what an operator does by hand.

Exit codes: 0 ended as asked; 1 something it needs does not answer; 2 settings or arguments that cannot work;
3 the port is taken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

import cloud
from cloud.config import Settings, load_settings
from cloud.errors import CloudError, ConfigurationError, Refused
from cloud.logs import configure_logs

T = TypeVar("T")

app = typer.Typer(
    name="ahs-cloud",
    help="Second opinions, devices and ingest of the Automated Hematology System. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
token_app = typer.Typer(help="Access tokens.", no_args_is_help=True)
audit_app = typer.Typer(help="The append-only record of changes.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(audit_app, name="audit")

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; AHS_CLOUD__... variables stand above it.")
]


@app.command()
def serve(config: Config = None) -> None:
    """Run the web side: the API, the console, /healthz, /readyz, /metrics."""
    _serve(config, web=True, worker=False)


@app.command()
def worker(config: Config = None) -> None:
    """Run the worker: ingest from the broker; the one that leads also sends opinions and reads fleet figures."""
    _serve(config, web=False, worker=True)


@app.command(name="all")
def all_in_one(config: Config = None) -> None:
    """Run web side and worker in one process: for a demo, or a small laboratory."""
    _serve(config, web=True, worker=True)


@app.command()
def migrate(
    config: Config = None,
    to: Annotated[str, typer.Option(help="Revision to go to; `base` removes everything.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back instead of forward.")] = False,
) -> None:
    """Bring the tables to the version of this program."""
    from cloud.storage import migrating

    settings = _settings(config)
    step = migrating.downgrade if down else migrating.migrate
    try:
        before, after = step(settings.database_url, settings.database, target=to)
    except CloudError as exc:
        raise _failed(exc) from exc
    typer.echo(f"tables: {before or 'empty'} -> {after or 'empty'}")


@app.command(name="check-config")
def check_config(config: Config = None) -> None:
    """Print the settings in effect, secrets masked; exit code 2 when they cannot work."""
    settings = _settings(config)
    document = settings.model_dump(mode="json")
    document["database"]["url"] = _without_password(settings.database_url)
    document["images"]["url"] = settings.images_url
    typer.echo(json.dumps(document, indent=2))


@app.command()
def openapi(out: Annotated[Path | None, typer.Option(help="File to write to, instead of stdout.")] = None) -> None:
    """Print the API's description (OpenAPI, JSON)."""
    from cloud.app import create_app

    text = json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(cloud.__version__)


@token_app.command("create")
def create_token(
    role: Annotated[str, typer.Option(help="viewer, technician, reviewer, engineer, operator or admin.")],
    site: Annotated[str, typer.Option(help="The site it is for; made if it is new.")],
    name: Annotated[str, typer.Option(help="Whose it is, for people and the audit trail.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="Life in days.")] = 90,
    config: Config = None,
) -> None:
    """Issue an access token and print it, alone on stdout. Devices get theirs from POST /v1/devices."""
    from cloud.operating import issue_token

    lifetime = timedelta(days=days)
    typer.echo(_run(issue_token(_settings(config), role=role, site=site, name=name, lifetime=lifetime)))


@token_app.command("revoke")
def revoke_token(
    principal: Annotated[str, typer.Argument(help="The principal's id, as `ahs-cloud audit show` names it.")],
    config: Config = None,
) -> None:
    """End all tokens of a principal."""
    from cloud.operating import revoke_tokens

    ended = _run(revoke_tokens(_settings(config), principal))
    typer.echo(f"{ended} tokens ended")


@audit_app.command("show")
def show_audit(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    config: Config = None,
) -> None:
    """Print the newest records, newest first, one JSON object a line."""
    from cloud.operating import read_audit

    for line in _run(read_audit(_settings(config), site=site, limit=limit)):
        typer.echo(line)


def _serve(config: Path | None, *, web: bool, worker: bool) -> None:
    from cloud.serving import serve as serve_until_signal

    settings = _settings(config)
    configure_logs(settings.log)
    if worker and not web and settings.broker.host is None:
        typer.echo("ahs-cloud: the worker has no broker: set broker.host (AHS_CLOUD__BROKER__HOST)", err=True)
        raise typer.Exit(2)
    _run(serve_until_signal(settings, web=web, worker=worker))


def _settings(config: Path | None) -> Settings:
    try:
        return load_settings(config)
    except ConfigurationError as exc:
        raise _failed(exc) from exc


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except CloudError as exc:
        raise _failed(exc) from exc


def _failed(exc: CloudError) -> typer.Exit:
    from cloud.serving import PortInUse

    typer.echo(f"ahs-cloud: {exc}", err=True)
    if isinstance(exc, PortInUse):
        return typer.Exit(3)
    return typer.Exit(2 if isinstance(exc, ConfigurationError | Refused) else 1)


def _without_password(url: str) -> str:
    from cloud.storage.engine_sqlalchemy import checked_url

    return checked_url(url).render_as_string(hide_password=True)
