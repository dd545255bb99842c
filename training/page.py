"""One HTML page that needs nothing beside it: the consoles' look, inlined, and the label of research use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import fleet.webkit

STYLES = ("tokens.css", "kit.css")
LABEL = "Research use only. Not for diagnosis."
_OWN_STYLE = """
.report { display: grid; gap: var(--space-6); max-width: 1180px; margin: 0 auto; width: 100%; }
.report section { display: grid; gap: var(--space-3); min-width: 0; }
.report p { max-width: 75ch; }
.report .grid {
  display: grid; gap: var(--space-4);
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr));
}
.report figure { display: grid; gap: var(--space-2); min-width: 0; align-content: start; }
.report figcaption { color: var(--ink-soft); font-size: var(--text-small); overflow-wrap: anywhere; }
.report .field { position: relative; border: 1px solid var(--line); border-radius: var(--radius); overflow: hidden; }
.report .field img, .report .field svg { display: block; width: 100%; height: auto; }
.report .field svg { position: absolute; inset: 0; height: 100%; }
.report .chart { width: 100%; height: auto; display: block; }
.report td, .report th { padding: var(--space-2) var(--space-3); }
.report .legend { display: flex; flex-wrap: wrap; gap: var(--space-1) var(--space-4); font-size: var(--text-small); }
.report .legend svg { width: 12px; height: 12px; margin-right: var(--space-1); vertical-align: -1px; }
@media print { .report figure, .report section { break-inside: avoid; } }
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole page; `lead` is text, `sections` are HTML."""
    folder = Path(fleet.webkit.__file__).parent / "static"
    styles = "\n".join((folder / name).read_text(encoding="utf-8") for name in STYLES)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{styles}{_OWN_STYLE}</style>
</head>
<body>
<main class="main"><div class="report">
<header><h1>{escape(title)}</h1><p class="soft">{escape(lead)}</p><p><b>{LABEL}</b></p></header>
{"".join(sections)}
</div></main>
<footer class="foot"><b>{LABEL}</b></footer>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """A part of a page; `parts` are HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n"


def paragraph(text: str) -> str:
    """Text as a paragraph."""
    return f'<p class="soft">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """A table; the first `words` columns are words, the others numbers."""
    classes = [""] * words + [' class="num"'] * (len(head) - words)
    titles = "".join(f'<th scope="col"{c}>{escape(h)}</th>' for h, c in zip(head, classes, strict=True))
    lines = "".join(
        f"<tr>{''.join(f'<td{c}>{escape(str(v))}</td>' for v, c in zip(row, classes, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="table-wrap"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(picture: str, caption: str) -> str:
    """A picture or chart, as HTML, with its caption."""
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(figures: Iterable[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="grid">{"".join(figures)}</div>'
