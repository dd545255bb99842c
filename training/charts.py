"""Charts as SVG text: a histogram and a scatter. Series differ by colour and by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 236
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#4a5664")
_TEXT = 'font-size="12" fill="var(--ink-soft)" font-family="var(--font)"'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10 ** np.floor(np.log10(rough))
    step = float(min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough)))
    first, last = int(np.ceil(low / step - 1e-6)), int(np.floor(high / step + 1e-6))
    return [float(round(n * step, 10)) for n in range(first, last + 1)]


def histogram(
    values: Sequence[float] | NDArray[np.floating], *, edges: Sequence[float], label: str, colour: str, title: str
) -> str:
    """Counts between `edges`; values beyond the last edge are in the last bar, as `label` should say."""
    clipped = np.clip(np.asarray(values, np.float64), edges[0], np.nextafter(edges[-1], edges[0]))
    counts, _ = np.histogram(clipped, bins=np.asarray(edges, np.float64))
    top = max(1, int(counts.max(initial=0)))
    axes = _Axes((float(edges[0]), float(edges[-1])), (0.0, top * 1.05))
    bars = []
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        x, y = axes.x(low), axes.y(count)
        shown = f"{low:g} to {high:g}: {count}"
        size = f'width="{max(0.5, axes.x(high) - x - 1):.1f}" height="{axes.y(0) - y:.1f}"'
        bars.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"><title>{shown}</title></rect>')
    return axes.chart("".join(bars), label, "", title, whole=True)


def scatter(series: Mapping[str, NDArray[np.floating]], *, x_label: str, y_label: str, title: str) -> str:
    """Points of each series, (N, 2); with the legend below. At most six series are told apart."""
    everything = np.concatenate([points for points in series.values() if len(points)] or [np.zeros((1, 2))])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = np.maximum((high - low) * 0.06, 1e-3)
    axes = _Axes((low[0] - margin[0], high[0] + margin[0]), (low[1] - margin[1], high[1] + margin[1]))
    dots, legend = [], []
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        mark = "".join(shape(number, axes.x(x), axes.y(y), 3.2) for x, y in points.tolist())
        dots.append(f'<g fill="{colour}" fill-opacity="0.55">{mark}<title>{escape(name)}</title></g>')
        key = f'<svg viewBox="0 0 12 12" aria-hidden="true" fill="{colour}">{shape(number, 6, 6, 4.6)}</svg>'
        legend.append(f"<span>{key}{escape(name)} ({len(points)})</span>")
    chart = axes.chart("".join(dots), x_label, y_label, title)
    return f'{chart}<div class="legend">{"".join(legend)}</div>'


def shape(number: int, x: float, y: float, r: float) -> str:
    """A mark of its own for each series: disc, square, diamond, triangle, plus, bar."""
    at = f"{x - r:.1f}"
    kinds = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>',
        f'<rect x="{at}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>',
        f'<path d="M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {1.3 * r:.1f}l{-1.3 * r:.1f} {1.3 * r:.1f}'
        f'l{-1.3 * r:.1f} {-1.3 * r:.1f}z"/>',
        f'<path d="M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z"/>',
        f'<path d="M{x - r / 2:.1f} {y - r:.1f}h{r:.1f}v{r / 2:.1f}h{r / 2:.1f}v{r:.1f}h{-r / 2:.1f}v{r / 2:.1f}'
        f'h{-r:.1f}v{-r / 2:.1f}h{-r / 2:.1f}v{-r:.1f}h{r / 2:.1f}z"/>',
        f'<rect x="{at}" y="{y - r / 2:.1f}" width="{2 * r:.1f}" height="{r:.1f}"/>',
    )
    return kinds[number % len(kinds)]


class _Axes:
    """Places values in the frame of a chart."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self._x_range, self._y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self._x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def chart(self, inside: str, x_label: str, y_label: str, title: str, *, whole: bool = False) -> str:
        """The chart with its axes; `inside` are the marks."""
        lines = []
        for value in ticks(*self._x_range):
            x = self.x(value)
            lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle" {_TEXT}>{value:g}</text>')
        for value in ticks(*self._y_range, about=4):
            if whole and value != round(value):
                continue
            y = self.y(value)
            line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            lines.append(f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {_TEXT}>{value:g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        lines.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" {_TEXT}>{escape(x_label)}</text>')
        if y_label:
            at = (TOP + HEIGHT - BOTTOM) / 2
            turn = f'transform="translate(13 {at}) rotate(-90)"'
            lines.append(f'<text {turn} text-anchor="middle" {_TEXT}>{escape(y_label)}</text>')
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
            f"{''.join(lines)}{inside}</svg>"
        )
