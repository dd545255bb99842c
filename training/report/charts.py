"""Charts as SVG: drawn in the colours of the page's style sheet, told apart by dash and mark as well. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

from markupsafe import Markup

from training.charts import ticks

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 42
ROW_PX = 24
LETTER_PX = 6.8
FIGURE_PX = 172
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the legend; an empty one stands in none.
        points: x and y, in order of x.
        tone: 1 to 6, its colour in the style sheet.
        dashed: drawn dashed.
        marked: a mark at each point.
        weights: how much each point stands for; its mark grows with it.
    """

    name: str
    points: Sequence[Point]
    tone: int
    dashed: bool = False
    marked: bool = False
    weights: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Axes:
    """Ranges and words of a chart.

    Attributes:
        x, y: words of the axes.
        x_range, y_range: what is shown.
        diagonal: draw y = x.
    """

    x: str
    y: str
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    diagonal: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        name: of the row.
        value, low, high: figure and its limits; limits may be None.
        text: the figure in words.
        good: whether it is within what is allowed; None where nothing is asked.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    text: str
    good: bool | None = None


def line_chart(title: str, series: Sequence[Series], axes: Axes) -> Markup:
    """A chart of lines with grid, axes and legend."""
    plot = _Plot(axes)
    body = [_grid(plot), *(_line(s, plot) for s in series)]
    if axes.diagonal:
        low, high = max(axes.x_range[0], axes.y_range[0]), min(axes.x_range[1], axes.y_range[1])
        (x1, y1), (x2, y2) = plot.at(low, low), plot.at(high, high)
        body.insert(1, f'<line class="c-diagonal" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    drawing = _svg(title, WIDTH, HEIGHT, body)
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(
        title, Markup(drawing), _legend(series) if len(series) > 1 else Markup("")
    )


def bar_chart(title: str, bars: Sequence[Bar], *, limit: float | None = None, zero: float = 0.0) -> Markup:
    """Horizontal bars from `zero`, with whiskers at their limits, and a line at `limit`."""
    ends = [v for b in bars for v in (b.value, b.low, b.high) if v is not None] + [zero]
    ends += [] if limit is None else [limit]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.04 or 1.0
    width = 2 * WIDTH
    label_px = 20 + LETTER_PX * max((len(b.name) for b in bars), default=0)
    span = width - label_px - FIGURE_PX

    def x_of(value: float) -> float:
        return label_px + (value - low + room) / (high - low + 2 * room) * span

    height = ROW_PX * len(bars) + 8
    body = [f'<line class="c-axis" x1="{x_of(zero):.1f}" x2="{x_of(zero):.1f}" y1="2" y2="{height - 2}"/>']
    if limit is not None:
        body.append(f'<line class="c-limit" x1="{x_of(limit):.1f}" x2="{x_of(limit):.1f}" y1="2" y2="{height - 2}"/>')
    for number, bar in enumerate(bars):
        body.append(_bar(bar, y_px=4 + number * ROW_PX, x_of=x_of, zero=zero, width=width, label_px=label_px))
    drawing = _svg(title, width, height, body)
    return Markup('<figure class="chart chart-wide"><figcaption>{}</figcaption>{}</figure>').format(
        title, Markup(drawing)
    )


def _bar(bar: Bar, *, y_px: float, x_of: Callable[[float], float], zero: float, width: int, label_px: float) -> str:
    start, end = sorted((x_of(zero), x_of(bar.value)))
    kind = {True: "c-good", False: "c-bad", None: "c-plain"}[bar.good]
    middle, long = y_px + (ROW_PX - 7) / 2, max(1.0, end - start)
    mark = "" if bar.good is not False else " ✕"
    parts = [
        f'<text class="c-name" x="{label_px - 10:.1f}" y="{middle + 4:.1f}">{escape(bar.name)}</text>',
        f'<rect class="{kind}" x="{start:.1f}" y="{y_px:.1f}" width="{long:.1f}" height="{ROW_PX - 7}"/>',
        f'<text class="c-value" x="{width - 4}" y="{middle + 4:.1f}">{escape(bar.text)}{mark}</text>',
    ]
    if bar.low is not None and bar.high is not None:
        a, b = x_of(bar.low), x_of(bar.high)
        parts.append(f'<path class="c-whisker" d="M{a:.1f} {middle:.1f}H{b:.1f}M{a:.1f} {middle - 4:.1f}v8')
        parts[-1] += f'M{b:.1f} {middle - 4:.1f}v8"/>'
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Plot:
    axes: Axes

    def at(self, x: float, y: float) -> Point:
        (x0, x1), (y0, y1) = self.axes.x_range, self.axes.y_range
        across = (min(max(x, x0), x1) - x0) / ((x1 - x0) or 1.0)
        up = (min(max(y, y0), y1) - y0) / ((y1 - y0) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _grid(plot: _Plot) -> str:
    parts = []
    for value in ticks(*plot.axes.x_range):
        x, _ = plot.at(value, plot.axes.y_range[0])
        parts.append(f'<line class="c-grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="c-tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}">{tick_text(value)}</text>')
    for value in ticks(*plot.axes.y_range):
        _, y = plot.at(plot.axes.x_range[0], value)
        parts.append(f'<line class="c-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="c-tick c-tick-y" x="{LEFT - 6}" y="{y + 4:.1f}">{tick_text(value)}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text class="c-words" x="{middle:.1f}" y="{HEIGHT - 6}">{escape(plot.axes.x)}</text>')
    up = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(f'<text class="c-words" transform="translate(12 {up:.1f}) rotate(-90)">{escape(plot.axes.y)}</text>')
    return "".join(parts)


def _line(series: Series, plot: _Plot) -> str:
    kept = [i for i, (x, y) in enumerate(series.points) if isfinite(x) and isfinite(y)]
    at = [plot.at(*series.points[i]) for i in kept]
    if not at:
        return ""
    dash = " c-dashed" if series.dashed else ""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    most = max(series.weights, default=1.0) or 1.0
    sizes = [2.0 + 6.0 * (series.weights[i] / most) ** 0.5 if series.weights else 4.0 for i in kept]
    marks = "".join(
        f'<circle class="c-mark t{series.tone}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
        for (x, y), r in zip(at, sizes, strict=True)
    )
    return f'<path class="c-line t{series.tone}{dash}" d="{path}"/>' + (marks if series.marked or len(at) == 1 else "")


def _legend(series: Sequence[Series]) -> Markup:
    entries = []
    for s in series:
        if not s.name:
            continue
        dash = " c-dashed" if s.dashed else ""
        line = Markup(f'<path class="c-line t{s.tone}{dash}" d="M0 4H24"/>')
        key = Markup('<svg class="c-key" viewBox="0 0 24 8" aria-hidden="true">{}</svg>').format(line)
        entries.append(Markup("<li>{}{}</li>").format(key, s.name))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _svg(title: str, width: int, height: int, body: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(body) + "</svg>"


def tick_text(value: float) -> str:
    """A tick's value without needless digits."""
    return f"{value:.6g}"


def around(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds all values with a little room."""
    usable = [v for v in values if isfinite(v)]
    if not usable:
        return 0.0, 1.0
    low, high = min(usable), max(usable)
    if high == low:
        return (low - abs(low) * 0.1, high + abs(high) * 0.1) if low else (0.0, 1.0)
    room = (high - low) * 0.06
    return low - room, high + room


def matrix(rows: Sequence[Sequence[int]], names: Sequence[str], columns: Sequence[str], title: str) -> Markup:
    """A confusion matrix as a table; each cell is shaded by its share of the row."""
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(c) for c in columns)
    body = []
    for name, row, number in zip(names, rows, range(len(rows)), strict=True):
        total = sum(row)
        cells = []
        for k, count in enumerate(row):
            share = count / total if total else 0.0
            right = " m-right" if k == number else ""
            shade = f"m{min(9, max(1, round(share * 9))) if count else 0}"
            words = f"{count} of {total}: {100 * share:.1f} %" if total else "none"
            shown = Markup("<b>{}</b><small>{:.0f} %</small>").format(count, 100 * share) if count else Markup("·")
            cells.append(Markup('<td class="{}" title="{}">{}</td>').format(shade + right, words, shown))
        body.append(
            Markup("<tr><th scope='row'>{}<small>{}</small></th>{}</tr>").format(name, total, Markup("").join(cells))
        )
    return Markup(
        '<figure class="chart matrix"><figcaption>{}</figcaption><div class="table-wrap"><table>'
        "<thead><tr><th>true ↓ said →</th>{}</tr></thead><tbody>{}</tbody></table></div></figure>"
    ).format(title, head, Markup("").join(body))
