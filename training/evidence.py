"""`evidence.json`: what a candidate was compared with, on what, and the gate's word. A release names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fleet.release.evidence import EVIDENCE_SCHEMA
from fleet.release.gate import Figures, GatePlan, Verdict, as_json
from models.bundle import Bundle


def evidence_document(
    *,
    candidate: Bundle,
    champion: Bundle,
    frozen_sha256: str,
    verdict: Verdict,
    plan: GatePlan,
    figures: tuple[Mapping[str, Figures], Mapping[str, Figures]],
    labels: Mapping[str, Any],
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """The document.

    Args:
        candidate, champion: the new bundle, and the one it was compared with.
        frozen_sha256: of the frozen set's cells.
        verdict: the gate's word.
        plan: the limits it was found by.
        figures: of the champion and of the candidate, by slice, rounded as they were judged.
        labels: what was learned from: hash, sites, counts.
        made: how: command, settings, seed.
    """
    before, after = figures
    return {
        "schema": EVIDENCE_SCHEMA,
        "candidate": candidate.digest,
        "champion": champion.digest,
        "frozen_set": frozen_sha256,
        "accepted": verdict.accepted,
        "reasons": list(verdict.reasons),
        "plan": plan.model_dump(mode="json"),
        "figures": {
            "champion": {name: as_json(said) for name, said in before.items()},
            "candidate": {name: as_json(said) for name, said in after.items()},
        },
        "names": {name: f"{b.manifest.name} {b.manifest.version}" for name, b in _named(candidate, champion)},
        "labels": dict(labels),
        "code_version": code_version(),
        **made,
    }


def _named(candidate: Bundle, champion: Bundle) -> list[tuple[str, Bundle]]:
    return [("candidate", candidate), ("champion", champion)]


def code_version() -> str:
    """Version of this program."""
    try:
        return metadata.version("automated-hematology-system")
    except metadata.PackageNotFoundError:
        return "not installed"


def write_evidence(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
