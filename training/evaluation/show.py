"""An evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from training.evaluation.tables import Rows, tables


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print every table."""
    bundle, method = document["bundle"], document["method"]
    console.print(f"{bundle['name']} {bundle['version']}, {bundle['digest']}. Research use only.", highlight=False)
    if method["limit"] is not None:
        console.print(f"A quick look: at most {method['limit']} pictures of a set.", style="yellow")
    for rows in tables(document):
        show_rows(console, rows)
    console.print(f"Limits: {method['confidence']:.0%}, {method['resamples']} resamples.", style="dim", highlight=False)


def show_rows(console: Console, rows: Rows) -> None:
    """Print one table."""
    columns = [Column(name, overflow="fold") for name in rows.header]
    table = Table(*columns, title=rows.title, caption=rows.note or None, title_justify="left")
    for row in rows.rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
