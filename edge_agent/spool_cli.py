"""`ahs-edge spool`: what waits to be sent, what cannot be, and another try; the agent may be running."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.command_line import ConfigOption, SetOption, answered, settings_of
from edge_agent.errors import ConfigurationError
from edge_agent.store.spool_rows_sqlite import SpoolRows

spool = typer.Typer(
    name="spool", help="What waits to be sent, and what cannot be; the agent may be running.", no_args_is_help=True
)

DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the agent's own files.")]
AsideOption = Annotated[bool, typer.Option("--aside", help="Only rows that are set aside.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@spool.command("ls")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only `event` or only `image`.")] = None,
    aside: AsideOption = False,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 1000,
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List the rows in the order in which they leave, with the reason of those that are set aside."""
    with answered():
        if kind not in (None, "event", "image"):
            raise ConfigurationError(f"--kind {kind}: use event or image")
        with _rows(config, set_, data_dir) as rows:
            for listed, row in enumerate(rows.rows(kind=kind, aside=aside)):
                if listed == limit:
                    typer.echo(f"... there are more; --limit {limit} was reached", err=True)
                    break
                if as_json:
                    typer.echo(json.dumps(asdict(row)))
                else:
                    state = f"set aside: {row.set_aside}" if row.set_aside is not None else "waits"
                    typer.echo(
                        f"{row.row:>8}  {row.kind:<5}  {row.what:<24}  {row.size_bytes:>9}  {row.created_at}  {state}"
                    )


@spool.command()
def show(
    row: Annotated[int, typer.Argument(help="The row's number.")],
    picture: Annotated[Path | None, typer.Option(help="Write its picture to this JPEG file.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print a row with all that it holds, as JSON."""
    with answered():
        with _rows(config, set_, data_dir) as rows:
            found = rows.whole(row)
        if picture is not None:
            if found.picture is None:
                raise ConfigurationError(f"row {row} holds no picture")
            _write(picture, found.picture)
        typer.echo(json.dumps({**asdict(found.row), "payload": found.payload}, indent=1))


@spool.command()
def retry(
    row: Annotated[list[int] | None, typer.Argument(help="Numbers of rows that are set aside.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row that is set aside.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Send rows again that were set aside; a running agent finds them within seconds."""
    with answered():
        if bool(row) is all_:
            raise ConfigurationError("name the rows, or give --all")
        with _rows(config, set_, data_dir, write=True) as rows:
            moved = rows.retry(None if all_ else row)
        if row and moved < len(row):
            raise ConfigurationError(f"{moved} of {len(row)} rows are sent again; the others are not set aside")
        typer.echo(f"{moved} rows are sent again", err=True)


@spool.command("export")
def export_(
    out: Annotated[Path, typer.Option(help="A new folder.")],
    aside: AsideOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write events as lines of `events.jsonl`, each picture as JPEG with its context beside it; nothing is removed."""
    with answered():
        with _rows(config, set_, data_dir) as rows:
            events, images = _exported(rows, out, aside=aside)
        typer.echo(f"{events} events, {images} pictures -> {out}", err=True)


@contextlib.contextmanager
def _rows(
    config: Path | None, set_: list[str] | None, data_dir: Path | None, *, write: bool = False
) -> Iterator[SpoolRows]:
    """The spool of the agent with these settings, closed behind the command."""
    folder = settings_of(config, set_, {"data_dir": data_dir}).data_dir
    with contextlib.closing(SpoolRows(folder, write=write)) as rows:
        yield rows


def _exported(rows: SpoolRows, out: Path, *, aside: bool) -> tuple[int, int]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigurationError(f"{out} is not empty: give a new folder")
    except OSError as exc:
        raise ConfigurationError(f"{out} cannot be used: {exc.strerror}") from exc
    events = images = 0
    for row in rows.rows(aside=aside):
        try:
            found = rows.whole(row.row)
        except ConfigurationError:
            # Acknowledged meanwhile: it is with the cloud.
            continue
        line = json.dumps({**asdict(found.row), "payload": found.payload})
        if row.kind == "event":
            _write(out / "events.jsonl", (line + "\n").encode(), mode="ab")
            events += 1
        else:
            _write(out / f"{row.boot}-{row.seq}.json", (line + "\n").encode())
            _write(out / f"{row.boot}-{row.seq}.jpg", found.picture or b"")
            images += 1
    return events, images


def _write(path: Path, data: bytes, *, mode: str = "wb") -> None:
    try:
        with path.open(mode) as file:
            file.write(data)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
