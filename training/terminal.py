"""What every command of `ahs-train` says in the same way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from models.bundle import BundleError
from models.runtime import ModelRuntimeError
from training.errors import TrainingError

console = Console()
OF_THE_EXTRA = {"torch", "albumentations", "onnx", "mlflow", "faster_coco_eval", "scipy", "matplotlib"}
HOW_TO_INSTALL = 'install the training extra: python -m pip install "automated-hematology-system[training]"'


@contextmanager
def told() -> Iterator[None]:
    """An expected error becomes one clear message and exit code 1; a bug keeps its traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        yield
    except (TrainingError, BundleError, ModelRuntimeError) as exc:
        say(type(exc).__name__, str(exc))
        raise typer.Exit(1) from exc
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] not in OF_THE_EXTRA:
            raise
        say("NotInstalled", f"this command needs {exc.name}; {HOW_TO_INSTALL}")
        raise typer.Exit(1) from exc


def say(kind: str, text: str) -> None:
    """One message on stderr."""
    Console(stderr=True).print(f"[red]{kind}[/red]: {escape(text)}", soft_wrap=True, highlight=False)
