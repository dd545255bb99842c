"""Bundles that differ by their seed: how far each figure moves, and one interval over seeds and slides together.

Reads documents of `ahs-train evaluate`; runs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.evaluation.outcomes import Outcomes, read_outcomes
from training.evaluation.run import INTENDED_USE, read_evaluation
from training.evaluation.tables import Rows
from training.evaluation.white import TYPES, balanced
from training.evaluation.words import interval, plain
from training.intervals import CONFIDENCE_RATIO, group_weights, percentile

SCHEMA = "ahs.seeds/1"
FIGURE_KEYS = {"value", "low", "high"}
Array = NDArray[np.float64]


def read_documents(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Evaluations of bundles that differ.

    Raises:
        DataError: fewer than two, a bundle that occurs twice, sets that were not taken alike, or a damaged document.
    """
    documents = [read_evaluation(path) for path in paths]
    if len(documents) < 2:
        raise DataError("one evaluation says nothing about seeds; name two or more")
    first: dict[str, Path] = {}
    try:
        for path, document in zip(paths, documents, strict=True):
            digest = str(document["bundle"]["digest"])
            if digest in first:
                raise DataError(f"{path}: is of the same bundle as {first[digest]}")
            first[digest] = path
            if document["method"]["limit"] != documents[0]["method"]["limit"]:
                raise DataError(f"{path}: was made with another --limit than {paths[0]}")
    except (KeyError, TypeError) as exc:
        raise DataError(f"an evaluation lacks {exc}; make it anew with `ahs-train evaluate --out`") from exc
    return documents


def over_seeds(documents: Sequence[Mapping[str, Any]], *, resamples: int, seed: int) -> dict[str, Any]:
    """The whole document.

    Args:
        documents: two or more, of bundles that differ.
        resamples, seed: of the joint bootstrap.

    Raises:
        DataError: cells one by one that are damaged or not the same.
    """
    by_document = [dict(figures(document)) for document in documents]
    names = dict.fromkeys(name for found in by_document for name in found)
    shared = [name for name in names if all(name in found for found in by_document)]
    method = {"confidence": CONFIDENCE_RATIO, "resamples": resamples, "seed": seed}
    return {
        "schema": SCHEMA,
        "intended_use": INTENDED_USE,
        "bundles": [{key: d["bundle"][key] for key in ("name", "version", "digest")} for d in documents],
        "method": method | {"limit": documents[0]["method"]["limit"]},
        "figures": [_spread(name, [found[name] for found in by_document]) for name in shared],
        "joint": [row for name in _cell_sets(documents) for row in _joint(name, documents, resamples, seed)],
        "left_out": [" / ".join(name) for name in names if name not in shared],
    }


def figures(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float | None]]:
    """Every figure with an interval: set and name, and its value."""
    for part in ("fields", "white_cells", "outsiders", "shifts"):
        node = document[part]
        for path, value in _walk(node["rows"] if part == "shifts" and node is not None else node, ()):
            yield (f"{part} / {path[0]}", " / ".join(path[1:])), value


def _walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float | None]]:
    if isinstance(node, Mapping):
        if node.keys() == FIGURE_KEYS:
            yield path, node["value"]
            return
        for key, below in node.items():
            yield from _walk(below, (*path, str(key)))
    elif isinstance(node, list):
        for below in node:
            if isinstance(below, Mapping) and "name" in below:
                yield from _walk(below, (*path, str(below["name"])))


def _spread(name: tuple[str, str], values: Sequence[float | None]) -> dict[str, Any]:
    known = np.array([v for v in values if v is not None], np.float64)
    return {
        "over": name[0],
        "figure": name[1],
        "seeds": len(known),
        "mean": float(known.mean()) if len(known) else None,
        "deviation": float(known.std(ddof=1)) if len(known) > 1 else None,
        "least": float(known.min()) if len(known) else None,
        "most": float(known.max()) if len(known) else None,
        "values": list(values),
    }


