"""`ahs-fleet labels`: what persons have said of white cells."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from fleet.client.datasets import ANNOTATIONS, Downloaded, download_dataset
from fleet.connecting import DEFAULT_CLOUD, EXIT_BAD_INPUT, Cloud, Token, connected, err, out

app = typer.Typer(no_args_is_help=True, help="What persons have said of white cells.")


@app.command("show")
def show_labels(opinion: str, cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """The label that counts for each white cell of an image."""
    with connected(cloud, token_file) as client:
        review = client.get_labels(opinion)
    table = Table(title=f"{review.opinion}: {review.state.value}")
    for column in ("cell", "label", "reader", "at", "larger model", "device"):
        table.add_column(column)
    for row in review.labels:
        cell = "missed" if row.cell is None else str(row.cell)
        words = (row.suggested or "not seen", row.edge_label or "not seen")
        table.add_row(cell, row.label, row.reader, row.labelled_at.isoformat(timespec="seconds"), *words)
    out.print(table)


@app.command("export")
def export_labels(
    to: Annotated[Path, typer.Option("--out", help="folder for annotations.json and images/")],
    since: Annotated[datetime | None, typer.Option(help="labelled at or after, UTC")] = None,
    device: Annotated[str | None, typer.Option(help="only of this device")] = None,
    reader: Annotated[str | None, typer.Option(help="only labels of this reader")] = None,
    partial: Annotated[bool, typer.Option(help="also of images that are not read to their end")] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Brings labelled images here as COCO (schema ahs.coco/1). Broken off, the same command goes on where it was."""
    moment = since.replace(tzinfo=UTC) if since else None
    try:
        with connected(cloud, token_file) as client, Progress(console=err, transient=True) as bar:
            task = bar.add_task("images", total=None)
            done = download_dataset(
                client,
                to,
                since=moment,
                device=device,
                reader=reader,
                partial=partial,
                progress=lambda at, total: bar.update(task, completed=at, total=total),
            )
    except OSError as exc:
        err.print(f"[bold red]{to}[/]: {exc.strerror}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from exc
    _tell(done)


def _tell(done: Downloaded) -> None:
    info = done.export.info
    out.print(f"{done.folder / ANNOTATIONS}", highlight=False, soft_wrap=True)
    out.print(f"{len(done.export.images)} images ({done.fetched} fetched), {len(done.export.annotations)} labels")
    for label, count in info.labels.items():
        out.print(f"  {label:<12} {count}", highlight=False)
    out.print(f"manifest sha256:{info.manifest_sha256}", highlight=False, soft_wrap=True)
