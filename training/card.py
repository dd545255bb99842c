"""The model card: written from what was measured, never by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.bundle.manifest import CellClass, DataSource
from training.recipe import BundleRecipe

TXL = DataSource(
    name="TXL-PBC (det_txl)",
    citation="Gan, Li, Wang: TXL-PBC, Scientific Data 12:1694 (2025), arXiv 2407.13214; "
    "github.com/lugan113/TXL-PBC_Dataset @ 056d09e",
    licence="MIT",
    images=0,
)
PBC = DataSource(
    name="PBC white cells (wbc_pbc)",
    citation="images: Acevedo et al., Data in Brief 30:105474 (2020), doi 10.17632/snkd93bnjr.1; labels: WBCAtt, "
    "Tsutsui et al., NeurIPS 2023, github.com/apple2373/wbcatt @ ad255b8",
    licence="images CC BY 4.0, labels MIT",
    images=0,
)
GENERATED = DataSource(name="generated fields", citation="models/synthetic of this repository", licence="MIT", images=0)

OTHER = """\
Fields of a second laboratory were read and never learned from: other stain, light and camera. Of its {cells:.0f} white
cells {found:.1%} are found; {accepted:.1%} of those get a name, and {accepted_accuracy:.1%} of these names are right.
Neither the detector's white cells nor the names are to be used at another laboratory before its own labels were tried:
the head refitted with them, or the model retrained.
Source: github.com/singgihbekti/WBC_Dataset @ 45759ab, licence MIT."""

LIMITS = """\
- Research use only. Not for diagnosis; not cleared by any authority.
- No patient or slide identifiers exist in the data: splits are by near-duplicate group, not by patient.
- Trained on three sources of fields and one laboratory of white cells. Another stain, camera or objective lowers the
  accuracy, of white-cell types most of all: the domain gate then withholds names, and the head should be refitted.
- White cells are one of five mature types. Immature cells, blasts, erythroblasts and smudge cells were not taught; the
  domain gate catches only part of them.
- The annotated platelets are incomplete (two annotators agree on about 70 % of them): platelet counts are rough.
- Of the white-cell pictures, those marked `txl_det_split` also stand in the detector's data; the figures name both.
- Generated fields look alike: figures on them show that the chain works, not how well it does in a laboratory."""


def write_card(recipe: BundleRecipe, report: Mapping[str, Any], sources: Sequence[DataSource]) -> str:
    """The card as Markdown.

    Args:
        recipe: parts and name of the bundle.
        report: what `pack` measured: `sets` (name -> figures of fields), `generated_types`, `cells` (name -> figures),
            `parity`, `thresholds`, `detector`, `embedder`.
        sources: what the weights learned from.
    """
    parts = [
        f"# {recipe.title}",
        f"`{recipe.name}` {recipe.version}, made {recipe.created}. **Research use only.**",
        _what(recipe, report),
        "## Data\n\n" + markdown_table(["set", "pictures", "licence", "source"], [_source(s) for s in sources]),
        "## Boxes\n\nThrough the one pipeline, on the CPU, with this bundle's own files.\n\n" + _boxes(report),
        "## Counts\n\n" + _counts(report),
        "## White cells\n\nFound by the detector, cut, embedded, named.\n\n" + _types(report),
        "## Export\n\n" + _export(report),
        *_another_laboratory(report),
        "## Limits\n\n" + LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _another_laboratory(report: Mapping[str, Any]) -> list[str]:
    figures = report["cells"].get("another laboratory")
    if figures is None:
        return []
    known = {"accepted": 0.0, "accepted_accuracy": 0.0, **figures}
    return ["## Another laboratory\n\n" + OTHER.format_map(known)]


def _what(recipe: BundleRecipe, report: Mapping[str, Any]) -> str:
    d, e = report["detector"], report["embedder"]
    kind = "int8" if recipe.detector.int8 else "fp32"
    flips = f", averaged over {1 + len(recipe.detector.flips)} mirror images" if recipe.detector.flips else ""
    thresholds = ", ".join(f"{k} {v:.3f}" for k, v in report["thresholds"].items())
    embedder = "int8" if recipe.embedder.int8 else "fp32"
    return (
        f"Finds red cells, white cells and platelets in a field and names the type of each white cell.\n\n"
        f"- Detector: plain convolutional net, {d['parameters']:,} parameters, {d['input_px']} px, {kind}{flips}; "
        f"{d['size_bytes'] / 1e6:.2f} MB.\n"
        f"- Embedder: {e['members']} net(s), {e['parameters']:,} parameters, {e['input_px']} px crops, "
        f"{e['dimensions']} values, {embedder}; {e['size_bytes'] / 1e6:.2f} MB.\n"
        f"- Head: linear, temperature, class-conditional conformal sets, Mahalanobis domain gate.\n"
        f"- Thresholds (middle of the flat top of F1 on validation fields): {thresholds}."
    )


def _source(source: DataSource) -> list[str]:
    return [source.name, f"{source.images:,}", source.licence, source.citation]


def _boxes(report: Mapping[str, Any]) -> str:
    header = ["set", "fields", "mAP50", "mAP50-95", *(f"{c} AP50" for c in CellClass), *(f"{c} F1" for c in CellClass)]
    rows = []
    for name, figures in report["sets"].items():
        row = [name, str(figures["fields"]), _f(figures["map50"]), _f(figures["map"])]
        row += [_f(figures.get(f"map50_{c}")) for c in CellClass]
        row += [_f(figures["f1"].get(str(c))) for c in CellClass]
        rows.append(row)
    return markdown_table(header, rows)


def _counts(report: Mapping[str, Any]) -> str:
    header = ["set", *(f"{c}: mean error a field / error of the sum" for c in CellClass)]
    rows = []
    for name, figures in report["sets"].items():
        errors = [figures["count_error"][str(c)] for c in CellClass]
        rows.append([name, *(f"{e['mean_absolute']:.2f} / {100 * e['sum_ratio']:+.1f} %" for e in errors)])
    return markdown_table(header, rows)


def _types(report: Mapping[str, Any]) -> str:
    keys = {
        "cells": "cells",
        "found": "found",
        "balanced_accuracy": "balanced accuracy",
        "accuracy": "accuracy",
        "accepted": "named",
        "accepted_accuracy": "accuracy of the named",
        "in_domain": "in domain",
        "set_coverage": "coverage of the sets",
        "set_size": "size of the sets",
    }
    rows = []
    for name, figures in {**report["cells"], "generated": report["generated_types"]}.items():
        shown = [f"{figures[k]:.0f}" if k == "cells" else _f(figures.get(k)) for k in keys]
        rows.append([name, *shown])
    return markdown_table(["set", *keys.values()], rows)


def _export(report: Mapping[str, Any]) -> str:
    rows = [[name, f"{p['largest']:.3g}", f"{p['mean']:.3g}"] for name, p in report["parity"].items()]
    text = markdown_table(["network", "largest difference from torch fp32", "mean difference"], rows)
    if "fp32_val_clean" in report:
        fp32 = report["fp32_val_clean"]
        text += f"\n\nThe fp32 detector reaches mAP50 {_f(fp32['map50'])}, mAP50-95 {_f(fp32['map'])} on val_clean."
    return text


def _f(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
