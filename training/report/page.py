"""Puts the page together: sections of charts, tables and pictures from one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

import fleet.webkit
from models.bundle import Bundle
from models.bundle.manifest import CellClass, WhiteCellType
from training.errors import DataError
from training.evaluation import tables as t
from training.evaluation.tables import Rows
from training.evaluation.words import difference, interval, percent
from training.report.charts import Axes, Bar, Series, bar_chart, line_chart, matrix
from training.report.curves import Run, run_charts
from training.report.pictures import cell_cards, field_cards

HERE = Path(__file__).parent
KIT = Path(fleet.webkit.__file__).parent / "static"
TYPES = tuple(kind.value for kind in WhiteCellType)
RECALLS = [i / 100 for i in range(101)]
LEAST_FALL = -0.05
LEAST_DENSE_RECALL = 0.95
RISK_TOPS = (0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(slots=True)
class Section:
    """One part of the page.

    Attributes:
        key: of its address.
        title: as a heading.
        words: what a reader must know.
        charts, tables: in order.
        cells, fields: pictures of the worst errors.
    """

    key: str
    title: str
    words: str = ""
    charts: list[Markup] = field(default_factory=list)
    tables: list[Rows] = field(default_factory=list)
    cells: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    fields: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.charts or any(rows.rows for rows in self.tables) or self.cells or self.fields)


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure of the page's top: name, value, its limits, what it is over, and its state (ok, warning, plain)."""

    name: str
    value: str
    limits: str
    words: str
    state: str = "plain"


def report_page(document: Mapping[str, Any], bundle: Bundle, runs: Sequence[Run], pictures: Path | None) -> str:
    """The whole page as text.

    Args:
        document: of `ahs-train evaluate`.
        bundle: that the document speaks of.
        runs: training runs whose curves are shown.
        pictures: the data folder that the worst errors are cut from; None leaves them out.

    Raises:
        DataError: the document speaks of another bundle.
    """
    if document["bundle"]["digest"] != bundle.digest:
        raise DataError(
            f"the evaluation is of {document['bundle']['digest']}, the bundle is {bundle.digest}; evaluate this bundle"
        )
    sections = [s for s in _sections(document, runs, pictures) if not s.empty]
    return (
        page_environment()
        .get_template("report.html")
        .render(
            document=document,
            manifest=bundle.manifest,
            size_mb=sum(len(data) for data in bundle.files.values()) / 1e6,
            headlines=headlines(document),
            sections=sections,
            no_pictures=pictures is None,
            styles=page_styles(),
            theme=Markup((KIT / "theme.js").read_text(encoding="utf-8")),
        )
    )


