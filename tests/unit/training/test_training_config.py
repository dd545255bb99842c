"""Configurations: what is refused, and how the message reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from fleet.release.gate import GatePlan
from fleet.release.pinned import GATE_FILE
from training.config import DetectorConfig, EmbedderConfig, load_config
from training.data.places import data_root
from training.errors import ConfigError, DataError
from training.recipe import load_recipe
from training.retrain_settings import RetrainSettings
from training.settings import load_settings
from training.site_cells import RefitSettings

CONFIGS = Path("training/configs")
SETTINGS: dict[str, type[BaseModel]] = {"gate": GatePlan, "refit": RefitSettings, "retrain": RetrainSettings}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted([GATE_FILE, *CONFIGS.glob("*.yaml")]), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    if path.stem.endswith("-bundle"):
        assert load_recipe(path).golden_seeds
    elif path.stem in SETTINGS:
        assert load_settings(path, SETTINGS[path.stem])
    else:
        assert isinstance(load_config(path), DetectorConfig | EmbedderConfig)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: detector\nname: a\nstages: [{epochs: 1, input_px: 64}]\nlearning_rate: 1\n", "learning_rate"),
        ("kind: detector\nname: a\nstages: [{epochs: 0, input_px: 64}]\n", "epochs"),
        ("kind: detector\nname: a\nstages: [{epochs: 1, input_px: 65}]\n", "multiple of 16"),
        ("kind: detector\nname: a\nstages: []\n", "stages"),
        ("kind: segmenter\nname: a\n", "kind"),
        ("name: a\n", "kind"),
        ("- 1\n", "must be a mapping"),
        ("kind: [\n", "is no YAML"),
        (
            "kind: detector\nname: a\nstages: [{epochs: 1, input_px: 64}]\ndata: {dataset: null}\n",
            "nothing to train on",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_key_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(written(tmp_path, text))
    assert "config.yaml" in str(caught.value)


def test_an_absent_configuration_says_where_the_shipped_ones_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training/configs"):
        load_config(tmp_path / "none.yaml")


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="surprise"):
        load_recipe(written(tmp_path, "surprise: 1\n"))


def test_without_a_data_folder_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="AHS_DATA_DIR is not set"):
        data_root()
    monkeypatch.setenv("AHS_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="is no folder"):
        data_root()


def test_stages_follow_each_other() -> None:
    config = load_config(CONFIGS / "edge-detector.yaml")
    sizes = [config.stage_at(e).input_px for e in range(config.epochs)]
    assert sizes == sorted(sizes)
    assert sizes[0] == config.stages[0].input_px
    assert sizes[-1] == config.stages[-1].input_px
    assert config.stage_at(10_000) == config.stages[-1]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_key_that_is_unknown_or_missing_is_refused(name: str, tmp_path: Path) -> None:
    text = (GATE_FILE if name == "gate" else CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="tolerence"):
        load_settings(written(tmp_path, text + "tolerence: 0.1\n"), SETTINGS[name])
    last = text.splitlines()[-1]
    with pytest.raises(ConfigError, match=last.split(":")[0]):
        load_settings(written(tmp_path, text.replace(last, "")), SETTINGS[name])
