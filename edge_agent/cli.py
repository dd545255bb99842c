"""`ahs-edge`: the program beside the microscope.

Exit codes: 0 done; 1 unexpected error; 2 wrong configuration or arguments; 3 the model bundle cannot be used; 4 the
source of pictures is not there; 5 something of this workstation (port, disk, store); 6 a bounded run ended before
everything was delivered; 7 no picture could be read.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer

from edge_agent.calibrate_cli import calibrate, with_calibration, with_limits
from edge_agent.capture.gate import QualityGate
from edge_agent.command_line import ConfigOption, SetOption, answered, progress_bar, settings_of
from edge_agent.composition import Composed, compose, open_calibrated, sole_user
from edge_agent.config import Settings, effective
from edge_agent.console.server import ConsoleServer, read_token
from edge_agent.errors import ConfigurationError
from edge_agent.exit_codes import ExitCode
from edge_agent.export import export
from edge_agent.infer import Inference, find_pictures, write_document
from edge_agent.inference.engine import BundleEngine, open_engine
from edge_agent.inference.switch import Switch
from edge_agent.logs import configure
from edge_agent.reading import FieldReader
from edge_agent.reloading import Written
from edge_agent.replay import Replay, read_slide, summary_lines
from edge_agent.self_test import limit_this_process, self_test
from edge_agent.spool_cli import spool
from edge_agent.updating import open_updates
from edge_agent.version import agent_version

log = structlog.get_logger()

app = typer.Typer(
    name="ahs-edge",
    help="Finds and classifies blood cells beside the microscope. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(spool)
app.command()(calibrate)


@app.command()
def run(
    config: ConfigOption = None,
    set_: SetOption = None,
    source: Annotated[str | None, typer.Option(help="Camera number, stream URL, video, folder, or sim:seed=7.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for the agent's own files.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one if not given.")] = None,
    stop_after_fields: Annotated[int | None, typer.Option(help="Stop when the slide has so many fields.")] = None,
    exit_when_drained: Annotated[
        bool, typer.Option("--exit-when-drained", help="At the end close the slide, deliver everything, then exit.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Read fields from a camera (or a simulation) until stopped; works without any network."""
    flags = {
        "source": source,
        "data_dir": data_dir,
        "inference.bundle": bundle,
        "run.stop_after_fields": stop_after_fields,
        "run.exit_when_drained": exit_when_drained or None,
    }
    with answered():
        configure(level=_level(log_level))
        written = Written(lambda: settings_of(config, set_, flags), threading.Event())
        settings, stop = written.read(), threading.Event()
        _listen_to_signals(stop, written.changed)
        code = _run(settings, stop, written)
    raise typer.Exit(code)


def _run(settings: Settings, stop: threading.Event, written: Written) -> ExitCode:
    with sole_user(settings.data_dir), contextlib.ExitStack() as stack:
        start = open_updates(settings)
        engine = start.engine if start is not None else _engine(settings)
        switch = Switch(engine)
        stack.callback(switch.close)
        store, learnt = open_calibrated(settings)
        stack.callback(store.close)
        settings = with_limits(settings, learnt)
        # A calibration is in force from the start on: reading the settings again asks nothing of the store.
        again = Written(lambda: with_limits(written.read(), learnt), written.changed)
        composed = compose(settings, switch, store, start=start, written=again)
        stack.enter_context(_console(settings, composed))
        log.info(
            "agent_started",
            device=settings.device.id,
            boot=store.boot,
            model=f"{engine.model.name} {engine.model.version}",
            threads=engine.facts.threads,
            source=settings.source.kind,
            version=agent_version(),
        )
        code = composed.agent.run(stop)
        log.info("agent_stopped", code=int(code))
        return code


def _engine(settings: Settings) -> BundleEngine:
    return open_engine(settings.inference.bundle, threads=settings.inference.threads, self_test=settings.run.self_test)


@contextlib.contextmanager
def _console(settings: Settings, composed: Composed) -> Iterator[None]:
    if not settings.console.enabled:
        yield
        return
    file = settings.console.token_file
    token = read_token(file) if file is not None else None
    with ConsoleServer(
        composed.console, host=settings.console.host, port=settings.console.port, token=token
    ) as console:
        log.info("console_opened", url=console.url)
        yield


