"""A data set on one page: counts, sizes, light and stain, and fields with their boxes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from models.bundle.manifest import CellClass
from models.runtime.imaging import encode_jpeg, read_image
from training.charts import COLOURS, histogram, scatter
from training.data.formats.annotated import AnnotatedSet, Picture
from training.data.statistics import Look, Statistics, source_of
from training.page import figure, grid, page, paragraph, section, table

SHOWN_PX = 640
"""Longest side of an example on the page."""
JPEG_QUALITY = 82
BARS = 30
MOST_SOURCES = 6
_CELL_COLOURS = {"RBC": "#d55e00", "WBC": "#0057b8", "Platelets": "#007a5a"}


def statistics_page(name: str, data: AnnotatedSet, found: Statistics, *, examples: int = 9, seed: int = 0) -> str:
    """The page; it holds pictures of the data set, so it is as free to give away as they are."""
    cells = int(sum(sum(own.values()) for own in found.cells.values()))
    what = f"{cells} boxes" if data.has_boxes else "one class a picture"
    lead = (
        f"{len(data.pictures)} pictures, {what}, {len(found.looks)} {_plural(data)}. "
        "The pictures shown are the data set's own: its licence holds for this page."
    )
    sections = [section("Counts", *_counts(data, found))]
    if data.has_boxes:
        sections.append(section("Cells and their sizes", *_sizes(data, found)))
    sections.append(section("Light and stain", *_looks(data, found)))
    sections.append(section("Examples", *_examples(data, examples, seed)))
    return page(f"Data set {name}", lead, sections)


def _grouped_by(data: AnnotatedSet) -> str:
    """What `source_of` groups this set by."""
    if any(p.source for p in data.pictures):
        return "source"
    return "split" if data.has_boxes else "class"


def _plural(data: AnnotatedSet) -> str:
    return {"source": "sources", "split": "splits", "class": "classes"}[_grouped_by(data)]


def _share(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.1f} %)" if of else "0"


def _counts(data: AnnotatedSet, found: Statistics) -> Iterable[str]:
    unit = "cells" if data.has_boxes else "pictures"
    names = found.classes
    total = {n: sum(own.get(n, 0) for own in found.cells.values()) for n in names}
    rows = [
        (split or "(no split)", found.pictures[split], *(_share(own.get(n, 0), total[n]) for n in names))
        for split, own in found.cells.items()
    ]
    all_pictures, all_cells = len(data.pictures), sum(total.values())
    rows.append(("all", all_pictures, *(_share(total[n], all_cells) for n in names)))
    yield paragraph(f"{unit.capitalize()} by split and class; in the last line each class's share of all {unit}.")
    yield table(("split", "pictures", *names), rows)
    if _grouped_by(data) != "source":
        return
    sources = [
        (source, sum(found.sizes[source].values()), _common_size(found, source), *(own.get(n, 0) for n in names))
        for source, own in sorted(found.by_source.items(), key=lambda item: -sum(found.sizes[item[0]].values()))
    ]
    yield paragraph("The same by source.")
    yield table(("source", "pictures", "most common size", *names), sources)


def _common_size(found: Statistics, source: str) -> str:
    width, height = max(found.sizes[source], key=lambda size: found.sizes[source][size])
    others = len(found.sizes[source]) - 1
    return f"{width}×{height}" + (f" and {others} other" if others else "")


def _edges(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> list[float]:
    """Round edges up to the 99.5th percentile."""
    top = max(1.0, float(np.percentile(values, 99.5)) if len(values) else 1.0)
    step = max(1.0, float(np.ceil(top / BARS)))
    return [step * i for i in range(int(np.ceil(top / step)) + 1)]


def _sizes(data: AnnotatedSet, found: Statistics) -> Iterable[str]:
    per_field = found.per_field.astype(np.float64)
    charts = [
        figure(
            histogram(per_field, edges=_edges(per_field), label="boxes in a picture", colour=COLOURS[5], title="Boxes"),
            f"Boxes in a picture: median {np.median(per_field):g}, most {int(per_field.max(initial=0))}; "
            f"{int((per_field == 0).sum())} pictures without any.",
        )
    ]
    for number, name in enumerate(found.classes):
        sides = found.longest_px[name].astype(np.float64)
        colour = _CELL_COLOURS.get(name, COLOURS[number % len(COLOURS)])
        chart = histogram(
            sides, edges=_edges(sides), label="longest side, pixels", colour=colour, title=f"Sizes of {name}"
        )
        low, middle, high = np.percentile(sides, (5, 50, 95))
        told = f"median {middle:.0f} px, 5 to 95 %: {low:.0f} to {high:.0f}"
        charts.append(
            figure(
                chart,
                f"{name}, longest side of {len(sides)} boxes: {told}.",
            )
        )
    yield paragraph("The last bar also holds what lies beyond it.")
    yield grid(charts)
    rows = [
        (source, *(f"{own[n]:.0f}" if n in own else "-" for n in found.classes))
        for source, own in sorted(found.source_median_px.items())
    ]
    by = _grouped_by(data)
    yield paragraph(f"Median of the longest side in pixels by {by}: how much the scale differs.")
    yield table((by, *found.classes), rows)


def _series(found: Statistics, x: str, y: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.floating]]]:
    """Points by source; the smallest sources together, so that no two share a colour."""
    order = sorted(found.looks, key=lambda source: -len(found.looks[source]))
    kept = order if len(order) <= MOST_SOURCES else order[: MOST_SOURCES - 1]
    groups: dict[str, list[Look]] = {source: list(found.looks[source]) for source in kept}
    if rest := [look for source in order[len(kept) :] for look in found.looks[source]]:
        groups[f"{len(order) - len(kept)} others"] = rest
    return {name: np.array([[getattr(k, x), getattr(k, y)] for k in own], np.float64) for name, own in groups.items()}


def _looks(data: AnnotatedSet, found: Statistics) -> Iterable[str]:
    charts = (
        (
            ("od_red", "od_green"),
            ("optical density, red light", "optical density, green light"),
            "Stain: mean optical density of the stained pixels. Nuclei take red away, red cells green.",
        ),
        (
            ("warmth", "brightness"),
            ("glass: bluish (−) to yellowish (+)", "mean grey"),
            "Light: colour of the empty glass (log2 of red over blue) and brightness of the whole picture.",
        ),
    )
    yield paragraph(
        f"One mark a picture. {_plural(data).capitalize()} that lie apart here look different to a model too."
    )
    yield grid(
        figure(scatter(_series(found, x, y), x_label=labels[0], y_label=labels[1], title=caption), caption)
        for (x, y), labels, caption in charts
    )


def chosen_examples(data: AnnotatedSet, count: int, seed: int) -> list[Picture]:
    """Pictures of every source in turn, by chance."""
    rng = np.random.default_rng(seed)
    by_source: dict[str, list[Picture]] = {}
    for picture in data.pictures:
        by_source.setdefault(source_of(picture), []).append(picture)
    piles = [[own[i] for i in rng.permutation(len(own))] for _, own in sorted(by_source.items())]
    dealt = [pile[turn] for turn in range(max(map(len, piles), default=0)) for pile in piles if turn < len(pile)]
    return dealt[:count]


def _examples(data: AnnotatedSet, count: int, seed: int) -> Iterable[str]:
    names = list(dict.fromkeys([*(c.value for c in CellClass), *data.classes]))
    shown = chosen_examples(data, count, seed)
    used = [n for n in names if any(n in p.names for p in shown)]
    if used:
        keys = "".join(
            f'<span><svg viewBox="0 0 12 12" aria-hidden="true">{_mark(n, names, (1.5, 1.5, 10.5, 10.5), 2)}</svg>'
            f"{escape(n)}</span>"
            for n in used
        )
        yield f'<div class="legend">{keys}</div>'
    yield grid(_example(p, names) for p in shown)


def _example(picture: Picture, names: Sequence[str]) -> str:
    image = read_image(picture.path)
    height, width = image.shape[:2]
    ratio = min(1.0, SHOWN_PX / max(height, width))
    if ratio < 1:
        size = (round(width * ratio), round(height * ratio))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded = base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode("ascii")
    stroke = max(width, height) / 240
    marks = "".join(
        _mark(n, names, (x1, y1, x2, y2), stroke)
        for n, (x1, y1, x2, y2) in zip(picture.names, picture.boxes.tolist(), strict=True)
    )
    cells = (
        ", ".join(f"{picture.names.count(n)} {n}" for n in names if n in picture.names) or picture.kind or "no boxes"
    )
    picture_html = (
        f'<div class="field"><img alt="{escape(cells)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{encoded}">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{marks}</svg></div>'
    )
    where = ", ".join(part for part in (picture.source, picture.split, picture.path.name) if part)
    return figure(picture_html, f"{cells}. {where}, {width}×{height} px")


def _mark(name: str, names: Sequence[str], box: tuple[float, float, float, float], stroke: float) -> str:
    """Ellipse, rectangle or diamond, as the consoles draw the classes; other classes are rectangles."""
    x1, y1, x2, y2 = box
    colour = _CELL_COLOURS.get(name) or COLOURS[names.index(name) % len(COLOURS)]
    style = f'fill="none" stroke="{colour}" stroke-width="{stroke:.1f}"'
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    if name == CellClass.RBC:
        return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{(x2 - x1) / 2:.1f}" ry="{(y2 - y1) / 2:.1f}" {style}/>'
    if name == CellClass.PLATELETS:
        return f'<path d="M{x:.1f} {y1:.1f}L{x2:.1f} {y:.1f} {x:.1f} {y2:.1f} {x1:.1f} {y:.1f}z" {style}/>'
    return f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" {style}/>'
