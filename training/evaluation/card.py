"""An evaluation on a model card, and a bundle with a new card: nothing else of it changes, and the same inputs give the
same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from models.bundle import Bundle, write_bundle
from models.bundle.manifest import CARD_NAME, DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME
from training.card import markdown_table
from training.errors import DataError
from training.evaluation.tables import Rows, tables

TITLE = "## Evaluation with intervals"
_SECTION = re.compile(r"\n## Evaluation with intervals\n.*?(?=\n## |\Z)", re.DOTALL)
_LIMITS = "\n## Limits\n"


def check_same_parts(document: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Refuse figures of other networks or of another head.

    Raises:
        DataError: the evaluation is of other parts, or a quick look at a part of the pictures.
    """
    for name in (DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME):
        measured, own = document["bundle"]["parts"].get(name), sha256(files[name]).hexdigest()
        if measured != own:
            raise DataError(
                f"the evaluation is of another {name} ({measured}, this one is {own}); evaluate this bundle"
            )
    if document["method"]["limit"] is not None:
        raise DataError("the evaluation is a quick look (--limit); a card takes the whole sets")


def evaluation_section(document: Mapping[str, Any]) -> str:
    """The evaluation as a section of a card, Markdown."""
    method, machine = document["method"], document["machine"]
    lead = (
        f"By `ahs-train evaluate`, {document['schema']}. Limits in brackets: {100 * method['confidence']:.0f} % "
        f"percentile bootstrap,\n{method['resamples']} resamples of near-duplicate groups, at another laboratory of "
        f"slides; Clopper-Pearson for the error among the\naccepted and for outsiders. On {machine['processor']}, "
        f"{machine['cores']} cores, ONNX Runtime {machine['onnxruntime']}, {method['threads']} thread(s)."
    )
    return "\n\n".join([TITLE, lead, *(_table(rows) for rows in tables(document))])


def _table(rows: Rows) -> str:
    note = f"\n\n{rows.note}" if rows.note else ""
    return f"### {rows.title}\n\n{markdown_table(rows.header, rows.rows)}{note}"


def with_evaluation(card: str, document: Mapping[str, Any]) -> str:
    """The card with this evaluation in place of an older one, before its limits."""
    bare = _SECTION.sub("", card)
    section = evaluation_section(document)
    if _LIMITS not in bare:
        return f"{bare.rstrip()}\n\n{section}\n"
    before, _, after = bare.partition(_LIMITS)
    return f"{before.rstrip()}\n\n{section}\n{_LIMITS}{after}"


def intervals_for_manifest(document: Mapping[str, Any]) -> dict[str, float]:
    """Limits of the figures that a manifest names, as `SET_map50_low` and `SET_map50_high`."""
    found = {}
    for name, said in document["fields"].items():
        for key in ("map50", "map"):
            figure = said["average_precision"][key]
            if figure["low"] is not None:
                found[f"{name}_{key}_low"] = round(float(figure["low"]), 5)
                found[f"{name}_{key}_high"] = round(float(figure["high"]), 5)
    return found


def write_with_evaluation(bundle: Bundle, document: Mapping[str, Any], target: Path) -> Bundle:
    """Write the bundle with the evaluation on its card and the limits of its figures in its manifest.

    Raises:
        DataError: the evaluation is of another bundle's parts.
        BundleWriteError: the target holds something else.
    """
    check_same_parts(document, bundle.files)
    card = with_evaluation(bundle.files[CARD_NAME].decode("utf-8", errors="replace"), document)
    fields = bundle.manifest.model_dump(mode="json", by_alias=True, exclude={"schema_", "files"})
    fields["provenance"]["metrics"] |= intervals_for_manifest(document)
    return write_bundle(target, fields, {**bundle.files, CARD_NAME: card.encode()})
