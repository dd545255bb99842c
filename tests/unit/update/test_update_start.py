"""What runs when the agent starts: the kit, a lost record, a damaged slot, a model that brings the agent down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from edge_agent.clock import Clock
from edge_agent.errors import BadArtefact
from edge_agent.inference.engine import BundleEngine
from edge_agent.update.record import Model, UpdateRecord
from edge_agent.update.record_file import RecordFile
from edge_agent.update.settings import UpdateSettings
from edge_agent.update.start import FOLDER, UpdateStart, start
from fleet.contract.messages import UpdateState
from fleet.contract.release import UpdateCode
from fleet.release.package import write_kit
from models.bundle import BundleError, read_bundle
from tests.fakes.releases import Offered, ReleaseDesk


class Opened:
    """Stands where a model would be: the bundles of this test hold no networks."""

    def __init__(self, digest: str) -> None:
        self.digest = digest


class Workstation:
    """A data folder with a kit beside it; `unusable` are digests that no network can be made of."""

    def __init__(self, folder: Path, *, signed_at: datetime | None = None) -> None:
        self.desk = ReleaseDesk(folder / "keys", at=signed_at)
        self.kit = folder / "kit"
        self.data = folder / "data"
        self.unusable: set[str] = set()
        write_kit(self.kit, *self.desk.factory)
        self.next: Offered = self.desk.offer(self.desk.trust)

    @property
    def update(self) -> Path:
        return self.data / FOLDER

    def start(self, *, max_boots: int = 2) -> UpdateStart:
        settings = UpdateSettings(factory=self.kit, max_boots=max_boots)
        return start(settings, self.data, self._open, Clock())

    def _open(self, path: Path, digest: str) -> BundleEngine:
        try:
            found = read_bundle(path).digest
        except BundleError as exc:
            raise BadArtefact(str(exc)) from exc
        if found != digest or digest in self.unusable:
            raise BadArtefact(f"{found} cannot be used")
        return cast(BundleEngine, Opened(digest))

    def update_by_hand(self, state: UpdateState) -> UpdateRecord:
        """The next release, confirmed or still unconfirmed, without the way there."""
        first = self.start()
        target = self.next.target

        def write(file: object) -> bool:
            file.write(self.next.archive)  # type: ignore[attr-defined]
            return True

        first.slots.install(target, write, lambda release, path: None)
        model = Model.of(target)
        if state is UpdateState.CONFIRMED:
            first.slots.mark_confirmed(model)
            changes: dict[str, object] = {"confirmed": model, "previous": first.record.confirmed}
        else:
            changes = {"candidate": target}
        record = first.record.model_copy(update={"state": state, **changes})
        first.record_file.save(record)
        return record

    def running(self, opened: UpdateStart) -> str:
        return cast(Opened, opened.engine).digest


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


def test_the_first_start_installs_the_kit_by_the_checks_of_any_release(workstation: Workstation) -> None:
    opened = workstation.start()
    record = opened.record
    assert (record.state, record.confirmed.counter, record.floor) == (UpdateState.IDLE, 1, 1)
    assert workstation.running(opened) == record.confirmed.digest
    again = workstation.start()
    assert (again.record.journal, again.record) == (record.journal, record)


def test_a_kit_whose_metadata_expired_on_the_shelf_still_reads(tmp_path: Path) -> None:
    old = Workstation(tmp_path, signed_at=datetime.now(UTC) - timedelta(days=300))
    assert old.start().record.confirmed.counter == 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("bundle.zip", _flip),
        ("bundle.zip", Path.unlink),
        ("trust.json", Path.unlink),
        ("trust.json", lambda path: path.write_bytes(b"{}")),
        ("trust.json", lambda path: path.write_bytes(path.read_bytes().replace(b"1.1.0", b"1.9.0"))),
    ],
)
def test_a_kit_that_is_not_what_was_signed_is_not_installed(
    workstation: Workstation, name: str, damage: Callable[[Path], object]
) -> None:
    damage(workstation.kit / name)
    with pytest.raises(BadArtefact, match="factory kit"):
        workstation.start()
    assert not list((workstation.update / "slots").glob("1-*"))


def test_a_lost_record_is_made_again_from_the_slots(workstation: Workstation) -> None:
    record = workstation.update_by_hand(UpdateState.CONFIRMED)
    (workstation.update / "record.json").write_bytes(b"\x00\x00")
    opened = workstation.start()
    assert (opened.record.confirmed, opened.record.previous) == (record.confirmed, record.previous)
    assert opened.record.floor == 1
    assert opened.record.journal != record.journal
    assert workstation.running(opened) == record.confirmed.digest


def test_a_release_that_never_proved_itself_is_not_taken_for_the_lost_one(workstation: Workstation) -> None:
    workstation.update_by_hand(UpdateState.UNCONFIRMED)
    (workstation.update / "record.json").unlink()
    opened = workstation.start()
    assert (opened.record.state, opened.record.confirmed.counter) == (UpdateState.IDLE, 1)


def test_a_damaged_active_slot_is_followed_by_the_model_before_and_told(workstation: Workstation) -> None:
    record = workstation.update_by_hand(UpdateState.CONFIRMED)
    _flip(workstation.start().slots.archive(record.confirmed))
    opened = workstation.start()
    after = opened.record
    assert (after.state, after.code, after.confirmed) == (UpdateState.ROLLED_BACK, UpdateCode.LOAD, record.previous)
    assert workstation.running(opened) == after.confirmed.digest
    assert after.untold[-1].step.release == record.confirmed.digest
    assert RecordFile(workstation.update).load() == after


def test_a_model_of_another_digest_in_the_active_slot_is_not_used(workstation: Workstation) -> None:
    record = workstation.update_by_hand(UpdateState.CONFIRMED)
    slots = workstation.start().slots
    assert record.previous is not None
    slots.archive(record.confirmed).write_bytes(slots.archive(record.previous).read_bytes())
    assert workstation.start().record.confirmed == record.previous


def test_when_both_slots_are_damaged_the_kit_is_installed_again(workstation: Workstation) -> None:
    record = workstation.update_by_hand(UpdateState.CONFIRMED)
    slots = workstation.start().slots
    assert record.previous is not None
    _flip(slots.archive(record.confirmed))
    _flip(slots.archive(record.previous))
    opened = workstation.start()
    assert (opened.record.state, opened.record.confirmed.counter) == (UpdateState.ROLLED_BACK, 1)
    assert workstation.running(opened) == opened.record.confirmed.digest


def test_when_nothing_can_be_opened_it_says_so_and_ends(workstation: Workstation) -> None:
    workstation.unusable = {read_bundle(workstation.kit / "bundle.zip").digest}
    with pytest.raises(BadArtefact):
        workstation.start()
    with pytest.raises(BadArtefact):
        workstation.start()


def test_an_unconfirmed_model_runs_again_after_a_kill_but_not_for_ever(workstation: Workstation) -> None:
    workstation.update_by_hand(UpdateState.UNCONFIRMED)
    for boots in (1, 2):
        opened = workstation.start(max_boots=2)
        assert (opened.record.state, opened.record.boots) == (UpdateState.UNCONFIRMED, boots)
        assert workstation.running(opened) == workstation.next.target.digest
    opened = workstation.start(max_boots=2)
    assert (opened.record.state, opened.record.code) == (UpdateState.ROLLED_BACK, UpdateCode.LOAD)
    assert workstation.running(opened) == opened.record.confirmed.digest
    assert opened.record.confirmed.counter == 1


def test_an_unconfirmed_model_that_cannot_be_opened_is_dropped_and_barred(workstation: Workstation) -> None:
    workstation.update_by_hand(UpdateState.UNCONFIRMED)
    workstation.unusable = {workstation.next.target.digest}
    opened = workstation.start()
    record = opened.record
    assert (record.state, record.code, record.confirmed.counter) == (UpdateState.ROLLED_BACK, UpdateCode.LOAD, 1)
    assert [entry.digest for entry in record.barred] == [workstation.next.target.digest]