@app.command()
def infer(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures, or one picture.")] = None,
    replay: Annotated[
        str | None, typer.Option(help="Instead of pictures: a slide whose stored fields are read again, and compared.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one if not given.")] = None,
    annotated: Annotated[Path | None, typer.Option(help="Folder for pictures with boxes and cell types.")] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="List weaker detections too, down to this score.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="Threads; measured if not given.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="With --replay: folder of the agent's own files.")] = None,
    source: Annotated[str | None, typer.Option(help="With --replay: where the slide's pictures came from.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Find and classify the cells of picture files, or of a stored slide, with the same pipeline as `run`."""
    with answered():
        configure(level="warning")
        flags = {"inference.bundle": bundle, "inference.threads": threads, "data_dir": data_dir, "source": source}
        settings = with_calibration(settings_of(config, set_, flags))
        if (images is None) == (replay is None):
            raise ConfigurationError("give either --images FOLDER or --replay SLIDE")
    if replay is not None:
        _replay(settings, replay, out)
    assert images is not None
    with answered():
        pictures = find_pictures(images)
        engine = _engine(settings)
        inference = Inference(
            engine,
            FieldReader(engine, QualityGate(settings.quality), settings.triage),
            root=images if images.is_dir() else images.parent,
            um_per_px=settings.source.um_per_px,
            min_score=min_score,
            annotated_folder=annotated,
        )
        with progress_bar() as progress:
            task = progress.add_task("pictures", total=len(pictures))
            inference.run(pictures, lambda: progress.advance(task))
        document = inference.document()
        write_document(document, out)
        engine.close()
    for error in document["errors"]:
        typer.echo(f"not read: {error['file']}: {error['reason']}", err=True)
    outcome = inference.outcome
    typer.echo(f"{outcome.read} of {len(pictures)} pictures read -> {out}  (research use only)", err=True)
    raise typer.Exit(ExitCode.OK if outcome.read else ExitCode.NOTHING_READ)


def _replay(settings: Settings, slide: str, out: Path) -> NoReturn:
    with answered():
        stored = read_slide(settings.data_dir, slide)
        engine = _engine(settings)
        reader = FieldReader(engine, QualityGate(settings.quality), settings.triage)
        with progress_bar() as progress:
            task = progress.add_task("fields", total=len(stored.fields))
            again = Replay(stored, settings.source, engine, reader, lambda: progress.advance(task))
            document = again.run()
        write_document(document, out)
        engine.close()
    for line in summary_lines(document):
        typer.echo(line, err=True)
    typer.echo(f"-> {out}  (research use only)", err=True)
    raise typer.Exit(ExitCode.OK if again.replayed else ExitCode.NOTHING_READ)


@app.command("export")
def export_(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the agent's own files.")] = None,
) -> None:
    """Write everything the agent has stored as one JSON report; the agent may be running."""
    with answered():
        report = export(settings_of(config, set_, {"data_dir": data_dir}), out)
    typer.echo(f"{len(report.fields)} fields, {len(report.opinions)} second opinions -> {out}", err=True)


@app.command("self-test")
def self_test_(
    bundle: Annotated[Path, typer.Option(help="Model bundle, folder or .zip.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="Threads; measured if not given.")] = None,
    digest: Annotated[
        str | None, typer.Option(help="What the bundle must be; of another one nothing is opened.")
    ] = None,
    memory_bytes: Annotated[int | None, typer.Option(min=2**28, help="Address space, at most.")] = None,
    timeout_s: Annotated[int | None, typer.Option(min=1, help="Longest run, seconds.")] = None,
) -> None:
    """Prove a model bundle on its golden inputs on this workstation; exit code 3 when it fails."""
    limit_this_process(memory_bytes=memory_bytes, timeout_s=timeout_s)
    report = self_test(bundle, threads=threads, digest=digest)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for check in report["checks"]:
            figure = "" if check["figure"] is None else f"{check['figure']:.4g} "
            typer.echo(f"{'passed' if check['passed'] else 'FAILED'}  {check['name']}  {figure}{check['detail']}")
    raise typer.Exit(ExitCode.OK if report["passed"] else ExitCode.BUNDLE)


@app.command("check-config")
def check_config(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Check the configuration and print what would be in force."""
    with answered():
        typer.echo(effective(with_calibration(settings_of(config, set_, {}))), nl=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(agent_version())


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ConfigurationError(f"--log-level {text}: use debug, info, warning or error")
    return text.lower()


def _listen_to_signals(stop: threading.Event, changed: threading.Event) -> None:
    """SIGTERM and SIGINT end the agent, SIGHUP has the settings read again. In a terminal that is closed it ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    in_terminal = sys.stdin is not None and sys.stdin.isatty()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: (stop if in_terminal else changed).set())
