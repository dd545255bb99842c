"""An evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.evaluation.tables import tables


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print every table."""
    bundle, method = document["bundle"], document["method"]
    console.print(f"{bundle['name']} {bundle['version']}, {bundle['digest']}. Research use only.", highlight=False)
    if method["limit"] is not None:
        console.print(f"A quick look: at most {method['limit']} pictures of a set.", style="yellow")
    for rows in tables(document):
        table = Table(*rows.header, title=rows.title, caption=rows.note or None, title_justify="left")
        for row in rows.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    console.print(f"Limits: {method['confidence']:.0%}, {method['resamples']} resamples.", style="dim", highlight=False)
