"""`ahs-fleet release` against a real cloud: both ends agree on every byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleet.cli import app
from fleet.release.package import write_kit, write_trust
from tests.fakes.console_cloud import CloudForConsole, running_cloud
from tests.fakes.releases import ReleaseDesk, bundle_zip


@dataclass
class Operator:
    cloud: CloudForConsole
    desk: ReleaseDesk
    token: str

    def runs(self, *arguments: str) -> Result:
        environment = {"AHS_FLEET_CLOUD": self.cloud.base_url, "AHS_FLEET_TOKEN": self.token}
        return CliRunner().invoke(app, ["release", *arguments], env=environment)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    desk = ReleaseDesk(tmp_path / "keys")
    write_trust(desk.folder / "trust.json", desk.trust)
    write_kit(tmp_path / "kit", *desk.factory)
    with running_cloud(tmp_path / "cloud", field_count=1, online_key_file=desk.online_key_file) as cloud:
        yield Operator(cloud, desk, cloud.token(role="operator", name="Ada"))


def test_a_fleet_begins_releases_and_verifies(operator: Operator, tmp_path: Path) -> None:
    for _ in range(2):  # the second time after a lost answer
        begun = operator.runs("begin", "--kit", str(tmp_path / "kit"))
        assert begun.exit_code == 0, begun.output
    archive, digest = bundle_zip("1.2.0", b"another head")
    (tmp_path / "bundle.zip").write_bytes(archive)
    create = ("create", "--bundle", str(tmp_path / "bundle.zip"), "--keys", str(operator.desk.folder), "--unchecked")
    for _ in range(2):
        created = operator.runs(*create)
        assert created.exit_code == 0, created.output
        assert created.stdout.strip().endswith("2")
    shown = operator.runs("show", "2")
    assert digest in shown.stdout
    assert '"checked": false' in shown.stdout
    verified = operator.runs("verify", "--keys", str(operator.desk.folder), "--fresh")
    assert verified.exit_code == 0, verified.output
    assert digest in verified.stdout


def test_old_releases_are_left_out_and_their_counters_are_not_given_again(operator: Operator, tmp_path: Path) -> None:
    keys = ("--keys", str(operator.desk.folder))
    assert operator.runs("begin", "--kit", str(tmp_path / "kit")).exit_code == 0
    for number in (2, 3, 4):
        archive, _ = bundle_zip(f"1.{number}.0", f"head {number}".encode())
        (tmp_path / "bundle.zip").write_bytes(archive)
        made = operator.runs("create", "--bundle", str(tmp_path / "bundle.zip"), "--unchecked", *keys)
        assert made.exit_code == 0, made.output
    nothing = operator.runs("prune", "--keep", "3", *keys)
    assert (nothing.exit_code, nothing.stdout) == (0, ""), nothing.output
    assert "from a kit" not in nothing.stderr
    pruned = operator.runs("prune", "--keep", "1", "--also", "3", *keys)
    assert (pruned.exit_code, pruned.stdout.splitlines()[-1]) == (0, "2"), pruned.output
    assert "3 releases stay" in pruned.stderr
    assert "started from a kit of a release that was left out" in pruned.stderr.replace("\n", " ")
    assert "--also" in pruned.stderr
    assert operator.runs("verify", *keys).exit_code == 0
    assert "withdrawn" in operator.runs("list").stdout
    archive, _ = bundle_zip("1.5.0", b"head five")
    (tmp_path / "bundle.zip").write_bytes(archive)
    made = operator.runs("create", "--bundle", str(tmp_path / "bundle.zip"), "--unchecked", *keys)
    assert (made.exit_code, made.stdout.splitlines()[-1]) == (0, "5"), made.output
