"""A simulated microscope that wanders for long forgets the places behind it, and shows the same ones all the same."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.capture import simulated
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
