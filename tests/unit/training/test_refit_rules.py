"""What a refit decides: versions, what is held out, how much a site counts, and where it starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_bundle
from models.bundle.manifest import HeadSpec
from models.zoo import shipped
from training.base_set import find_base_set, read_base_set
from training.gate import figures_of
from training.head import LabelledEmbeddings, fit_head
from training.label_folder import LabelFolder, LabelledCell, LabelledImage
from training.refit import figures_of_bundle, frozen_slices, next_version, site_weights
from training.settings import CONFIGS, load_settings
from training.site_cells import RefitSettings, held_out_images

SETTINGS = load_settings(CONFIGS / "refit.yaml", RefitSettings)


def test_the_next_version_counts_the_last_number() -> None:
    assert next_version("1.0.9") == "1.0.10"


def folder_of(pictures: int) -> LabelFolder:
    """Three labels a picture."""
    cells = tuple(LabelledCell((0.0, 0.0, 9.0, 9.0), label) for label in range(3))
    images = tuple(LabelledImage(Path("x"), str(n), None, cells) for n in range(pictures))
    return LabelFolder(images, {}, (), "0")


def test_a_share_of_the_pictures_is_held_out_and_none_with_few_labels() -> None:
    many = folder_of(20)
    assert len(held_out_images(many, SETTINGS, seed=1)) == 6
    assert held_out_images(many, SETTINGS, seed=1) == held_out_images(many, SETTINGS, seed=1)
    assert held_out_images(many, SETTINGS, seed=1) != held_out_images(many, SETTINGS, seed=2)
    assert not held_out_images(folder_of(SETTINGS.least_held_out // 3), SETTINGS, seed=1)


def test_ten_thousand_labels_cannot_outvote_the_base_set() -> None:
    def cells(labels: list[int]) -> LabelledEmbeddings:
        rows = np.zeros((len(labels), 2), np.float32)
        return LabelledEmbeddings(rows, np.array(labels), np.zeros(len(labels), np.int64))

    base = cells([0] * 100 + [1] * 100)
    weights = site_weights(base, cells([0] * 10_000 + [1] * 3), SETTINGS)
    assert weights[200:10_200].sum() == pytest.approx(100)
    assert weights[10_200:].tolist() == [SETTINGS.site_weight] * 3


def test_a_head_without_labels_of_a_site_is_what_was_shipped() -> None:
    """The base set is what the shipped head was fitted on: figures on the frozen set agree to the third digit."""
    bundle = read_bundle(shipped("edge"))
    base = read_base_set(find_base_set(bundle), bundle)
    fitted = fit_head(base.train, base.held_out)
    spec = HeadSpec(accept_probability=fitted.accept_probability, coverage=fitted.coverage)
    slices = frozen_slices(base.frozen)
    for name, shipped_figures in figures_of_bundle(bundle, slices).items():
        own = figures_of(fitted.head, spec, slices[name])
        assert own.named == pytest.approx(shipped_figures.named, abs=0.005)
        assert own.in_domain == pytest.approx(shipped_figures.in_domain, abs=0.005)
