"""Times as bars: one SVG that reads in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10

ROW_PX, NAME_PX, BAR_PX, FIGURE_PX, TOP_PX = 26, 400, 420, 90, 34
OURS, PEER = "#0072b2", "#999999"


def bars(rows: Sequence[tuple[str, float, bool]]) -> str:
    """Name, milliseconds and whether it is ours; longest bar full width, on a logarithmic scale from one."""
    longest = max(log10(1 + ms) for _, ms, _ in rows)
    height, width = TOP_PX + ROW_PX * len(rows) + 10, NAME_PX + BAR_PX + FIGURE_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="milliseconds a picture" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="20" fill="#333333">Milliseconds a picture, one thread (logarithmic)</text>',
    ]
    for number, (name, ms, ours) in enumerate(sorted(rows, key=lambda row: row[1])):
        y = TOP_PX + number * ROW_PX
        length = BAR_PX * log10(1 + ms) / longest
        parts += [
            f'<text x="{NAME_PX - 8}" y="{y + 17}" text-anchor="end" fill="#222222">{escape(name)}</text>',
            f'<rect x="{NAME_PX}" y="{y + 4}" width="{length:.1f}" height="{ROW_PX - 8}" '
            f'fill="{OURS if ours else PEER}"/>',
            f'<text x="{NAME_PX + length + 6:.1f}" y="{y + 17}" fill="#222222">{ms:.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
