"""A model exchanged while fields are read, with the one before as its shadow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_agent.inference.engine import BundleEngine, open_engine
from edge_agent.inference.switch import Switch, Watcher
from models.runtime.errors import ImageError, InferenceError, ModelRuntimeError
from models.runtime.results import FieldAnalysis, ImageRGB


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    root = tmp_path_factory.mktemp("bundles")
    return disc_bundle(root / "a"), disc_bundle(root / "b", version="1.1.0", permuted=True)


@pytest.fixture
def engines(bundles: tuple[Path, Path]) -> Iterator[tuple[BundleEngine, BundleEngine]]:
    old, new = (open_engine(path, threads=1, self_test=False) for path in bundles)
    with closing(old), closing(new):
        yield old, new


@pytest.fixture(scope="module")
def picture() -> ImageRGB:
    from tests.unit.runtime.blob_bundle import draw_field

    return draw_field(seed=3).image


class Notebook:
    def __init__(self) -> None:
        self.pairs: list[tuple[FieldAnalysis, FieldAnalysis]] = []
        self.failures = 0

    def watcher(self) -> Watcher:
        return Watcher(lambda image, new, old: self.pairs.append((new, old)), self._failed)

    def _failed(self) -> None:
        self.failures += 1


def labels(analysis: FieldAnalysis) -> list[str]:
    return [found.cell_type.label for found in analysis.detections if found.cell_type is not None]


def test_the_new_model_answers_and_both_are_shown_to_the_watcher(
    engines: tuple[BundleEngine, BundleEngine], picture: ImageRGB
) -> None:
    old, new = engines
    switch, notebook = Switch(old), Notebook()
    before = switch.analyse(picture)
    switch.use(new, shadow=old, watcher=notebook.watcher())
    turn = switch.for_field()
    after = turn.analyse(picture)
    assert (turn.model, switch.model, switch.shadow) == (new.model, new.model, old.model)
    ((seen_new, seen_old),) = notebook.pairs
    assert seen_new is after
    assert labels(seen_old) == labels(before) != labels(after)


def test_a_field_in_hand_is_finished_by_the_model_that_it_began_with(
    engines: tuple[BundleEngine, BundleEngine], picture: ImageRGB
) -> None:
    old, new = engines
    switch = Switch(old)
    turn = switch.for_field()
    switch.use(new)
    assert labels(turn.analyse(picture)) == labels(old.analyse(picture))
    assert (turn.model, switch.model) == (old.model, new.model)


def test_without_a_shadow_nobody_reads_twice(engines: tuple[BundleEngine, BundleEngine], picture: ImageRGB) -> None:
    old, new = engines
    switch, notebook = Switch(old), Notebook()
    switch.use(new, shadow=old, watcher=notebook.watcher())
    switch.use(new)
    switch.analyse(picture)
    assert (notebook.pairs, switch.shadow) == ([], None)


def test_what_the_new_model_cannot_read_the_one_before_reads_under_its_own_name(
    engines: tuple[BundleEngine, BundleEngine], picture: ImageRGB, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = engines
    switch, notebook = Switch(old), Notebook()

    def broken(image: ImageRGB, min_score: float | None = None) -> FieldAnalysis:
        raise InferenceError("not finite")

    monkeypatch.setattr(new, "analyse", broken)
    switch.use(new, shadow=old, watcher=notebook.watcher())
    turn = switch.for_field()
    assert labels(turn.analyse(picture)) == labels(old.analyse(picture))
    assert (turn.model, notebook.failures, notebook.pairs) == (old.model, 1, [])
    switch.use(new)
    with pytest.raises(ModelRuntimeError):
        switch.analyse(picture)


def test_a_picture_that_nobody_can_read_is_not_held_against_the_new_model(
    engines: tuple[BundleEngine, BundleEngine],
) -> None:
    old, new = engines
    switch, notebook = Switch(old), Notebook()
    switch.use(new, shadow=old, watcher=notebook.watcher())
    with pytest.raises(ImageError):
        switch.analyse(np.zeros((10, 10), np.uint8))
    assert notebook.failures == 0


def test_a_shadow_that_fails_costs_nothing_but_evidence(
    engines: tuple[BundleEngine, BundleEngine], picture: ImageRGB
) -> None:
    old, new = engines
    switch, notebook = Switch(old), Notebook()
    switch.use(new, shadow=old, watcher=notebook.watcher())
    old.close()
    assert switch.analyse(picture).detections
    assert notebook.pairs == []
