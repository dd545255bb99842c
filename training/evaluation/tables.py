"""An evaluation as tables: one set of rows for the terminal, the card and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.bundle.manifest import CellClass
from training.evaluation.words import difference, interval, percent, plain

FEW_CELLS = 30


@dataclass(frozen=True, slots=True)
class Rows:
    """A table.

    Attributes:
        title: what it shows.
        header: of the columns.
        rows: as text.
        note: what a reader must know, "" for nothing.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(document: Mapping[str, Any]) -> list[Rows]:
    """Every table of an evaluation that has something to show."""
    made: list[Rows | None] = [
        boxes(document),
        laboratories(document),
        white_cells(document),
        chances(document),
        naming(document),
    ]
    made += [outsiders(document), shifts(document), scale(document), dense(document), speed(document)]
    return [table for table in made if table is not None and table.rows]


def boxes(document: Mapping[str, Any]) -> Rows:
    """Average precision of each set."""
    rows = [(name, str(s["fields"]), *_precisions(s)) for name, s in document["fields"].items()]
    return Rows("Boxes", ("set", "fields", "mAP50", "mAP50-95", *(f"{c} AP50" for c in CellClass)), tuple(rows))


def laboratories(document: Mapping[str, Any]) -> Rows:
    """The same by laboratory."""
    rows = [
        (f"{name}: {source}", str(s["fields"]), *_precisions(s))
        for name, figures in document["fields"].items()
        for source, s in figures["slices"].items()
    ]
    header = ("set: laboratory", "fields", "mAP50", "mAP50-95", *(f"{c} AP50" for c in CellClass))
    return Rows("Boxes by laboratory", header, tuple(rows))


def _precisions(figures: Mapping[str, Any]) -> tuple[str, ...]:
    said = figures["average_precision"]
    by_class = [_of_class(said.get(f"map50_{c}"), figures["cells"][str(c)]) for c in CellClass]
    return (interval(said.get("map50")), interval(said.get("map")), *by_class)


def _of_class(figure: Mapping[str, Any] | None, cells: int) -> str:
    """A figure of few cells says so."""
    return interval(figure) + (f", {cells} cells" if 0 < cells < FEW_CELLS else "")


def white_cells(document: Mapping[str, Any]) -> Rows:
    """How many are found and named right."""
    rows = [
        (
            name,
            str(s["cells"]),
            f"{s['groups']} ({s['resampled_by']})",
            percent(s["found"]),
            percent(s["balanced_accuracy"]),
            percent(s["balanced_accuracy_found"]),
        )
        for name, s in document["white_cells"].items()
    ]
    header = ("set", "cells", "resampled", "found", "balanced accuracy", "of those found")
    return Rows("White cells in use", header, tuple(rows), "A cell that was not found is an error.")


def chances(document: Mapping[str, Any]) -> Rows:
    """How good the probabilities are, beside the uncalibrated head; and the sets."""
    rows = []
    for name, s in document["white_cells"].items():
        if "probabilities" not in s:
            continue
        p, c = s["probabilities"], s["conformal"]
        pairs = [
            f"{interval(p['calibrated'][k])} / {plain(p['uncalibrated'][k]['value'])}" for k in ("nll", "brier", "ece")
        ]
        rows.append((name, *pairs, percent(c["coverage"]), interval(c["mean_size"], digits=2)))
    header = ("set", "NLL, calibrated / not", "Brier", "ECE", "coverage of the sets", "mean size")
    return Rows("Probabilities", header, tuple(rows), "Over the cells that were found.")


def naming(document: Mapping[str, Any]) -> Rows:
    """What is named, and how many of the names are wrong."""
    rows = []
    for name, s in document["white_cells"].items():
        c = s["selective"]
        wrong = f"{c['wrong_cells']} of {c['accepted_cells']}"
        errors = (percent(c["error_accepted"]), _limits(c["error_accepted_resampled"]))
        rows.append((name, percent(c["accepted"]), wrong, *errors, interval(c["aurc"], digits=4)))
    header = ("set", "accepted", "wrong", "error among accepted (exact)", "resampled", "area under risk-coverage")
    return Rows("Naming only what is sure", header, tuple(rows))