def page_styles() -> Markup:
    """The consoles' style sheets and the page's own, to stand inside the page."""
    sheets = (KIT / "tokens.css", KIT / "kit.css", HERE / "static" / "report.css")
    return Markup("\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets))


def page_environment() -> Environment:
    """Templates of the pages; whatever they show is escaped."""
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def headlines(document: Mapping[str, Any]) -> list[Headline]:
    """The figures that one looks at first."""
    found: list[Headline] = []
    sets = document["fields"]
    main = next((name for name in ("val_clean", "test_clean", *sets) if name in sets), None)
    if main is not None:
        said = sets[main]["average_precision"]
        found += [
            _headline(words, said[key], f"{main}, {sets[main]['fields']} fields")
            for key, words in (("map50", "mAP50"), ("map", "mAP50-95"), ("map50_Platelets", "Platelets AP50"))
            if key in said
        ]
    for name, said in document["white_cells"].items():
        found.append(_headline("Balanced accuracy", said["balanced_accuracy"], f"{name}, {said['cells']} cells", 100))
        chosen = said["selective"]
        words = f"{name}: {chosen['wrong_cells']} of {chosen['accepted_cells']} named"
        found.append(_headline("Error among accepted", chosen["error_accepted"], words, 100))
        found.append(_headline("Accepted", chosen["accepted"], name, 100))
    return found + _checks(document)


def _headline(name: str, figure: Mapping[str, Any], words: str, factor: int = 1) -> Headline:
    text = percent(figure) if factor == 100 else interval(figure)
    value, _, limits = text.partition(" (")
    return Headline(name, value, limits.rstrip(")").replace("-", " to ", 1), words)


def _checks(document: Mapping[str, Any]) -> list[Headline]:
    found: list[Headline] = []
    if document["outsiders"] is not None:
        said = document["outsiders"]
        figure = said["scores"][said["chosen"]]["referred"]
        found.append(_headline("Outsiders referred", figure, f"{said['dataset']}, by {said['chosen']}", 100))
    if document["shifts"] is not None:
        rows = document["shifts"]["rows"]
        worst = min(rows, key=lambda row: float(row["difference"]["value"]))
        outside = sum(not row["within"] for row in rows)
        value, _, limits = difference(worst["difference"]).partition(" (")
        words = f"mAP50 under {worst['name']}; {outside} of {len(rows) - 1} shifts fall too far"
        found.append(Headline("Worst shift", value, limits.rstrip(")"), words, _state(not outside)))
    if document["scale"] is not None:
        consistency, dense = document["scale"]["consistency"], document["scale"]["dense"]
        largest = max(consistency["change_sum"].values(), key=abs)
        words = f"{consistency['fields']} fields at .5x and 2x"
        found.append(Headline("Red cells counted", f"{100 * largest:+.1f} %", "", words, _state(consistency["within"])))
        thin = min(dense, key=lambda row: float(row["recall"]))
        words = f"of {thin['true']} red cells in {thin['width_px']}x{thin['height_px']}; 95 % wanted"
        state = _state(thin["recall"] >= LEAST_DENSE_RECALL)
        found.append(Headline("Dense field found", f"{100 * thin['recall']:.1f} %", "", words, state))
    if document["speed"] is not None:
        said = document["speed"]
        words = f"{said['threads']} thread(s), {document['machine']['processor']}"
        found.append(Headline("A field, median", f"{said['median_ms']:.1f} ms", f"95th {said['p95_ms']:.1f}", words))
    return found


def _state(within: bool) -> str:
    return "ok" if within else "warning"


def _sections(document: Mapping[str, Any], runs: Sequence[Run], pictures: Path | None) -> list[Section]:
    cells, sets = document["white_cells"], document["fields"]
    made = [
        Section("boxes", "Boxes", charts=_precision_curves(sets), tables=[t.boxes(document), t.laboratories(document)]),
        _shifts(document),
        Section("scale", "Size of the picture", tables=_given(t.scale(document), t.dense(document))),
        Section(
            "white-cells",
            "White cells in use",
            "Found by the detector, cut, named. A cell that was not found is an error.",
            [_confusion(name, said) for name, said in cells.items()],
            [t.white_cells(document)],
        ),
        Section(
            "calibration",
            "Calibration",
            "A point on the diagonal is as often right as it is sure; its size says how many cells it stands for.",
            [_reliability(name, said) for name, said in cells.items() if "probabilities" in said],
            [t.chances(document)],
        ),
        Section(
            "naming",
            "Naming only what is sure",
            "From left to right more cells are named, the surest first, as far as cells were found; the mark is where "
            "the bundle stops. Mind the scales: they differ.",
            [_risk(name, said) for name, said in cells.items()],
            [t.naming(document), *_given(t.outsiders(document))],
        ),
    ]
    if runs:
        made.append(Section("training", "Training", charts=[c for run in runs for c in run_charts(run)]))
    if pictures is not None:
        made.append(_errors(document, pictures))
    made.append(Section("speed", "Speed", tables=_given(t.speed(document))))
    return made


def _given(*rows: Rows | None) -> list[Rows]:
    return [r for r in rows if r is not None]


def _precision_curves(sets: Mapping[str, Any]) -> list[Markup]:
    charts = []
    for name, said in sets.items():
        series = []
        for cls in (str(c) for c in CellClass):
            if cls not in said["curves"]:
                continue
            tone = 1 + [str(c) for c in CellClass].index(cls)
            for key, dashed in (("iou_50", False), ("iou_75", True)):
                points = list(zip(RECALLS, said["curves"][cls][key], strict=True))
                series.append(Series(f"{cls} IoU .{key[-2:]}", points, tone, dashed=dashed))
        charts.append(line_chart(f"Precision and recall, {name}", series, Axes("recall", "precision")))
    return charts


def _shifts(document: Mapping[str, Any]) -> Section:
    rows = t.shifts(document)
    if rows is None:
        return Section("shifts", "Another laboratory's look")
    bars = [
        Bar(
            row["name"],
            row["difference"]["value"],
            row["difference"]["low"],
            row["difference"]["high"],
            difference(row["difference"]),
            row["within"],
        )
        for row in document["shifts"]["rows"][1:]
    ]
    chart = bar_chart("mAP50 under each shift, difference from the clean fields", bars, limit=LEAST_FALL)
    words = "The dashed line is what is allowed. Whiskers: 95 % of paired resamples. ✕: falls further than allowed."
    return Section("shifts", "Another laboratory's look", words, [chart], [rows])


def _confusion(name: str, said: Mapping[str, Any]) -> Markup:
    columns = (*TYPES, "unidentified", "not found")
    return matrix(said["confusion_named"], TYPES, columns, f"{name}: what the bundle names")


def _reliability(name: str, said: Mapping[str, Any]) -> Markup:
    series = []
    for key, tone, dashed in (("calibrated", 2, False), ("uncalibrated", 1, True)):
        rows = said["probabilities"][key]["reliability"]
        points = [(row["confidence"], row["accuracy"]) for row in rows]
        weights = [row["cells"] for row in rows]
        series.append(Series(key, points, tone, dashed=dashed, marked=True, weights=weights))
    axes = Axes("top probability", "share right", diagonal=True)
    return line_chart(f"Reliability, {name} ({said['probabilities']['cells']} cells)", series, axes)


def _risk(name: str, said: Mapping[str, Any]) -> Markup:
    chosen = said["selective"]
    series = [Series("", [tuple(p) for p in chosen["curve"]], 2)]
    if chosen["error_accepted"]["value"] is not None:
        series.append(Series("", [(chosen["accepted"]["value"], chosen["error_accepted"]["value"])], 1, marked=True))
    highest = max((y for s in series for _, y in s.points), default=0.0)
    top = next((t for t in RISK_TOPS if t >= 1.05 * highest), 1.0)
    axes = Axes("share of the cells named", "share of wrong names", y_range=(0.0, top))
    return line_chart(f"Risk and coverage, {name}", series, axes)


def _errors(document: Mapping[str, Any], root: Path) -> Section:
    section = Section("errors", "Worst errors", "Dashed boxes were missed; solid ones are no such cell.")
    for name, said in document["white_cells"].items():
        cards = cell_cards(said["worst"], root)
        if cards:
            section.cells.append((name, cards))
    for name, said in document["fields"].items():
        shown = field_cards(said["worst"], root) if not name.endswith("_clean") else []
        if shown:
            section.fields.append((name, shown))
    return section
