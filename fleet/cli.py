"""`ahs-fleet`: the fleet from the command line. Speaks REST only; `local` starts the whole system here."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fleet.connecting import DEFAULT_CLOUD, EXIT_BAD_INPUT, Cloud, Token, connected, err, out
from fleet.contract.http import DeviceCreate
from fleet.contract.messages import OpinionState
from fleet.labels_cli import app as labels
from fleet.local.demo import DemoOptions, run_demo
from fleet.local.errors import LocalError
from fleet.release_cli import factory, keys, release
from fleet.rollout_cli import rollout

EXIT_NOT_PROVEN = 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Devices, second opinions and rollouts of a fleet, over the cloud's REST. Research use only.",
)
local = typer.Typer(no_args_is_help=True, help="Run the whole system on this machine.")
devices = typer.Typer(no_args_is_help=True, help="The workstations beside the microscopes.")
opinions = typer.Typer(no_args_is_help=True, help="Second opinions of the larger model.")
app.add_typer(local, name="local")
app.add_typer(devices, name="devices")
app.add_typer(opinions, name="opinions")
app.add_typer(keys, name="keys")
app.command()(factory)
app.add_typer(release, name="release")
app.add_typer(labels, name="labels")
app.add_typer(rollout, name="rollout")


@local.command()
def demo(
    source: Annotated[
        str, typer.Option(help="folder of pictures, video, stream URL or camera number; empty: simulated microscope")
    ] = "",
    once: Annotated[bool, typer.Option(help="run to an end without a person and check every step")] = False,
    bad: Annotated[bool, typer.Option(help="roll out a model with permuted classes and see it stopped")] = False,
    fields: Annotated[int, typer.Option(min=1, max=100_000, help="fields each agent reads with --once")] = 40,
    summary: Annotated[Path, typer.Option(help="where --once writes its summary")] = Path("demo-summary.json"),
    keep: Annotated[Path | None, typer.Option(help="folder for databases and logs; kept afterwards")] = None,
    embedded_broker: Annotated[bool, typer.Option(help="do not use Mosquitto even if it is installed")] = False,
) -> None:
    """Broker, cloud and two agents: from a frame to a second opinion, from a label to a better model on both.

    Ctrl-C stops everything and leaves nothing behind. With --once the exit code says whether each step happened.
    """
    options = DemoOptions(
        source=source or None,
        once=once,
        bad=bad,
        fields=fields,
        summary=summary,
        keep=keep,
        embedded_broker=True if embedded_broker else None,
    )
    # A supervisor's stop cleans up as Ctrl-C does; and a shell that starts us behind itself has us ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        passed = run_demo(options, out)
    except LocalError as exc:
        err.print(f"[bold red]not done:[/] {exc}", highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from exc
    except KeyboardInterrupt:
        err.print("stopped before the end")
        raise typer.Exit(EXIT_NOT_PROVEN) from None
    if not passed:
        raise typer.Exit(EXIT_NOT_PROVEN)


@devices.command("list")
def list_devices(cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """One row a device: state, model, what it has read."""
    table = Table()
    for column in ("device", "site", "state", "model", "fields", "uncertain", "withheld", "last seen"):
        table.add_column(column)
    with connected(cloud, token_file) as client:
        cursor = None
        while True:
            page = client.list_devices(cursor=cursor)
            for row in page.items:
                seen = row.last_seen_at.isoformat(timespec="seconds") if row.last_seen_at else "never"
                counts = (str(row.fields), str(row.uncertain), str(row.withheld))
                table.add_row(row.device, row.site, row.presence.value, row.active_version or "", *counts, seen)
            if (cursor := page.next_cursor) is None:
                break
    out.print(table)


@devices.command("create")
def create_device(
    device: str, site: Annotated[str, typer.Option()], cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None
) -> None:
    """Registers a device and prints its token, this once. Put it into the file that the agent's configuration names."""
    with connected(cloud, token_file) as client:
        made = client.create_device(DeviceCreate(device=device, site=site))
    err.print(f"{made.device} at {made.site}: this token holds until {made.expires_at.date()} and is not shown again")
    out.print(made.token, soft_wrap=True, highlight=False)


@devices.command("revoke")
def revoke_device(device: str, cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """Takes a device's tokens away: for a stolen or replaced workstation."""
    with connected(cloud, token_file) as client:
        client.revoke_device(device)
    out.print(f"{device}: its tokens are not accepted any more")


@opinions.command("list")
def list_opinions(
    state: Annotated[OpinionState | None, typer.Option(help="only these")] = None,
    device: Annotated[str | None, typer.Option(help="only of this device")] = None,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """The newest second opinions."""
    table = Table()
    for column in ("id", "device", "capture", "state", "white cells", "agreement"):
        table.add_column(column)
    with connected(cloud, token_file) as client:
        for row in client.list_opinions(state=state, device=device).items:
            agreement = "" if row.agreement_ratio is None else f"{row.agreement_ratio:.0%}"
            table.add_row(row.id, row.device, row.capture_id, row.state.value, str(row.white_cells), agreement)
    out.print(table)


@opinions.command("show")
def show_opinion(opinion: str, cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """One second opinion as JSON, as the REST gives it."""
    with connected(cloud, token_file) as client:
        out.print_json(client.get_opinion(opinion).model_dump_json(by_alias=True))
