"""`ahs-edge calibrate`: learns the limits of the quality gate from good fields of this device, and takes them back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from edge_agent.calibration.collecting import Collected, Collector
from edge_agent.calibration.rules import CannotCalibrate, Proposal, calibrated, limits_of, propose
from edge_agent.capture.opening import open_source
from edge_agent.capture.settings import QualitySettings
from edge_agent.command_line import ConfigOption, SetOption, answered, progress_bar, settings_of
from edge_agent.composition import sole_user
from edge_agent.config import Settings
from edge_agent.errors import ConfigurationError
from edge_agent.inference.engine import open_engine
from edge_agent.store.calibrations_sqlite import NONE_IN_FORCE, Calibrations, StoredCalibration, limits_in_force
from edge_agent.store.store_sqlite import FILE_NAME

AFTERWARDS = "It is in force from the agent's next start on."


def with_calibration(settings: Settings) -> Settings:
    """Settings with the limits that this device has learnt; what is written down explicitly stays as it is.

    Raises:
        ConfigurationError: the two together contradict each other.
    """
    return with_limits(settings, limits_in_force(settings.data_dir))


def with_limits(settings: Settings, learnt: Mapping[str, float]) -> Settings:
    """The same, of limits that were read before."""
    if not learnt:
        return settings
    return settings.model_copy(update={"quality": _together(settings, learnt)})


def _together(settings: Settings, learnt: Mapping[str, float]) -> QualitySettings:
    try:
        return calibrated(settings.quality, learnt)
    except ValidationError as exc:
        said = exc.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(
            f"the configuration and the limits of `ahs-edge calibrate` contradict each other: {said}; change `quality` "
            "in the configuration, or take the calibration back with `ahs-edge calibrate --undo`"
        ) from exc


def calibrate(
    fields: Annotated[int, typer.Option(min=10, max=1000, help="Good fields to learn from.")] = 30,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Folder of good pictures, instead of the configured source.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only show the calibration in force.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Go back to the calibration before, or to none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Apply without asking.")] = False,
    by: Annotated[str, typer.Option(help="Who says that the fields are good; kept with the calibration.")] = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the agent's own files.")] = None,
) -> None:
    """Learn the quality limits of this microscope from good fields, show them beside the old ones, and apply them."""
    with answered():
        if show and undo:
            raise ConfigurationError("give either --show or --undo")
        settings = settings_of(config, set_, {"data_dir": data_dir})
        if show or undo:
            _look_back(settings, undo=undo)
            return
        found = _collect(settings, from_, fields)
        try:
            proposals = propose(found.fields, with_calibration(settings).quality)
        except CannotCalibrate as exc:
            raise ConfigurationError(f"not calibrated: {exc}{_passed_over(found)}") from exc
        _print(proposals, found, settings)
        _together(settings, limits_of(proposals))
        if not yes and not typer.confirm("Apply these limits?", default=False):
            typer.echo("Nothing was changed.", err=True)
            return
        measured = {"fields": len(found.fields), "proposals": [asdict(proposal) for proposal in proposals]}
        with closing(Calibrations(settings.data_dir, create=True)) as kept:
            kept.put(limits_of(proposals), measured, made_by=by, now=datetime.now(UTC))
    typer.echo(f"Applied. {AFTERWARDS} `ahs-edge calibrate --undo` takes it back.", err=True)


def _look_back(settings: Settings, *, undo: bool) -> None:
    found = _looked_up(settings, undo=undo)
    if undo:
        what = "the default limits hold" if found is None else f"the one of {found.made_at:%Y-%m-%d %H:%M} UTC holds"
        typer.echo(f"Taken back: {what} again. {AFTERWARDS}", err=True)
    elif found is None:
        typer.echo("No calibration is in force: the default limits hold, or what the configuration says.")
    else:
        _print_stored(found, settings)


def _looked_up(settings: Settings, *, undo: bool) -> StoredCalibration | None:
    """Where no agent has ever run there is no calibration, and none of its files is made for the question."""
    if not (settings.data_dir / FILE_NAME).is_file():
        if undo:
            raise ConfigurationError(NONE_IN_FORCE)
        return None
    with closing(Calibrations(settings.data_dir)) as kept:
        return kept.take_back() if undo else kept.active()


def _print_stored(found: StoredCalibration, settings: Settings) -> None:
    who = f" by {found.made_by}" if found.made_by else ""
    typer.echo(f"Calibrated {found.made_at:%Y-%m-%d %H:%M} UTC{who} from {found.measured.get('fields', '?')} fields:")
    for key, limit in found.limits.items():
        given = key in settings.quality.model_fields_set
        note = f"  (the configuration says {getattr(settings.quality, key):g}, which holds)" if given else ""
        typer.echo(f"  {key:<22} {limit:>10g}{note}")


def _collect(settings: Settings, folder: Path | None, wanted: int) -> Collected:
    source = settings.source
    if folder is not None:
        source = source.model_copy(update={"spec": str(folder), "watch": False, "fields_per_s": None})
    with contextlib.ExitStack() as stack:
        if folder is None:
            # A camera cannot be read by two programs.
            stack.enter_context(sole_user(settings.data_dir))
        chosen = settings.inference
        engine = stack.enter_context(closing(open_engine(chosen.bundle, threads=chosen.threads, self_test=False)))
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("good fields", total=wanted)
        collector = Collector(
            engine,
            selection=settings.selection,
            freshness=source.freshness,
            wanted=wanted,
            step=lambda: progress.advance(task),
        )
        return collector.read(open_source(source))


def _print(proposals: Sequence[Proposal], found: Collected, settings: Settings) -> None:
    typer.echo(f"From {len(found.fields)} fields{_passed_over(found)}:")
    typer.echo(f"  {'limit':<22} {'now':>10} {'proposed':>10}  withheld now -> then   of these fields")
    for p in proposals:
        share = f"{p.withheld_before:>5.0%} -> {p.withheld_after:>4.0%}"
        spread = f"5 % below {p.low:.4g}, half below {p.middle:.4g}, 95 % below {p.high:.4g}"
        typer.echo(f"  {p.key:<22} {p.before:>10g} {p.after:>10g}  {share:<20}   {spread}")
    written = sorted(key for key in limits_of(proposals) if key in settings.quality.model_fields_set)
    if written:
        typer.echo(f"The configuration sets {', '.join(written)} itself, which goes before what is learnt.")


def _passed_over(found: Collected) -> str:
    said = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(found.passed_over.items()))
    return f" (passed over: {said})" if said else ""
