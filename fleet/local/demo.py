"""`make demo`: the whole loop on this machine, from a frame to a better model on both devices, shown or proven.

Without `once` the system runs until Ctrl-C and prints where to look; the second half of the loop (labels, refit,
release, rollout) follows by itself once there is something to label. With `once` two agents read a bounded number of
fields, everything is delivered, then the second half runs on agents that go on reading, and each step is checked
against what the parts themselves recorded. With `bad` the second half rolls out a model that must be stopped.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleet.client import CloudClient
from fleet.client.errors import ClientError
from fleet.contract.cells import Decision
from fleet.contract.http import FieldRow, SecondOpinion
from fleet.contract.messages import OpinionState
from fleet.contract.report import AgentReport, FieldReport
from fleet.local import learning
from fleet.local.errors import SourceUnusable, StartError
from fleet.local.learning import Learned
from fleet.local.proof import bad_model_steps, loop_steps, loop_summary, step
from fleet.local.score import read_journal, score_report
from fleet.local.summary import RESEARCH_USE, AgentSummary, DemoSummary, Step, print_summary
from fleet.local.system import SIMULATED, Agent, LocalSystem, Sections
from fleet.local.truth_labels import Truth

DEVICES = ("bench-1", "bench-2")
FIRST_SEED = 7
DEMO_FIELDS_PER_S = 2.0
PROOF_FIELDS_PER_S = 4.0
"""Pace of the second half with `once`: quick, yet slow enough for two models side by side."""
UPDATE = {"soak_fields": 6, "soak_s": 1.0, "wait_for_slide_s": 0.0}
"""A demonstration's patience: a laboratory's device lets a new model prove itself on many more fields."""
ENOUGH_OPINIONS = 16
LAST_S = 180.0
"""How long the pictures of a folder must last at least, so that a rollout finds devices at work."""
STAIN = {"stain_intensity_ratio": 1.25, "stain_tint": [1.6, 0.7, 0.7]}
"""The laboratory stains more strongly and bluer than the model has seen: it leaves cells unnamed until it is taught."""
MIN_F1 = 0.9
RUN_TIMEOUT_S = 600.0
POLL_S = 0.5


@dataclass(frozen=True)
class DemoOptions:
    """What a person asked for."""

    source: str | None = None
    once: bool = False
    bad: bool = False
    fields: int = 40
    summary: Path = Path("demo-summary.json")
    keep: Path | None = None
    embedded_broker: bool | None = None


def run_demo(options: DemoOptions, console: Console) -> bool:
    """Runs the demo; whether all that was promised really happened. LocalError says what to do."""
    started = time.monotonic()
    sources = [source_of(options, number) for number in range(len(DEVICES))]
    with _folder(options) as folder, LocalSystem(folder, embedded_broker=options.embedded_broker) as system:
        try:
            _start(system, options, sources, console)
            if not options.once:
                _show(system, options, console)
                return True
            _run_to_the_end(system, options, console)
            summary = summarise(system, options, duration_s=time.monotonic() - started)
            _go_on_live(system, options, sources)
            learned = second_half(system, options, console)
            summary = _with_second_half(summary, learned, system, duration_s=time.monotonic() - started)
        except StartError:
            _show_logs(system, console)
            raise
        except ClientError as exc:
            _show_logs(system, console)
            raise StartError(f"the cloud did not do what it was asked for: {exc}") from exc
        options.summary.write_text(summary.to_json())
        print_summary(summary, console)
        console.print(f"written: {options.summary}")
        if not summary.passed:
            _show_logs(system, console)
        return summary.passed


def source_of(options: DemoOptions, number: int) -> Sections:
    """Sections of an agent's configuration for its picture source.

    Raises:
        SourceUnusable: a folder or file that is not there.
    """
    source = options.source
    if source and source.isdecimal() and number > 0:
        source = None  # a camera can be opened once only: the other agents use the simulated microscope
    if not source:
        simulated: dict[str, Any] = {"seed": FIRST_SEED + number, **STAIN}
        document: dict[str, Any] = {"spec": SIMULATED, "simulated": simulated}
        return {"source": document}
    if source.isdecimal() or "://" in source:
        return {"source": {"spec": source}}
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise SourceUnusable(f"SOURCE={options.source}: there is no such folder or file. {SOURCE_HELP}")
    if path.is_dir() and not any(path.iterdir()):
        raise SourceUnusable(f"SOURCE={options.source}: the folder is empty. {SOURCE_HELP}")
    return {"source": {"spec": str(path)}}


SOURCE_HELP = "Give a folder of pictures, a video, a stream (http:// or rtsp://) or a camera's number."


@contextmanager
def _folder(options: DemoOptions) -> Iterator[Path]:
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        yield options.keep
        return
    folder = Path(tempfile.mkdtemp(prefix="ahs-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(system: LocalSystem, options: DemoOptions, sources: list[Sections], console: Console) -> None:
    with console.status("starting the cloud") as status:
        system.start_cloud()
        for device, source in zip(DEVICES, sources, strict=True):
            system.add_agent(device, _agent_settings(options, source, device))
        status.update("starting the broker")
        system.start_broker()
        status.update("starting the agents")
        for agent in system.agents.values():
            system.start_agent(agent, wait=not options.once)
    console.print(f"broker   127.0.0.1:{system.broker.port}  {system.broker.name}")
    console.print(f"cloud    {system.cloud_url}/   (API documentation: {system.cloud_url}/docs)")
    for agent in system.agents.values():
        console.print(f"{agent.device}  {agent.console_url}")


def _agent_settings(options: DemoOptions, source: Sections, device: str) -> Sections:
    if not options.once:
        return _live_settings(source, device, fields_per_s=DEMO_FIELDS_PER_S, slide=f"demo-{device}")
    return {
        **source,
        "sampling": {"per_hour": 10_000, "duplicate_above_ratio": 1.0},
        "slide": {"name": f"demo-{device}", "target_white_cells": 10_000},
        "inference": {"threads": 1},
        "run": {"stop_after_fields": options.fields, "exit_when_drained": True, "drain_timeout_s": 180.0},
    }


def _live_settings(source: Sections, device: str, *, fields_per_s: float, slide: str) -> Sections:
    """An agent that reads on and on; a stream or a camera has its own pace."""
    chosen = dict(source["source"])
    spec = chosen["spec"]
    if spec == SIMULATED or not (spec.isdecimal() or "://" in spec):
        folder = Path(spec)
        lasting = len(list(folder.iterdir())) / LAST_S if folder.is_dir() else fields_per_s
        chosen["fields_per_s"] = min(fields_per_s, max(lasting, 0.1))
    return {
        "source": chosen,
        "sampling": {"per_hour": 10_000, "duplicate_above_ratio": 1.0},
        "slide": {"name": slide, "target_white_cells": 10_000},
        "inference": {"threads": 1},
        "update": dict(UPDATE),
    }


def _go_on_live(system: LocalSystem, options: DemoOptions, sources: list[Sections]) -> None:
    """Starts the agents again, on a new slide, without an end: devices at work, to which models are rolled out."""
    for agent, source in zip(system.agents.values(), sources, strict=True):
        settings = _live_settings(source, agent.device, fields_per_s=PROOF_FIELDS_PER_S, slide=f"live-{agent.device}")
        system.configure_agent(agent, settings)
        system.start_agent(agent)


def _show(system: LocalSystem, options: DemoOptions, console: Console) -> None:
    console.print(f"\nsign in to the cloud's console with this token: [bold]{system.admin_token}[/]", soft_wrap=True)
    console.print(f"{RESEARCH_USE}\nCtrl-C stops everything and leaves nothing behind.")
    try:
        _await_something_to_label(system, options)
        learned = second_half(system, options, console)
        if learned.rollout is not None:
            console.print(f"rollout: {learning.standing(learned.rollout)}")
            console.print(f"see {system.cloud_url}/rollouts/{learned.rollout.summary.id}", soft_wrap=True)
        while True:
            time.sleep(POLL_S)
            system.refuse_failures()
    except KeyboardInterrupt:
        console.print("\nstopping")


def _await_something_to_label(system: LocalSystem, options: DemoOptions) -> None:
    with system.client() as client:
        while True:
            time.sleep(POLL_S)
            system.refuse_failures()
            if min(_committed(client).values(), default=0) < options.fields:
                continue
            if options.bad or len(learning.all_opinions(client)) >= ENOUGH_OPINIONS:
                return


def second_half(system: LocalSystem, options: DemoOptions, console: Console) -> Learned:
    """Labels, refit, release, rollout; or, with `bad`, a model that must be stopped.

    Raises:
        StartError: a step failed; the message is that of the program that failed.
    """
    devices = list(system.agents)

    def tell(words: str) -> None:
        console.print(f"  rollout: {words}", highlight=False)

    if options.bad:
        learned = Learned(bad=True)
        console.print("a model with permuted classes is released, unchecked, and rolled out")
        learning.release(system, learned, learning.permuted(system, learned), evidence=None)
        learning.roll_out(system, learned, devices, tell)
        return learned
    with system.client() as client:
        opinions = learning.all_opinions(client)
        # Asked for after the opinions, so that the agents' reports hold every field that these are about.
        reader = _reader(system)
        learned = Learned(reader=reader.name, truthful=reader.truthful)
        learning.label_all(client, opinions, reader, learned)
    console.print(f"labelled: {learned.labels} cells of {learned.opinions} images, by {learned.reader}")
    bundle, evidence = learning.refit(system, learned)
    console.print(f"refitted in {learned.refit_s:.1f} s: {learned.model_before} -> {learned.model_after}")
    learning.release(system, learned, bundle, evidence=evidence)
    console.print(f"released: {learned.model_after}, release {learned.counter}, signed; rolling out")
    learning.roll_out(system, learned, devices, tell)
    if options.once:
        system.stop_agents()  # what they were there for is done; the rest is read from what they have left
    if learned.truthful:
        with system.client() as client:
            opinions = learning.all_opinions(client)
        learning.find_later(opinions, _reader(system), learned)
    learning.judge_unsure(system, learned, bundle)
    return learned


def _reader(system: LocalSystem) -> learning.Reader:
    """Who labels: the truth where every agent has a simulator's journal, else the larger model."""
    if not all(agent.journal.exists() for agent in system.agents.values()):
        return learning.larger_model_as_reader()
    truth: dict[str, Sequence[Truth]] = {}
    for agent in system.agents.values():
        fields = system.report(agent).fields
        journal = read_journal(agent.journal)  # afterwards: the simulator writes a field down before it is read
        truth |= {f.capture_id: journal[f.source_ref] for f in fields}
    return learning.truthful_reader(truth)