def _cell_sets(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sets of white cells that every document lists one by one."""
    return [
        name
        for name in documents[0]["white_cells"]
        if all("outcomes" in d["white_cells"].get(name, {}) for d in documents)
    ]


def _joint(name: str, documents: Sequence[Mapping[str, Any]], resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Figures of a set, seeds and slides drawn together: in each resample the same slides for every seed."""
    read = [read_outcomes(d["white_cells"][name]["outcomes"], f"{d['bundle']['digest']}, {name}") for d in documents]
    for document, outcomes in zip(documents, read, strict=True):
        if not outcomes.of_same_cells(read[0]):
            raise DataError(f"{document['bundle']['digest']}, {name}: lists other cells than the first document")
    first = read[0]
    strata = [TYPES[label] for label in first.labels.tolist()]
    slides = group_weights(first.slides, resamples=resamples, seed=seed, strata=strata)
    rng = np.random.default_rng([seed, len(read)])
    drawn = rng.multinomial(len(read), np.full(len(read), 1 / len(read)), size=resamples)
    for figure, of in JOINT_FIGURES.items():
        points, resampled = zip(*(of(outcomes, slides) for outcomes in read), strict=True)
        each, alike = np.stack(resampled, axis=1), np.ones_like(drawn)
        value = float(_drawn_mean(np.array([points]), alike[:1])[0])
        both, only_slides = percentile(value, _drawn_mean(each, drawn)), percentile(value, _drawn_mean(each, alike))
        yield {
            "over": name,
            "figure": figure,
            "cells": len(first.slides),
            "slides": len(set(first.slides)),
            "seeds": len(read),
            **both.as_json(),
            "slides_alone": {"low": only_slides.low, "high": only_slides.high},
        }


def _drawn_mean(resampled: Array, drawn: NDArray[np.int64]) -> Array:
    """(R, S) figures and how often each seed is drawn -> (R,) means over the drawn seeds that have the figure."""
    known = np.isfinite(resampled)
    weights = drawn * known
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights * np.where(known, resampled, 0.0)).sum(axis=1) / weights.sum(axis=1), np.float64)


def _balanced(outcomes: Outcomes, weights: NDArray[np.int32]) -> tuple[float, Array]:
    return balanced(outcomes.labels, outcomes.right, weights)


def _accepted(outcomes: Outcomes, weights: NDArray[np.int32]) -> tuple[float, Array]:
    return _share(outcomes.named, np.ones(len(outcomes.named), bool), weights)


def _error_accepted(outcomes: Outcomes, weights: NDArray[np.int32]) -> tuple[float, Array]:
    return _share(outcomes.named & ~outcomes.right, outcomes.named, weights)


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], weights: NDArray[np.int32]) -> tuple[float, Array]:
    value = float(part.sum() / whole.sum()) if whole.any() else float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        return value, np.asarray((weights @ part.astype(float)) / (weights @ whole.astype(float)), np.float64)


JOINT_FIGURES = {"balanced accuracy in use": _balanced, "accepted": _accepted, "error among accepted": _error_accepted}


def seed_tables(document: Mapping[str, Any]) -> list[Rows]:
    """The joint intervals, then every figure by part of the evaluation."""
    seeds = len(document["bundles"])
    joint = [
        (r["over"], r["figure"], f"{r['cells']}, {r['slides']} slides", interval(r), _limits(r["slides_alone"]))
        for r in document["joint"]
    ]
    header = ("set", "figure", "cells", "mean of the seeds", "slides alone")
    found = [Rows(f"Seeds and slides together ({seeds} seeds)", header, tuple(joint))]
    for part in dict.fromkeys(row["over"].split(" / ")[0] for row in document["figures"]):
        rows = [
            (
                row["over"].partition(" / ")[2],
                row["figure"],
                plain(row["mean"]),
                plain(row["deviation"], digits=4),
                "-" if row["least"] is None else f"{row['least']:.3f} to {row['most']:.3f}",
                str(row["seeds"]),
            )
            for row in document["figures"]
            if row["over"].split(" / ")[0] == part
        ]
        found.append(Rows(part, ("set", "figure", "mean", "deviation", "range", "seeds"), tuple(rows)))
    return [table for table in found if table.rows]


def _limits(figure: Mapping[str, Any]) -> str:
    return "-" if figure["low"] is None else f"{figure['low']:.3f}-{figure['high']:.3f}"
