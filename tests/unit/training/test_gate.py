"""What a head makes of cells: the figures that the gate judges."""

from __future__ import annotations

import numpy as np
import pytest

from models.bundle.manifest import HeadSpec
from models.runtime.head import Head
from training.gate import JudgedCells, figures_of


def head_of_two_axes(*, threshold: float = 4.0) -> tuple[Head, HeadSpec]:
    """Types lie on the five axes of the embedding, ten away from the middle."""
    axes = np.eye(5, dtype=np.float32)
    head = Head(
        weights=axes,
        bias=np.zeros(5, np.float32),
        temperature=np.array(1.0, np.float32),
        conformal_quantiles=np.full(5, 0.5, np.float32),
        domain_means=axes * 10,
        domain_precision=np.eye(5, dtype=np.float32),
        domain_threshold=np.array(threshold, np.float32),
    )
    return head, HeadSpec(accept_probability=0.6)


def test_figures_count_what_the_head_says() -> None:
    head, spec = head_of_two_axes()
    rows = np.eye(5, dtype=np.float32)[[0, 0, 1, 1]] * 10
    rows[3] *= 3  # far outside, and still the same type
    said = figures_of(head, spec, JudgedCells(rows, np.array([0, 1, 1, 1])))
    assert said.named == 0.75
    assert said.in_domain == 0.75
    assert said.recall == {"neutrophil": 1.0, "lymphocyte": pytest.approx(2 / 3)}
    assert said.named_error == pytest.approx(1 / 3)
    assert said.nll is not None
    assert said.nll > 1


def test_outsiders_have_no_true_type() -> None:
    head, spec = head_of_two_axes()
    said = figures_of(head, spec, JudgedCells(np.eye(5, dtype=np.float32)[:2] * 10, np.array([-1, -1])))
    assert said.named == 1.0
    assert said.balanced_accuracy is None
