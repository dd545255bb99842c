"""The head, fitted from embeddings alone: no torch here."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from models.bundle.manifest import HeadSpec
from models.runtime.head import load_head
from training.errors import DataError
from training.head import (
    FittedHead,
    HeadOptions,
    LabelledEmbeddings,
    conformal_quantiles,
    fit_head,
    fit_temperature,
    softmax,
)

DIMENSIONS = 12


def cells(seed: int, *, per_class: int = 80, spread: float = 1.0, origins: int = 1) -> LabelledEmbeddings:
    """Five clouds an origin, well apart."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 3, (origins, 5, DIMENSIONS))
    rows, labels, places = [], [], []
    for origin in range(origins):
        for label in range(5):
            rows.append(centres[origin, label] + rng.normal(0, spread, (per_class, DIMENSIONS)))
            labels += [label] * per_class
            places += [origin] * per_class
    return LabelledEmbeddings(np.concatenate(rows).astype(np.float32), np.array(labels), np.array(places))


@pytest.fixture(scope="module")
def fitted() -> FittedHead:
    return fit_head(cells(1), cells(2))


def test_it_names_cells_it_never_saw(fitted: FittedHead) -> None:
    fresh = cells(3)
    assert (fitted.head.probabilities(fresh.embeddings).argmax(1) == fresh.labels).mean() > 0.98


def test_the_runtime_reads_what_it_writes(fitted: FittedHead) -> None:
    spec = HeadSpec(accept_probability=fitted.accept_probability, coverage=fitted.coverage)
    head = load_head(fitted.head.to_bytes(), spec, DIMENSIONS)
    assert np.array_equal(head.weights, fitted.head.weights)
    types = head.read_types(cells(4, per_class=10).embeddings, spec)
    assert sum(t.label != "unidentified" for t in types) > 35


def test_prediction_sets_cover_each_class_as_promised(fitted: FittedHead) -> None:
    fresh = cells(5, per_class=400)
    chances = fitted.head.probabilities(fresh.embeddings)
    held = (1 - chances[np.arange(len(fresh.labels)), fresh.labels]) <= fitted.head.conformal_quantiles[fresh.labels]
    for label in range(5):
        assert held[fresh.labels == label].mean() > 0.88


def test_outsiders_are_outside_the_domain(fitted: FittedHead) -> None:
    fresh = cells(6)
    limit = float(fitted.head.domain_threshold)
    assert (fitted.head.distances(fresh.embeddings) <= limit).mean() > 0.93
    strangers = np.random.default_rng(7).normal(0, 8, (200, DIMENSIONS)).astype(np.float32)
    assert (fitted.head.distances(strangers) > limit).mean() > 0.9


def test_each_origin_has_means_of_its_own() -> None:
    two = fit_head(cells(1, origins=2), cells(2, origins=2))
    assert two.head.domain_means.shape == (10, DIMENSIONS)
    fresh = cells(3, origins=2)
    for origin in (0, 1):
        inside = two.head.distances(fresh.of_origin(origin).embeddings) <= float(two.head.domain_threshold)
        assert inside.mean() > 0.9


def test_temperature_cools_an_overconfident_head() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 3000)
    honest = rng.normal(0, 1, (3000, 5)) + 2 * np.eye(5)[labels]
    chances = softmax(honest * 2)
    labels = np.array([rng.choice(5, p=p) for p in chances])
    assert fit_temperature(honest * 6, labels) == pytest.approx(3.0, rel=0.1)


def test_a_class_with_too_few_cells_for_its_coverage_is_always_in_the_set() -> None:
    chances = np.full((10, 5), 0.2)
    assert conformal_quantiles(chances, np.repeat(np.arange(5), 2), 0.95).tolist() == [1.0] * 5


def test_a_noisy_held_out_set_raises_the_probability_needed() -> None:
    mixed = cells(2, spread=3.0)
    strict = fit_head(cells(1, spread=3.0), mixed, HeadOptions(allowed_error=0.01))
    loose = fit_head(cells(1, spread=3.0), mixed, HeadOptions(allowed_error=0.2))
    assert strict.accept_probability > loose.accept_probability


def test_a_type_without_cells_is_named() -> None:
    few = cells(1)
    kept = few.labels != 3
    partial = LabelledEmbeddings(few.embeddings[kept], few.labels[kept], few.origins[kept])
    with pytest.raises(DataError, match="eosinophil"):
        fit_head(partial, few)


def test_embeddings_that_do_not_differ_are_refused_with_why() -> None:
    same = LabelledEmbeddings(np.ones_like(cells(1).embeddings), cells(1).labels, cells(1).origins)
    with pytest.raises(DataError, match="the embedder is untrained"):
        fit_head(same, cells(2))


def test_fitting_a_head_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import training.head"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