def _limits(figure: Mapping[str, Any]) -> str:
    return "-" if figure["low"] is None else f"{100 * figure['low']:.1f}-{100 * figure['high']:.1f} %"


def outsiders(document: Mapping[str, Any]) -> Rows | None:
    """Cells that are none of the types."""
    said = document["outsiders"]
    if said is None:
        return None
    rows = [
        (f"{name} *" if name == said["chosen"] else name, percent(s["referred"]), percent(s["referred_ordinary"]))
        for name, s in said["scores"].items()
    ]
    shipped = said["as_shipped"]
    rows.append(("left without a name, as shipped", percent(shipped["outsiders"]), percent(shipped["ordinary"])))
    note = (
        f"{said['judged']} of {said['outsiders']} cells judged, {said['ordinary_judged']} ordinary ones. Thresholds "
        "and the score (*) are chosen on the other halves."
    )
    return Rows("Cells that are none of the types", ("score", "referred", "ordinary referred"), tuple(rows), note)


def shifts(document: Mapping[str, Any]) -> Rows | None:
    """mAP50 under each shift."""
    said = document["shifts"]
    if said is None:
        return None
    rows = [
        (
            row["name"],
            f"{row['strength']:g}: {row['words']}",
            interval(row["average_precision"]["map50"]),
            difference(row["difference"]),
            "yes" if row["within"] else "NO",
        )
        for row in said["rows"]
    ]
    title = f"Another laboratory's look ({said['split']}, {said['fields']} fields)"
    return Rows(title, ("shift", "strength", "mAP50", "difference", "within .05"), tuple(rows))


def scale(document: Mapping[str, Any]) -> Rows | None:
    """Counts at other sizes."""
    if document["scale"] is None:
        return None
    c = document["scale"]["consistency"]
    field, header = c["change_field"], ("red cells counted", "change")
    rows = [(f"sum at {f}x", f"{100 * v:+.2f} %") for f, v in c["change_sum"].items() if f != "1.0"]
    if field["median"] is not None:
        rows += [
            ("a field, median", f"{100 * field['median']:.1f} %"),
            *([("a field, mean", f"{100 * field['mean']:.1f} %")] if "mean" in field else []),
            ("a field, worst", f"{100 * field['worst']:.1f} % ({c['worst_file']})"),
            ("fields within 3 %", f"{100 * field['fields_within']:.0f} %"),
        ]
    # Documents of before these were measured are shown as they are.
    for factor, e in c.get("count_error", {}).items():
        words = f"{100 * e['sum']:+.2f} %, a field {100 * e['field']:.2f} %"
        moved = f" (moved by {100 * e['change_sum']:+.2f} and {100 * e['change_field']:+.2f})"
        rows.append((f"error against the annotations at {factor}x", words + (moved if factor != "1.0" else "")))
    return Rows(f"The same field at other sizes ({c['fields']} fields)", header, tuple(rows))


def dense(document: Mapping[str, Any]) -> Rows | None:
    """Fields with very many red cells."""
    if document["scale"] is None:
        return None
    rows = [
        (
            f"{r['width_px']}x{r['height_px']}",
            str(r["true"]),
            str(r["counted"]),
            plain(r["recall"]),
            plain(r["precision"]),
            str(r["passes"]),
        )
        for r in document["scale"]["dense"]
    ]
    header = ("generated field", "red cells", "counted", "recall", "precision", "passes")
    return Rows("Dense fields", header, tuple(rows))


def speed(document: Mapping[str, Any]) -> Rows | None:
    """Where the time goes."""
    said = document["speed"]
    if said is None:
        return None
    rows = [("field, median", f"{said['median_ms']:.1f} ms"), ("field, 95th percentile", f"{said['p95_ms']:.1f} ms")]
    rows += [(f"{stage}, median", f"{ms:.2f} ms") for stage, ms in said["stage_ms"].items()]
    share = f"{said['domain_score_ms']:.3f} ms a field, {100 * said['domain_score_share']:.2f} % of the pipeline"
    rows.append(("domain score", share))
    machine = document["machine"]
    title = f"Speed ({said['threads']} thread(s), {machine['processor']}, {machine['cores']} cores)"
    return Rows(title, ("part", "time"), tuple(rows))
