"""A simulated microscope that wanders for long forgets the places behind it, and shows the same ones all the same."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.capture import simulated
from edge_agent.capture.errors import SourceNotFound
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import SourceSettings
from models.runtime.results import ImageRGB
from models.synthetic import SlideSpec, VirtualSlide

FIELDS = 6


def read_all() -> list[ImageRGB]:
    source = open_source(SourceSettings.model_validate(f"sim:seed=3,fields={FIELDS},width_px=160,height_px=120"))
    with source:
        return [source.read(10.0).image for _ in range(FIELDS)]


def test_renewing_the_slide_changes_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_all()
    made = []

    def counted(spec: SlideSpec) -> VirtualSlide:
        made.append(VirtualSlide(spec))
        return made[-1]

    monkeypatch.setattr(simulated, "VirtualSlide", counted)
    monkeypatch.setattr(simulated, "RENEW_AFTER_FIELDS", 2)
    found = read_all()
    assert len(made) == 1 + FIELDS // 2
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_strength_and_tint_of_the_stain_reach_the_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SlideSpec] = []

    def kept(spec: SlideSpec) -> VirtualSlide:
        made.append(spec)
        return VirtualSlide(spec)

    monkeypatch.setattr(simulated, "VirtualSlide", kept)
    strong = {"seed": 3, "stain_intensity_ratio": 2.0, "stain_tint": (1.6, 0.7, 0.7)}
    settings = {"spec": "sim", "width_px": 160, "height_px": 120}
    sources = [SourceSettings.model_validate({**settings, "simulated": s}) for s in ({"seed": 3}, strong)]
    pictures = []
    for each in sources:
        with open_source(each) as source:
            pictures.append(source.read(10.0).image)
    assert [made[1].stain_intensity_ratio, made[1].stain_tint] == [2.0, (1.6, 0.7, 0.7)]
    assert pictures[1].mean() < pictures[0].mean() - 5


def test_a_tint_that_no_stain_has_is_refused() -> None:
    strange = {"spec": "sim", "simulated": {"stain_tint": (9.0, 1.0, 1.0)}}
    with pytest.raises(SourceNotFound, match="stain_tint"), open_source(SourceSettings.model_validate(strange)):
        pass
