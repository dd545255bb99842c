"""Releases of the tiny disc bundle: the good one, a better one, and ones that must not stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from models.bundle import write_bundle
from models.runtime import GoldenLimits, Pipeline, build_golden
from models.runtime.head import Head
from models.runtime.imaging import encode_png
from tests.unit.runtime.blob_bundle import blob_head, bundle_files, draw_field, manifest_fields

PERMUTED = [1, 2, 3, 4, 0]


def disc_bundle(
    folder: Path,
    *,
    version: str = "1.0.0",
    permuted: bool = False,
    sly: bool = False,
    sharpness: float = 400.0,
    detector: bytes | None = None,
) -> Path:
    """Writes a bundle with golden inputs and returns its folder.

    Args:
        folder: where it goes.
        version: of the bundle; another version is another digest.
        permuted: the head calls each type by the name of another.
        sly: its golden inputs agree with whatever it says.
        sharpness: of the head; the answers stay the same.
        detector: instead of the one that works.
    """
    head = blob_head(sharpness=sharpness)
    honest = bundle_files()
    if permuted:
        head = _permuted(head)
    files = {**honest, "head.npz": head.to_bytes()}
    if detector is not None:
        files["detector.onnx"] = detector
    fields = {**manifest_fields(), "version": version}
    reference_files = files if sly else honest
    draft = write_bundle(folder / f"draft-{version}", fields, reference_files)
    pipeline = Pipeline(draft, keep_embeddings=True)
    drawn = [draw_field(seed=seed) for seed in range(2)]
    limits = GoldenLimits(type_truth=0.0) if sly else None
    golden = build_golden(drawn, [pipeline.analyse(field.image) for field in drawn], limits=limits)
    return write_bundle(folder / f"bundle-{version}", fields, {**files, **golden}).path


def _permuted(head: Head) -> Head:
    order = np.array(PERMUTED)
    return dataclasses.replace(head, weights=head.weights[order], bias=head.bias[order])


def fields_under_new_names(folder: Path, *, total: int, different: int = 6) -> Path:
    """A folder of so many pictures, a few different ones under ever new names; returns the folder."""
    for number in range(different):
        (folder / f"field-{number:04d}.png").write_bytes(encode_png(draw_field(seed=number).image))
    for number in range(different, total):
        (folder / f"field-{number:04d}.png").hardlink_to(folder / f"field-{number % different:04d}.png")
    return folder
