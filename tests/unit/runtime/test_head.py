"""The head: probabilities, prediction sets, domain and the rule for the label."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.bundle import UNIDENTIFIED, HeadSpec
from models.runtime import InferenceError, ModelLoadError
from models.runtime.head import Head, load_head
from models.runtime.results import FloatArray

SPEC = HeadSpec(accept_probability=0.8)


def _head(**changes: object) -> Head:
    plain = Head(
        weights=np.eye(5, dtype=np.float32),
        bias=np.zeros(5, np.float32),
        temperature=np.array(1.0, np.float32),
        conformal_quantiles=np.full(5, 0.4, np.float32),
        domain_means=10 * np.eye(5, dtype=np.float32),
        domain_precision=np.eye(5, dtype=np.float32),
        domain_threshold=np.array(4.0, np.float32),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def _one(values: list[float]) -> FloatArray:
    return np.array([values], np.float32)


def test_a_sure_and_familiar_cell_gets_its_type() -> None:
    (found,) = _head().read_types(_one([0, 0, 10, 0, 0]), SPEC)
    assert found.label == "monocyte"
    assert found.prediction_set == ("monocyte",)
    assert found.in_domain
    assert found.ood_score == 0.0
    assert list(found.probabilities) == ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
    assert found.embedding is None


def test_a_foreign_cell_stays_unidentified_however_sure() -> None:
    (found,) = _head().read_types(_one([0, 0, 13, 0, 0]), SPEC)
    assert found.probabilities["monocyte"] > 0.99
    assert found.ood_score == pytest.approx(9 / 4)
    assert not found.in_domain
    assert found.label == UNIDENTIFIED


def test_an_unsure_cell_stays_unidentified() -> None:
    head = _head(temperature=np.array(10.0, np.float32))
    (found,) = head.read_types(_one([0, 0, 10, 0, 0]), SPEC)
    assert found.in_domain
    assert max(found.probabilities.values()) < 0.8
    assert found.label == UNIDENTIFIED


@pytest.mark.parametrize(("quantiles", "members"), [([0.9999999] * 5, 5), ([0.0] * 5, 0)])
def test_a_set_that_holds_not_exactly_the_top_type_leaves_it_unidentified(quantiles: list[float], members: int) -> None:
    head = _head(conformal_quantiles=np.array(quantiles, np.float32))
    (found,) = head.read_types(_one([0, 0, 10, 0, 0]), SPEC)
    assert len(found.prediction_set) == members
    assert found.label == UNIDENTIFIED


def test_the_quantile_of_each_class_decides_on_that_class() -> None:
    head = _head(conformal_quantiles=np.array([0.4, 0.6, 0.4, 0.4, 0.4], np.float32))
    (found,) = head.read_types(_one([0, 5, 5, 0, 0]), SPEC)
    assert found.prediction_set == ("lymphocyte",)


def test_temperature_flattens_without_changing_the_order() -> None:
    values = _one([3, 1, 2, 0, -1])
    cold, warm = (_head(temperature=np.array(t, np.float32)).probabilities(values)[0] for t in (0.5, 5.0))
    assert cold.max() > warm.max()
    assert np.argsort(cold).tolist() == np.argsort(warm).tolist()


@given(values=hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32)))
def test_probabilities_always_sum_to_one(values: FloatArray) -> None:
    chances = _head().probabilities(values)
    assert np.isfinite(chances).all()
    assert (chances >= 0).all()
    assert chances.sum(axis=1) == pytest.approx(np.ones(3))
    assert (_head().distances(values) >= 0).all()


def test_embeddings_that_are_not_finite_or_of_another_width_are_an_error() -> None:
    with pytest.raises(InferenceError, match="not finite"):
        _head().read_types(_one([0, 0, float("nan"), 0, 0]), SPEC)
    with pytest.raises(InferenceError, match="reads 5"):
        _head().read_types(np.zeros((1, 4), np.float32), SPEC)


def test_no_cells_give_no_types_and_embeddings_are_kept_when_asked() -> None:
    assert _head().read_types(np.empty((0, 5), np.float32), SPEC) == []
    (found,) = _head().read_types(_one([1, 2, 3, 4, 5]), SPEC, keep_embeddings=True)
    assert found.embedding is not None
    assert found.embedding.tolist() == [1, 2, 3, 4, 5]


def test_a_head_survives_its_file_and_gives_the_same_bytes_twice() -> None:
    data = _head().to_bytes()
    assert data == _head().to_bytes()
    again = load_head(data, SPEC, 5)
    for field in dataclasses.fields(Head):
        assert np.array_equal(getattr(again, field.name), getattr(_head(), field.name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((5, 4), np.float32)}, r"weights is float32 \(5, 4\), expected float32 \(5, 5\)"),
        ({"bias": np.full(5, np.nan, np.float32)}, "bias holds values that are not finite"),
        ({"temperature": np.array(0.0, np.float32)}, "temperature must be above 0"),
        ({"domain_threshold": np.array(-1.0, np.float32)}, "domain_threshold must be above 0"),
    ],
)
def test_a_head_with_a_wrong_array_is_refused_by_name(changes: dict[str, FloatArray], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_head(_head(**changes).to_bytes(), SPEC, 5)


def test_a_head_that_would_run_code_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ModelLoadError):
        load_head(buffer.getvalue(), SPEC, 5)


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_whatever_bit_of_a_heads_file_flips_it_is_read_or_refused_in_our_words(pack: Callable[..., None]) -> None:
    buffer = io.BytesIO()
    pack(buffer, **{f.name: np.asarray(getattr(_head(), f.name)) for f in dataclasses.fields(Head)})
    whole, refused = buffer.getvalue(), 0
    for place in range(0, len(whole), 3):
        try:
            load_head(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :], SPEC, 5)
        except ModelLoadError:
            refused += 1
    assert refused > len(whole) // 6


def test_a_file_that_is_no_head_and_one_that_unpacks_without_end_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_head(b"nothing of the kind", SPEC, 5)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", b"\0" * 70_000_000)
    with pytest.raises(ModelLoadError, match="unpacks to more"):
        load_head(buffer.getvalue(), SPEC, 5)
