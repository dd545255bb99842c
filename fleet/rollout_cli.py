"""`ahs-fleet rollout`: bring a release to devices wave by wave, look at it, hold it, take it back.

`watch` ends with 0 completed, 3 ended otherwise (aborted, devices back on their old model), 4 paused, 5 still under way
at `--timeout-s`.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.client.errors import LinkDown
from fleet.connecting import DEFAULT_CLOUD, EXIT_BAD_INPUT, Cloud, Token, connected, err, out
from fleet.contract.http import MemberRow, RolloutCreate, RolloutDetail
from fleet.contract.messages import UpdateState
from fleet.contract.release import RolloutState, Thresholds, WavePlan

EXIT_ENDED_OTHERWISE = 3
EXIT_PAUSED = 4
EXIT_UNDER_WAY = 5

ENDS: dict[RolloutState, int] = {
    RolloutState.COMPLETED: 0,
    RolloutState.ABORTED: EXIT_ENDED_OTHERWISE,
    RolloutState.DENIED: EXIT_ENDED_OTHERWISE,
    RolloutState.SUPERSEDED: EXIT_ENDED_OTHERWISE,
    RolloutState.PAUSED: EXIT_PAUSED,
}
"""States in which watching ends -> exit code."""

rollout = typer.Typer(no_args_is_help=True, help="Bring a release to devices, wave by wave.")

Reason = Annotated[str, typer.Option(help="why, for the record")]
_LIMITS = Thresholds()


@rollout.command("create")
def create(
    counter: Annotated[int, typer.Argument(help="counter of the release, see `release list`")],
    device: Annotated[list[str] | None, typer.Option(help="only these devices; again for each")] = None,
    wave: Annotated[
        list[str] | None,
        typer.Option(help="a wave, again for each: `bench-1,bench-2`, or `25%`, or `5%:2` for at least two devices"),
    ] = None,
    p_ok: Annotated[float, typer.Option(help="share of a wave that must be confirmed")] = _LIMITS.p_ok,
    p_error: Annotated[float, typer.Option(help="share of tried devices that may go bad")] = _LIMITS.p_error,
    min_errors: Annotated[int, typer.Option(help="bad devices that always stop it")] = _LIMITS.min_errors,
    soak_s: Annotated[float, typer.Option(help="rest after a wave, seconds")] = _LIMITS.soak_s,
    step_deadline_s: Annotated[float, typer.Option(help="longest stay in one step")] = _LIMITS.step_deadline_s,
    wave_deadline_s: Annotated[float, typer.Option(help="longest wait for offline devices")] = _LIMITS.wave_deadline_s,
    min_fields: Annotated[int, typer.Option(help="fields of evidence a device")] = _LIMITS.min_fields,
    max_disagreement: Annotated[float, typer.Option(help="largest share of cells named differently")] = (
        _LIMITS.max_disagreement
    ),
    max_uncertain_rise: Annotated[float, typer.Option(help="largest rise of the share of uncertain fields")] = (
        _LIMITS.max_uncertain_rise
    ),
    max_withheld_rise: Annotated[float, typer.Option(help="largest rise of the share of withheld fields")] = (
        _LIMITS.max_withheld_rise
    ),
    max_latency_ratio: Annotated[float, typer.Option(help="longest time for a field, in that of the old model")] = (
        _LIMITS.max_latency_ratio
    ),
    supersede: Annotated[
        bool, typer.Option("--supersede", help="replace the open rollouts of these devices instead of refusing")
    ] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Start a rollout and print its id, alone on stdout.

    Without --wave: one device, then 5 % (at least 2), 25 %, all.
    """
    try:
        wanted = RolloutCreate(
            counter=counter,
            devices=tuple(device or ()),
            waves=tuple(read_wave(text) for text in wave or ()),
            thresholds=Thresholds(
                p_ok=p_ok,
                p_error=p_error,
                min_errors=min_errors,
                soak_s=soak_s,
                step_deadline_s=step_deadline_s,
                wave_deadline_s=wave_deadline_s,
                min_fields=min_fields,
                max_disagreement=max_disagreement,
                max_uncertain_rise=max_uncertain_rise,
                max_withheld_rise=max_withheld_rise,
                max_latency_ratio=max_latency_ratio,
            ),
            supersede=supersede,
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        err.print(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from exc
    with connected(cloud, token_file) as client:
        made = client.create_rollout(wanted)
    err.print(_head(made))
    out.print(made.summary.id, soft_wrap=True, highlight=False)


@rollout.command("list")
def list_rollouts(
    open_only: Annotated[bool, typer.Option("--open", help="only those that have not ended")] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """The newest rollouts."""
    table = Table()
    table.add_column("id", no_wrap=True, min_width=32)  # to be copied
    for column in ("release", "state", "wave", "devices", "confirmed", "bad", "why"):
        table.add_column(column)
    with connected(cloud, token_file) as client:
        for row in client.list_rollouts(open_only=open_only).items:
            numbers = (f"{row.wave + 1} of {row.waves}", str(row.devices), str(row.confirmed), str(row.bad))
            table.add_row(row.id, f"{row.counter} ({row.version})", row.state.value, *numbers, row.reason)
    out.print(table)


@rollout.command("status")
def status(
    rollout_id: str,
    json: Annotated[bool, typer.Option("--json", help="as the REST gives it")] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """One rollout: its devices, gates and last decisions."""
    with connected(cloud, token_file) as client:
        found = client.get_rollout(rollout_id)
    if json:
        out.print_json(found.model_dump_json(by_alias=True))
    else:
        out.print(shown(found))


@rollout.command("watch")
def watch(
    rollout_id: str,
    period_s: Annotated[float, typer.Option(min=0.1, help="pause between two looks, seconds")] = 1.0,
    timeout_s: Annotated[float, typer.Option(min=0, help="give up watching after so long; 0 never")] = 0.0,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Follow a rollout until it ends or pauses; the exit code says how."""
    ends_s = time.monotonic() + timeout_s
    with connected(cloud, token_file) as client, Live(console=out, auto_refresh=False) as live:
        while True:
            try:
                found = client.get_rollout(rollout_id)
                live.update(shown(found), refresh=True)
                code = ENDS.get(found.summary.state)
            except LinkDown as exc:
                # A cloud that is started anew must not end the watching; the rollout goes on by itself.
                live.update(Text(f"no answer, trying on: {exc}"), refresh=True)
                code = None
            if code is None and timeout_s and time.monotonic() >= ends_s:
                code = EXIT_UNDER_WAY
            if code is not None:
                break
            time.sleep(period_s)
    raise typer.Exit(code)


@rollout.command("pause")
def pause(rollout_id: str, reason: Reason = "", cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """Hold a rollout: nothing further is offered."""
    with connected(cloud, token_file) as client:
        out.print(_head(client.pause_rollout(rollout_id, reason)))


@rollout.command("resume")
def resume(rollout_id: str, reason: Reason = "", cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """Go on where the pause began."""
    with connected(cloud, token_file) as client:
        out.print(_head(client.resume_rollout(rollout_id, reason)))


@rollout.command("waive")
def waive(
    rollout_id: str,
    reason: Annotated[str, typer.Option(help="why the evidence is enough, for the record")],
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Let the open wave pass without fields or figures that its confirmed devices lack; never what has failed."""
    with connected(cloud, token_file) as client:
        out.print(_head(client.waive_rollout(rollout_id, reason)))


@rollout.command("abort")
def abort(rollout_id: str, reason: Reason = "", cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """End a rollout: its devices go back to their old model."""
    with connected(cloud, token_file) as client:
        out.print(_head(client.abort_rollout(rollout_id, reason)))


@rollout.command("rollback")
def roll_back(rollout_id: str, reason: Reason = "", cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """Like abort, and also after the rollout has completed."""
    with connected(cloud, token_file) as client:
        out.print(_head(client.roll_back_rollout(rollout_id, reason)))


def read_wave(text: str) -> WavePlan:
    """`bench-1,bench-2`, `25%` or `5%:2`; ValidationError for what is neither."""
    share, colon, least = text.partition(":")
    if not share.endswith("%"):
        names = tuple(name.strip() for name in text.split(","))
        return WavePlan(devices=names)
    numbers = {"percent": share.removesuffix("%")} | ({"least": least} if colon else {})
    return WavePlan.model_validate(numbers)


def shown(found: RolloutDetail) -> Group:
    """A rollout as a person reads it at a terminal."""
    devices = Table("wave", "device", "state", "model", "fields")
    for member in found.members:
        fields = str(member.soak.fields) if member.soak else ""
        active = (member.active or "").removeprefix("sha256:")[:12]
        devices.add_row(str(member.wave + 1), member.device, _state(member), active, fields)
    parts: list[Text | Table] = [_head(found), devices]
    if found.gates:
        gates = Table("gate", "passed", "figure", "limit", "")
        for gate in found.gates:
            mark = "yes" if gate.passed else "not yet"
            gates.add_row(gate.name, mark, _number(gate.figure), _number(gate.limit), gate.text)
        parts.append(gates)
    for decision in found.decisions[:5]:
        at = decision.at.isoformat(timespec="seconds")
        parts.append(Text(f"{at}  {decision.by}: {decision.action}  {decision.reason}"))
    return Group(*parts)


def _head(found: RolloutDetail) -> Text:
    row = found.summary
    words = f"rollout {row.id}: release {row.counter} ({row.version}), {row.state.value}, wave {row.wave} of "
    words += f"0 to {row.waves - 1}, {row.confirmed} of {row.devices} confirmed, {row.bad} bad"
    return Text(f"{words}\n{row.reason}" if row.reason else words)


def _state(member: MemberRow) -> str:
    words = [member.state.value, member.code or "", "straggler" if member.straggler else ""]
    if not member.offered and member.state is UpdateState.IDLE:
        words[0] = "waits for its wave"
    return " ".join(word for word in (*words, member.presence.value) if word)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
