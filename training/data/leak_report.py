"""What leaks between the splits of a data set, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from training.data.near_copies import Agreement
from training.data.splitting import LeakReport
from training.page import LABEL, page, paragraph, section, table

SHOWN = 200
"""Groups that the page lists; the Markdown lists all."""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def summary(report: LeakReport) -> str:
    """One sentence."""
    pictures = sum(report.splits.values())
    counts = f"{pictures} pictures in {report.groups} groups"
    if len(report.splits) < 2:
        return f"There is one split, so nothing can cross: {counts}, {pictures - report.groups} of them near-copies."
    if not report.leaks:
        return f"No near-copy crosses the splits: {counts}, {len(report.splits)} splits."
    return f"{len(report.leaks)} of {report.groups} groups have pictures in more than one split ({pictures} pictures)."


def _between(report: LeakReport) -> list[tuple[str, str, int, int, str]]:
    return [
        (split, other, groups, pictures, _percent(pictures / report.splits[split]))
        for (split, other), (groups, pictures) in report.between.items()
    ]


def _cells(report: LeakReport) -> tuple[list[str], list[list[object]]]:
    classes = sorted({name for own in report.cells.values() for name in own})
    total = {name: sum(own.get(name, 0) for own in report.cells.values()) for name in classes}
    rows: list[list[object]] = []
    for split, own in report.cells.items():
        shares = [f"{own.get(n, 0)} ({_percent(own.get(n, 0) / total[n])})" for n in classes]
        rows.append([split or "(none)", report.splits[split], *shares])
    return ["split", "pictures", *classes], rows


def _agreement(found: Agreement) -> list[tuple[str, object]]:
    return [
        ("in both", found.both),
        ("only found", found.only_found),
        ("only given", found.only_given),
        ("found that are given (precision)", _percent(found.precision)),
        ("given that are found (recall)", _percent(found.recall)),
    ]


_PAIRS_HEAD = ("pairs of pictures", "number or share")
_BETWEEN_HEAD = ("pictures of", "with a near-copy in", "groups", "pictures", "share")


def as_markdown(name: str, report: LeakReport, found: Agreement | None = None) -> str:
    """The report as Markdown."""
    head, rows = _cells(report)
    parts = [f"# {name}: leaks between splits", summary(report), f"*{LABEL}*", _lines(head, rows)]
    parts += ["## Between splits", _lines(_BETWEEN_HEAD, _between(report))]
    if found is not None:
        parts += ["## Found groups and given groups", _lines(_PAIRS_HEAD, _agreement(found))]
    if report.leaks:
        rows = [[leak.group, _where(leak.pictures)] for leak in report.leaks]
        parts += ["## Groups that span splits", _lines(("group", "pictures"), rows)]
    return "\n\n".join(parts) + "\n"


def _where(pictures: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{split}: {', '.join(names)}" for split, names in pictures.items())


def _lines(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    titles = list(head)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(str(value).replace("|", r"\|") for value in row) + " |" for row in rows]
    return "\n".join(lines)


def as_page(name: str, report: LeakReport, found: Agreement | None = None) -> str:
    """The report as one HTML page."""
    head, rows = _cells(report)
    sections = [
        section("Splits", table(head, rows)),
        section("Between splits", table(_BETWEEN_HEAD, _between(report), words=2)),
    ]
    if found is not None:
        told = "Near-copies as found here, beside the groups that the data set names, pair by pair of pictures."
        sections.append(
            section("Found groups and given groups", paragraph(told), table(_PAIRS_HEAD, _agreement(found)))
        )
    if report.leaks:
        shown = [(leak.group, _where(leak.pictures)) for leak in report.leaks[:SHOWN]]
        rest = len(report.leaks) - len(shown)
        more = paragraph(f"and {rest} more groups; the Markdown lists them all") if rest else ""
        sections.append(section("Groups that span splits", table(("group", "pictures"), shown, words=2), more))
    return page(f"{name}: leaks between splits", summary(report), sections)


def write_leaks(folder: Path, name: str, report: LeakReport, found: Agreement | None = None) -> None:
    """Write `leaks.md` and `leaks.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leaks.md").write_text(as_markdown(name, report, found), encoding="utf-8")
    (folder / "leaks.html").write_text(as_page(name, report, found), encoding="utf-8")