def _with_second_half(summary: DemoSummary, learned: Learned, system: LocalSystem, *, duration_s: float) -> DemoSummary:
    steps = bad_model_steps(learned, system) if learned.bad else loop_steps(learned, system)
    changed = {
        "duration_s": round(duration_s, 1),
        "steps": (*summary.steps, *steps),
        "loop": loop_summary(learned),
    }
    return summary.model_copy(update=changed)


def _run_to_the_end(system: LocalSystem, options: DemoOptions, console: Console) -> None:
    """Waits for the agents' end and shows the fields that the cloud has committed meanwhile."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, system.client() as client:
        tasks = {a: progress.add_task(f"{a}: fields in the cloud", total=options.fields) for a in system.agents}
        while time.monotonic() < deadline:
            for device, count in _committed(client).items():
                if device in tasks:
                    progress.update(tasks[device], completed=count)
            system.refuse_failures()
            parts = [agent.part for agent in system.agents.values() if agent.part is not None]
            if all(part.exit_code() is not None for part in parts):
                for device, count in _committed(client).items():
                    progress.update(tasks[device], completed=count)
                return
            time.sleep(POLL_S)
    raise StartError(f"the agents had not finished after {RUN_TIMEOUT_S:.0f} s")


def _committed(client: CloudClient) -> dict[str, int]:
    """Device -> fields; empty while the cloud is too busy to say."""
    try:
        return {row.device: row.fields for row in client.list_devices().items}
    except ClientError:
        return {}


def summarise(system: LocalSystem, options: DemoOptions, *, duration_s: float) -> DemoSummary:
    """Reads what agents, simulator and cloud recorded, each for itself, and holds them against each other."""
    reports = {device: system.report(agent) for device, agent in system.agents.items()}
    with system.client() as client:
        rows = {device: list(_all_fields(client, device)) for device in reports}
        opinions = learning.all_opinions(client)
    agents = tuple(_agent_summary(system.agents[device], report) for device, report in reports.items())
    model = next(iter(reports.values())).model
    return DemoSummary(
        source=options.source or "simulated microscope",
        broker=system.broker.name,
        duration_s=round(duration_s, 1),
        edge_model=f"{model.name} {model.version}",
        opinion_model=f"{opinions[0].model.name} {opinions[0].model.version}" if opinions else "",
        opinion_latency_ms_median=statistics.median(o.latency_ms for o in opinions) if opinions else None,
        agents=agents,
        steps=tuple(_steps(system, options, reports, agents, rows, opinions)),
    )


def _agent_summary(agent: Agent, report: AgentReport) -> AgentSummary:
    latencies = sorted(field.latency_ms for field in report.fields) or [0.0]
    white: Counter[str] = Counter()
    shares: dict[str, tuple[float, float, float]] = {}
    for slide in report.slides:
        white.update(slide.white_cells)
        shares = slide.shares
    return AgentSummary(
        device=agent.device,
        fields=len(report.fields),
        decisions=dict(Counter(field.decision.value for field in report.fields)),
        rbc=sum(slide.rbc for slide in report.slides),
        platelets=sum(slide.platelets for slide in report.slides),
        white_cells=dict(white),
        shares=shares,
        uncertain_sent=report.uncertain_sent,
        uncertain_answered=len(report.opinions),
        bytes_mqtt=report.sent_bytes.mqtt,
        bytes_https=report.sent_bytes.https,
        latency_ms_median=round(statistics.median(latencies), 2),
        latency_ms_p95=round(latencies[min(len(latencies) - 1, int(0.95 * len(latencies)))], 2),
        truth=score_report(report, read_journal(agent.journal)) if agent.journal.exists() else None,
    )


def _steps(
    system: LocalSystem,
    options: DemoOptions,
    reports: dict[str, AgentReport],
    agents: tuple[AgentSummary, ...],
    rows: dict[str, list[FieldRow]],
    opinions: list[SecondOpinion],
) -> Iterator[Step]:
    fields = min(agent.fields for agent in agents)
    yield step("each agent read its fields", fields >= options.fields, fields, f"≥ {options.fields}")
    codes = [agent.part.exit_code() for agent in system.agents.values() if agent.part is not None]
    yield step("each agent delivered everything and ended well", not any(codes), codes, "exit code 0")
    same = all(
        [row.capture_id for row in rows[device]] == [field.capture_id for field in report.fields]
        for device, report in reports.items()
    )
    yield step("the cloud holds each field once", same, sum(map(len, rows.values())), "the agents' own list")
    asked = {field.capture_id for report in reports.values() for field in report.fields if doubtful(field)}
    answered = {o.capture_id: o.id for o in opinions if o.state in (OpinionState.ANSWERED, OpinionState.PENDING_REVIEW)}
    by_model = len(asked & answered.keys())
    yield step(
        "uncertain images answered by the larger model", 0 < by_model == len(asked), by_model, f"all {len(asked)}"
    )
    known = {opinion.opinion for report in reports.values() for opinion in report.opinions}
    arrived = sum(identity in known for identity in answered.values())
    yield step("answers reached the devices", 0 < arrived == len(answered), arrived, f"all {len(answered)}")
    judged = [agent.truth for agent in agents if agent.truth is not None]
    if judged:
        for cls in ("RBC", "WBC"):
            worst = min(truth.f1[cls] for truth in judged)
            yield step(f"detections agree with the truth, F1 {cls}", worst >= MIN_F1, f"{worst:.3f}", f"≥ {MIN_F1}")
        covered = sum(truth.limits_cover for truth in judged)
        yield step("the limits cover the true differential", covered == len(judged), covered, f"{len(judged)} slides")


def doubtful(field: FieldReport) -> bool:
    """Whether triage wanted a second opinion on this field; the random audit stream is not meant."""
    return field.decision is Decision.UNCERTAIN


def _all_fields(client: CloudClient, device: str) -> Iterator[FieldRow]:
    cursor = None
    while True:
        page = client.list_fields(device, cursor=cursor)
        yield from page.items
        if (cursor := page.next_cursor) is None:
            return


def _show_logs(system: LocalSystem, console: Console) -> None:
    for agent in system.agents.values():
        if agent.part is not None:
            console.print(agent.part.log_tail(), markup=False, highlight=False, soft_wrap=True)
    console.print(system.cloud.log_tail(), markup=False, highlight=False, soft_wrap=True)
