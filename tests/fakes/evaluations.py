"""Evidence documents as an evaluation writes them, on the frozen set that ships."""

from __future__ import annotations

import json
from typing import Any

from fleet.contract.base import JsonObject
from fleet.release.gate import Figures, as_json, judge, rounded
from fleet.release.pinned import pinned


def good_figures() -> dict[str, Figures]:
    """A model that knows every slice of the frozen set well."""
    found = {}
    for name, part in pinned().frozen_sets[0].slices.items():
        inside = Figures(cells=part.cells, named=0.96 if part.types else 0.3, in_domain=0.97 if part.types else 0.3)
        if part.types:
            recall = dict.fromkeys(part.types, 0.98)
            inside = inside.model_copy(
                update={"balanced_accuracy": 0.98, "recall": recall, "named_error": 0.002, "nll": 0.03}
            )
        found[name] = rounded(inside)
    return found


def changed(figures: dict[str, Figures], slice_name: str, **change: Any) -> dict[str, Figures]:
    """The same with other figures of one slice."""
    return {**figures, slice_name: figures[slice_name].model_copy(update=change)}


def evidence_for(
    digest: str,
    champion: str,
    *,
    before: dict[str, Figures] | None = None,
    after: dict[str, Figures] | None = None,
    **changes: Any,
) -> JsonObject:
    """An evaluation of a bundle, judged by the limits that ship; by default as good as the model before.

    Args:
        digest: the bundle.
        champion: the model it is compared with.
        before, after: figures of both.
        changes: fields that are then written over.
    """
    limits = pinned()
    sides = {"champion": before or good_figures(), "candidate": after or good_figures()}
    verdict = judge(sides["champion"], sides["candidate"], limits.plan)
    return {
        "schema": "ahs.evidence/2",
        "candidate": digest,
        "champion": champion,
        "frozen_set": limits.frozen_sets[0].sha256,
        "accepted": verdict.accepted,
        "reasons": list(verdict.reasons),
        "plan": limits.plan.model_dump(mode="json"),
        "figures": {side: {name: as_json(said) for name, said in found.items()} for side, found in sides.items()},
        **changes,
    }


def evidence_bytes(digest: str, champion: str, **changes: Any) -> bytes:
    """The same as a file's bytes."""
    return json.dumps(evidence_for(digest, champion, **changes)).encode()
