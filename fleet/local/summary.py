"""What a demo run amounted to: the document `demo-summary.json` and the tables a person reads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

RESEARCH_USE = "Research use only. Not for diagnostic procedures."


class Document(BaseModel):
    """Closed: a summary holds nothing that its schema does not name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Step(Document):
    """One thing that had to happen; `figure` is what was seen, `limit` what it is held against."""

    name: str
    passed: bool
    figure: str
    limit: str


class TruthScore(Document):
    """Detections against the generator's truth, at IoU .5, counted cells only."""

    f1: dict[str, float] = Field(description="class -> F1")
    true_shares: dict[str, float] = Field(description="white-cell type -> true share among the cells shown, 0..1")
    limits_cover: bool


class AgentSummary(Document):
    """One agent's run."""

    device: str
    fields: int
    decisions: dict[str, int]
    rbc: int
    platelets: int
    white_cells: dict[str, int]
    shares: dict[str, tuple[float, float, float]] = Field(description="type -> share, low, high (exact 95 %)")
    uncertain_sent: int
    uncertain_answered: int
    bytes_mqtt: int
    bytes_https: int
    latency_ms_median: float
    latency_ms_p95: float
    truth: TruthScore | None = Field(None, description="only with generated slides")


class LoopSummary(Document):
    """The second half: labels, refit, release, rollout."""

    reader: str = Field(description="whose word the labels are")
    opinions_read: int
    cells_labelled: int
    model_before: str
    model_after: str
    release_digest: str
    release_counter: int
    release_bytes: int
    refit_s: float
    rollout_state: str
    rollout_reason: str
    rollout_waves: int
    device_states: dict[str, str] = Field(description="device -> update state, with its code")
    reported: dict[str, str] = Field(description="device -> digest that it says it runs")
    unsure_cells: int = Field(description="cells the edge had left unidentified and the reader named")
    named_before: int = Field(description="of these, named as the reader did by the model before")
    named_after: int = Field(description="likewise by the new model")
    later_unsure_cells: int = Field(0, description="unsure cells of images that were not labelled, by the truth")
    later_named_before: int = Field(0, description="of these, named rightly by the model before")
    later_named_after: int = Field(0, description="likewise by the new model")


class DemoSummary(Document):
    """The whole run."""

    schema_: Literal["ahs.demo-summary/1"] = Field("ahs.demo-summary/1", alias="schema")
    intended_use: Literal["research use only"] = "research use only"
    source: str
    broker: str
    duration_s: float
    edge_model: str
    opinion_model: str
    opinion_latency_ms_median: float | None
    agents: tuple[AgentSummary, ...]
    steps: tuple[Step, ...]
    loop: LoopSummary | None = None

    @property
    def passed(self) -> bool:
        """Whether every step really happened."""
        return all(step.passed for step in self.steps)

    def to_json(self) -> str:
        """The document as it is written."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def print_summary(summary: DemoSummary, console: Console) -> None:
    """Prints the run as tables, the verdict last."""
    console.print(_agents_table(summary))
    console.print(_differential_table(summary))
    if summary.loop is not None:
        console.print(_loop_table(summary.loop))
    console.print(_steps_table(summary))
    verdict = "[bold green]every step happened[/]" if summary.passed else "[bold red]not every step happened[/]"
    console.print(f"{verdict} in {summary.duration_s:.0f} s. {RESEARCH_USE}")


def _agents_table(summary: DemoSummary) -> Table:
    table = Table(title=f"Agents: {summary.source}, {summary.edge_model}, {summary.broker}", title_justify="left")
    table.add_column("")
    for agent in summary.agents:
        table.add_column(agent.device, justify="right")
    rows = {
        "fields": [str(a.fields) for a in summary.agents],
        "accepted / uncertain / withheld": [
            " / ".join(str(a.decisions.get(d, 0)) for d in ("accept", "uncertain", "withheld")) for a in summary.agents
        ],
        "red cells": [f"{a.rbc:,}" for a in summary.agents],
        "platelets": [f"{a.platelets:,}" for a in summary.agents],
        "white cells": [f"{sum(a.white_cells.values()):,}" for a in summary.agents],
        "latency median / p95 (ms)": [f"{a.latency_ms_median:.1f} / {a.latency_ms_p95:.1f}" for a in summary.agents],
        "uncertain sent / answered": [f"{a.uncertain_sent} / {a.uncertain_answered}" for a in summary.agents],
        "sent by MQTT / HTTPS": [f"{_size(a.bytes_mqtt)} / {_size(a.bytes_https)}" for a in summary.agents],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    for cls in ("RBC", "WBC"):
        if any(a.truth for a in summary.agents):
            table.add_row(f"F1 {cls} against the truth", *[_score(a, cls) for a in summary.agents])
    return table


def _differential_table(summary: DemoSummary) -> Table:
    table = Table(title="Differential: cells, share and exact 95 % limits", title_justify="left")
    table.add_column("")
    for agent in summary.agents:
        table.add_column(agent.device, justify="right")
        if agent.truth:
            table.add_column("true", justify="right", style="dim")
    for name in sorted({name for agent in summary.agents for name in agent.white_cells}, key=_last):
        row = [name]
        for agent in summary.agents:
            row.append(_share(agent, name))
            if agent.truth:
                true = agent.truth.true_shares.get(name)
                row.append("" if true is None else f"{true:.0%}")
        table.add_row(*row)
    return table


def _loop_table(loop: LoopSummary) -> Table:
    table = Table(title="From a label to a running model", title_justify="left", show_header=False)
    rows = {
        "labels": f"{loop.cells_labelled} cells of {loop.opinions_read} images, by {loop.reader}",
        "model": f"{loop.model_before} -> {loop.model_after}",
        "release": f"{loop.release_counter}, {_size(loop.release_bytes)}, {loop.release_digest[:19]}",
        "rollout": f"{loop.rollout_state} in {loop.rollout_waves} waves {loop.rollout_reason}".strip(),
        **dict(loop.device_states.items()),
    }
    if loop.cells_labelled:
        rows["refit"] = f"{loop.refit_s:.1f} s"
        rows["cells unsure before"] = (
            f"{loop.unsure_cells}: named as the reader did {loop.named_before} before, {loop.named_after} now"
        )
    if loop.later_unsure_cells:
        rows["cells not taught"] = (
            f"{loop.later_unsure_cells}: named rightly {loop.later_named_before} before, {loop.later_named_after} now"
        )
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _steps_table(summary: DemoSummary) -> Table:
    table = Table(title="Did it happen?", title_justify="left")
    for name, justify in (("step", "left"), ("seen", "right"), ("needed", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for step in summary.steps:
        table.add_row(step.name, step.figure, step.limit, "[green]yes[/]" if step.passed else "[red]NO[/]")
    return table


def _share(agent: AgentSummary, name: str) -> str:
    count = agent.white_cells.get(name, 0)
    if name not in agent.shares:
        return str(count)
    share, low, high = agent.shares[name]
    return f"{count}  {share:.0%} ({100 * low:.0f}-{100 * high:.0f})"


def _score(agent: AgentSummary, cls: str) -> str:
    return f"{agent.truth.f1[cls]:.3f}" if agent.truth and cls in agent.truth.f1 else "-"


def _last(name: str) -> tuple[bool, str]:
    return name == "unidentified", name


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
