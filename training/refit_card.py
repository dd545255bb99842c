"""The card of a refitted bundle: the current card, with what the head learned and how both heads compare."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleet.release.gate import Figures
from models.bundle import Bundle
from models.bundle.manifest import CARD_NAME
from training.card import markdown_table
from training.label_folder import LabelFolder

TITLE = "## Refitted head"
_SECTION = re.compile(r"\n## Refitted head\n.*?(?=\n## |\Z)", re.DOTALL)
_MADE = re.compile(r"^(`[a-z0-9-]+`) \d+\.\d+\.\d+, made \d{4}-\d{2}-\d{2}\.", re.MULTILINE)


def write_refit_card(
    current: Bundle,
    folder: LabelFolder,
    by_type: Mapping[str, int],
    champion: Mapping[str, Figures],
    candidate: Mapping[str, Figures],
    *,
    version: str,
    created: str,
    retrained: str | None = None,
) -> bytes:
    """The card as UTF-8 Markdown.

    Args:
        current: bundle whose head was refitted.
        folder: labels that it learned from.
        by_type: labels of each type.
        champion, candidate: slice -> figures of both heads.
        version, created: of the new bundle.
        retrained: recipe of a new embedder; None where the embedder is the current one.
    """
    name = current.manifest.name
    card = _SECTION.sub("", current.files[CARD_NAME].decode("utf-8", errors="replace"))
    card = _MADE.sub(rf"\1 {version}, made {created}.", card, count=1)
    head, mark, rest = card.partition("\n## ")
    sites = ", ".join(folder.sites) or "one site"
    labels = ", ".join(f"{count} {kind}" for kind, count in sorted(by_type.items()))
    left = ", ".join(f"{count} {reason}" for reason, count in sorted(folder.left_out.items())) or "none"
    kept, new = "Detector and embedder are those", "The head was fitted again"
    if retrained is not None:
        kept, new = "The detector is that", f"The embedder ({retrained}) and the head are new, trained"
    own = (
        f"{TITLE}\n\n"
        f"{kept} of `{name}` {current.manifest.version} ({current.digest}),\n"
        f"byte for byte. {new} with labels of {sites}: {labels}, in\n"
        f"{len(folder.images)} pictures. Left out: {left}.\n"
        f"The figures under *White cells* below are those of the bundle that it was refitted from.\n\n"
        f"{_figures(champion, candidate)}\n\n"
        "Each figure: before / after. `labels, learned from` shows what the labels changed and proves nothing.\n"
    )
    return f"{head.rstrip()}\n\n{own}{mark}{rest}".encode()


def _figures(champion: Mapping[str, Figures], candidate: Mapping[str, Figures]) -> str:
    header = ["cells of", "cells", "balanced accuracy", "named", "error among the named", "in domain"]
    rows = []
    for name, after in candidate.items():
        before = champion[name]
        pairs = [
            (before.balanced_accuracy, after.balanced_accuracy),
            (before.named, after.named),
            (before.named_error, after.named_error),
            (before.in_domain, after.in_domain),
        ]
        rows.append([name, str(after.cells), *(f"{_f(a)} / {_f(b)}" for a, b in pairs)])
    return markdown_table(header, rows)


def _f(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
