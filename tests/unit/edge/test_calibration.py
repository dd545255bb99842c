"""A device's own limits: learnt from good fields, shown, applied before defaults, taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_agent.calibrate_cli import with_calibration
from edge_agent.calibration.collecting import Collector
from edge_agent.calibration.rules import CannotCalibrate, GoodField, calibrated, limits_of, propose
from edge_agent.capture.errors import SourceEnded
from edge_agent.capture.frame import Frame
from edge_agent.capture.gate import AnalysisSummary, FieldMeasurements, QualityGate
from edge_agent.capture.settings import FreshnessSettings, QualitySettings, SelectionSettings, SourceSettings
from edge_agent.capture.simulated import SimulatedSource
from edge_agent.cli import app
from edge_agent.config import load_settings
from edge_agent.errors import ConfigurationError
from edge_agent.inference.engine import open_engine
from edge_agent.store.calibrations_sqlite import Calibrations, limits_in_force
from models.runtime.imaging import encode_png
from models.synthetic import SlideSpec, VirtualSlide
from tests.unit.edge.edge_builders import START

RNG = np.random.default_rng(3)


def good(
    *, focus: float = 0.4, size_px: float = 80.0, um_per_px: float | None = None, level: float = 190.0
) -> GoodField:
    picture = FieldMeasurements(640, 480, focus, level, level + 30.0, 0.001, 20.0)
    return GoodField(picture, AnalysisSummary(30, 1, 2, size_px, 640 * 480), um_per_px)


def spread(count: int = 30) -> list[GoodField]:
    return [
        good(focus=float(RNG.normal(0.4, 0.02)), size_px=float(RNG.normal(80.0, 2.0)), level=float(RNG.normal(190, 4)))
        for _ in range(count)
    ]


def test_limits_stand_beyond_what_good_fields_show_and_withhold_none_of_them() -> None:
    fields = spread()
    proposals = {p.key: p for p in propose(fields, QualitySettings())}
    assert set(proposals) >= {"focus_min", "brightness_min_level", "brightness_max_level", "cast_max_level"}
    focus = proposals["focus_min"]
    assert 0.14 < focus.after < focus.low < focus.middle < focus.high
    assert proposals["red_cell_min_px"].after < proposals["red_cell_min_px"].low
    assert proposals["red_cell_max_px"].after > proposals["red_cell_max_px"].high
    assert proposals["red_cell_min_px"].after <= 0.7 * 81, "a patient with small red cells is not withheld"
    assert proposals["red_cell_max_px"].after >= 1.3 * 79
    assert sum(p.withheld_after for p in proposals.values()) <= 2 / 30
    gate = QualityGate(calibrated(QualitySettings(), limits_of(list(proposals.values()))))
    assert gate.judge(replace(fields[0].picture, focus=0.25), fields[0].cells) == ["out_of_focus"], (
        "blurred for this one"
    )
    assert QualityGate().judge(replace(fields[0].picture, focus=0.25), fields[0].cells) == [], (
        "the default lets it pass"
    )


def test_red_cells_are_learnt_in_micrometres_where_the_scale_is_known() -> None:
    keys = [p.key for p in propose([good(um_per_px=0.09) for _ in range(12)], QualitySettings())]
    assert keys[-2:] == ["red_cell_min_um", "red_cell_max_um"]
    assert "red_cell_min_px" not in keys


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([good()] * 9, "too few"),
        ([good(focus=0.05)] * 20, "out of focus"),
        ([good(focus=0.105)] * 30, "out of focus"),
        ([good(focus=0.11)] * 12 + [good(focus=0.3)] * 18, "focus_min can be 0.12 at the outside.* 40%"),
        ([good(level=254.0)] * 20, "brightness_max_level can be 253 at the outside.* 100%"),
        ([good(um_per_px=0.03)] * 20, "2.4 um wide.*um_per_px is wrong"),
        ([good(um_per_px=0.2)] * 20, "16.0 um wide.*um_per_px is wrong"),
        ([good(size_px=40.0)] * 10 + [good(size_px=100.0)] * 10, "several magnifications"),
        ([good(um_per_px=0.1)] * 10 + [good(um_per_px=0.2)] * 10, "several scales"),
    ],
)
def test_fields_that_do_not_do_are_refused_with_the_reason(fields: list[GoodField], why: str) -> None:
    with pytest.raises(CannotCalibrate, match=why):
        propose(fields, QualitySettings())


def test_fields_that_are_all_alike_are_not_withheld_by_what_was_learnt_from_them() -> None:
    picture = FieldMeasurements(640, 480, 0.1996, 180.6, 210.0, 0.0301, 24.3)
    fields = [replace(good(), picture=picture)] * 30
    found = {p.key: p for p in propose(fields, QualitySettings())}
    assert sum(p.withheld_after for p in found.values()) == 0
    assert found["focus_min"].after == 0.179, "rounded down"
    assert (found["brightness_min_level"].after, found["brightness_max_level"].after) == (171, 190)
    assert (found["cast_max_level"].after, found["saturated_max_ratio"].after) == (30, 0.037), "rounded up"
    gate = QualityGate(calibrated(QualitySettings(), limits_of(list(found.values()))))
    assert gate.judge(picture, fields[0].cells) == []
    assert gate.judge(replace(picture, brightness_level=175.0), fields[0].cells) == [], "the lamp may move a little"


def test_limits_with_nothing_between_them_are_refused_also_where_one_is_learnt(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="brightness_min_level"):
        load_settings(overrides={"quality.brightness_min_level": 250.0}, environment={})
    with pytest.raises(ConfigurationError, match="red_cell_min_um"):
        load_settings(overrides={"quality.red_cell_min_um": 11.0}, environment={})
    written = load_settings(
        overrides={"quality.brightness_min_level": 200.0, "data_dir": str(tmp_path)}, environment={}
    )
    assert with_calibration(written) == written
    with closing(Calibrations(tmp_path, create=True)) as kept:
        kept.put({"brightness_max_level": 190.0}, {}, made_by="AB", now=START)
    with pytest.raises(ConfigurationError, match=r"brightness_min_level \(200\).*\(190\).*--undo"):
        with_calibration(written)


def test_what_somebody_wrote_down_goes_before_what_was_learnt_and_that_before_defaults() -> None:
    written = load_settings(overrides={"quality.focus_min": 0.2}, environment={}).quality
    found = calibrated(written, {"focus_min": 0.33, "cast_max_level": 40.0, "gone_in_this_version": 1.0})
    assert (found.focus_min, found.cast_max_level) == (0.2, 40.0)
    assert found.brightness_min_level == QualitySettings().brightness_min_level


def test_a_calibration_is_taken_back_to_the_one_before_also_after_another_was_taken_back(tmp_path: Path) -> None:
    with closing(Calibrations(tmp_path, create=True)) as kept:
        assert kept.active() is None
        with pytest.raises(ConfigurationError, match="nothing to take back"):
            kept.take_back()
        for number in (1.0, 2.0):
            kept.put({"focus_min": number}, {}, made_by="AB", now=START)
        first = kept.take_back()
        assert first is not None
        assert (first.limits, first.made_by, first.made_at) == ({"focus_min": 1.0}, "AB", START)
        kept.put({"focus_min": 3.0}, {}, made_by="", now=START)
        again = kept.take_back()
        assert again == first, "not the one that was taken back before"
        assert kept.take_back() is None
    assert limits_in_force(tmp_path) == {}
    assert limits_in_force(tmp_path / "nowhere") == {}


class Pictures(SimulatedSource):
    """Given pictures, as a source that is not live, or is."""

    def __init__(self, pictures: list[np.ndarray], *, live: bool) -> None:
        super().__init__(SourceSettings.model_validate("sim:seed=1"))
        self._pictures = list(enumerate(pictures, start=1))
        self.live = live

    def read(self, timeout_s: float) -> Frame:
        if not self._pictures:
            raise SourceEnded("end")
        number, image = self._pictures.pop(0)
        return Frame(image, f"camera@{number}", number, START, number / 15.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    return disc_bundle(tmp_path_factory.mktemp("bundle") / "a")


@pytest.fixture(scope="module")
def discs() -> Callable[[int], np.ndarray]:
    pytest.importorskip("onnx")
    from tests.unit.runtime.blob_bundle import draw_field

    return lambda seed: draw_field(seed=seed).image


@pytest.fixture
def collector(bundle: Path) -> Iterator[Collector]:
    with closing(open_engine(bundle, threads=1, self_test=False)) as engine:
        yield Collector(engine, selection=SelectionSettings(), freshness=FreshnessSettings(), wanted=10)


def test_dead_and_repeated_pictures_are_passed_over_and_said(
    collector: Collector, discs: Callable[[int], np.ndarray]
) -> None:
    black, white = np.zeros((480, 640, 3), np.uint8), np.full((480, 640, 3), 255, np.uint8)
    found = collector.read(Pictures([discs(0), discs(0), black, white, discs(1)], live=False))
    assert len(found.fields) == 2
    assert dict(found.passed_over) == {"repeated": 1, "black": 1, "saturated": 1}


def test_a_still_stage_of_a_live_source_is_one_field(collector: Collector) -> None:
    slide = VirtualSlide(SlideSpec(seed=11))
    places = [slide.render(x_um=x, y_um=0.0).image for x in (0.0, 60.0)]

    def rest(place: np.ndarray) -> list[np.ndarray]:
        return [np.clip(place + RNG.normal(0, 2, place.shape), 0, 255).astype(np.uint8) for _ in range(12)]

    found = collector.read(Pictures([*rest(places[0]), *rest(places[1])], live=True))
    assert len(found.fields) == 2


def test_the_command_shows_applies_and_takes_back(
    tmp_path: Path, bundle: Path, discs: Callable[[int], np.ndarray]
) -> None:
    folder, data = tmp_path / "good", tmp_path / "data"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed:02d}.png").write_bytes(encode_png(discs(seed)))
    config = tmp_path / "edge.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "data_dir": str(data),
                "inference": {"bundle": str(bundle), "threads": 1},
                "quality": {"cast_max_level": 77.0},
            }
        )
    )

    def run(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(app, ["calibrate", "--config", str(config), *arguments], input=answer)

    def in_force() -> QualitySettings:
        return with_calibration(load_settings(config, environment={})).quality

    default = in_force()
    declined = run("--from", str(folder), "--fields", "12", answer="n\n")
    assert declined.exit_code == 0, declined.output
    assert "focus_min" in declined.output
    assert "withheld now -> then" in declined.output
    assert in_force() == default, "nothing is changed without a yes"

    applied = run("--from", str(folder), "--fields", "12", "--yes", "--by", "AB")
    assert applied.exit_code == 0, applied.output
    learnt = in_force()
    assert learnt.focus_min != default.focus_min
    assert learnt.cast_max_level == 77.0, "the configuration goes first"
    shown = run("--show")
    assert "by AB from 12 fields" in shown.output
    assert "the configuration says 77, which holds" in shown.output
    checked = CliRunner().invoke(app, ["check-config", "--config", str(config)])
    assert yaml.safe_load(checked.output)["quality"]["focus_min"] == learnt.focus_min

    results = tmp_path / "results.json"
    arguments = ["infer", "--config", str(config), "--images", str(folder), "--out", str(results)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert len(json.loads(results.read_text())["images"]) == 12

    back = run("--undo")
    assert "the default limits hold again" in back.output
    assert in_force() == default
    assert run("--undo").exit_code == 2


@pytest.mark.parametrize(
    ("option", "code", "said"), [("--show", 0, "No calibration"), ("--undo", 2, "nothing to take")]
)
def test_a_question_about_a_device_that_never_ran_makes_none_of_its_files(
    tmp_path: Path, option: str, code: int, said: str
) -> None:
    done = CliRunner().invoke(app, ["calibrate", option, "--data-dir", str(tmp_path / "data")])
    assert (done.exit_code, said in done.output) == (code, True)
    assert not (tmp_path / "data").exists()


def test_too_few_pictures_are_refused_by_the_command(
    tmp_path: Path, bundle: Path, discs: Callable[[int], np.ndarray]
) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(discs(1)))
    arguments = ["calibrate", "--from", str(tmp_path), "--data-dir", str(tmp_path / "d"), "--yes"]
    done = CliRunner().invoke(app, [*arguments, "--set", f"inference.bundle={bundle}", "--set", "inference.threads=1"])
    assert (done.exit_code, "too few" in done.output) == (2, True)
    assert not (tmp_path / "d").exists()
