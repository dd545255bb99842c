"""A comparison as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from training.evaluation.tables import Rows
from training.evaluation.words import difference, interval
from training.report.charts import Bar, bar_chart
from training.report.page import KIT, page_environment, page_styles

TIME = "time of a field, ms"


def comparison_rows(document: Mapping[str, Any]) -> Rows:
    """Every difference, b less a."""
    names = {key: f"{key.upper()}: {document[key]['name']} {document[key]['version']}" for key in ("a", "b")}
    rows = []
    for row in document["differences"]:
        digits = 1 if row["figure"] == TIME else 3
        said = [interval(row[key], digits=digits) for key in ("a", "b")]
        better = {"a": "A is better", "b": "B is better"}.get(row["better"], "not told apart")
        rows.append((row["over"], row["figure"], *said, difference(row["difference"], digits=digits), better))
    title = f"{names['b']} against {names['a']}"
    return Rows(title, ("set", "figure", "A", "B", "B less A", ""), tuple(rows))


def comparison_page(document: Mapping[str, Any]) -> str:
    """The comparison as one HTML page."""
    return (
        page_environment()
        .get_template("comparison.html")
        .render(
            document=document,
            table=comparison_rows(document),
            charts=_charts(document),
            styles=page_styles(),
            theme=Markup((KIT / "theme.js").read_text(encoding="utf-8")),
        )
    )


def _charts(document: Mapping[str, Any]) -> list[Markup]:
    """Shares and precisions together, times apart: they have another unit."""
    shares = [row for row in document["differences"] if row["figure"] != TIME and _known(row)]
    times = [row for row in document["differences"] if row["figure"] == TIME and _known(row)]
    charts = []
    if shares:
        charts.append(bar_chart("B less A: precision and shares", [_bar(row, 3) for row in shares]))
    if times:
        charts.append(bar_chart("B less A: time of a field, ms", [_bar(row, 1) for row in times]))
    return charts


def _known(row: Mapping[str, Any]) -> bool:
    return row["difference"]["value"] is not None


def _bar(row: Mapping[str, Any], digits: int) -> Bar:
    said = row["difference"]
    good = {"a": False, "b": True}.get(row["better"])
    name = row["over"] if row["figure"] == TIME else f"{row['figure']}, {row['over']}"
    return Bar(name, said["value"], said["low"], said["high"], difference(said, digits=digits), good)
