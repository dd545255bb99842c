"""Small closed YAML files: refit, gate, retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from training.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent / "configs"
Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read and check a YAML file.

    Raises:
        ConfigError: absent, no YAML, an unknown or missing key, a value out of bounds; each problem on its own line.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror}); configurations are in training/configs") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: is no YAML: {exc}") from exc
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(top)'}: {e['msg']}" for e in exc.errors()]
        raise ConfigError(f"{path}: {len(lines)} problem(s)\n" + "\n".join(lines)) from exc
