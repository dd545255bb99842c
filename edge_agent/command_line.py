"""What all commands of `ahs-edge` share: options, settings, progress, and errors as one message with an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_agent.capture.errors import SourceNotFound
from edge_agent.config import Settings, load_settings
from edge_agent.errors import BadArtefact, ConfigurationError, DeviceFault, EdgeError
from edge_agent.exit_codes import ExitCode

ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, e.g. --set mqtt.host=broker.lab (may be repeated).")
]


def settings_of(config: Path | None, set_: list[str] | None, flags: Mapping[str, Any]) -> Settings:
    """The settings in force: flags that were given, before `--set`, before the environment, before the file.

    Raises:
        ConfigurationError: for what cannot be meant.
    """
    overrides: dict[str, Any] = {}
    for item in set_ or []:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--set {item}: write section.key=value, e.g. mqtt.host=broker.lab")
        overrides[key.strip()] = None if value.strip() in ("", "null") else value.strip()
    overrides |= {key: value for key, value in flags.items() if value is not None}
    return load_settings(config, overrides=overrides)


def progress_bar() -> Progress:
    """How far a long command is, on the standard error; gone when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Whatever a person has to put right becomes one clear message and its exit code."""
    try:
        yield
    except ConfigurationError as exc:
        _fail(exc, ExitCode.CONFIGURATION)
    except BadArtefact as exc:
        _fail(exc, ExitCode.BUNDLE)
    except SourceNotFound as exc:
        _fail(exc, ExitCode.SOURCE)
    except DeviceFault as exc:
        _fail(exc, ExitCode.WORKSTATION)
    except EdgeError as exc:
        _fail(exc, ExitCode.UNEXPECTED)


def _fail(exc: Exception, code: ExitCode) -> NoReturn:
    typer.echo(f"ahs-edge: {exc}", err=True)
    raise typer.Exit(code) from exc
