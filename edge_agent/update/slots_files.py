"""Installed models, one folder a release: `slots/{counter}-{hex}/` with `bundle.zip` and `release.json`.

A release comes into its slot whole or not at all. `confirmed` beside them holds a number that grows with each model
that proved itself: what is needed to find the right one again should the record be lost.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from edge_agent.update.errors import ArchiveRefused, NoSpace
from edge_agent.update.files import to_disk, write_durably
from edge_agent.update.record import Model
from fleet.contract.codec import encode
from fleet.contract.release import ReleaseTarget, UpdateCode
from models.bundle import BundleError, BundleEscapeError, BundleIncompatibleError, read_bundle

ARCHIVE = "bundle.zip"
RELEASE = "release.json"
CONFIRMED = "confirmed"
_SCRATCH = ".new-"


@dataclass(frozen=True, slots=True)
class Slot:
    """One installed release; `confirmed` is 0 for one that never proved itself."""

    release: ReleaseTarget
    archive: Path
    confirmed: int

    @property
    def model(self) -> Model:
        """Which model."""
        return Model.of(self.release)


class Slots:
    """See the module.

    Args:
        folder: for slots alone; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def archive(self, model: Model) -> Path:
        """Where a model's archive lies, if it is installed."""
        return self._path(model) / ARCHIVE

    def installed(self) -> list[Slot]:
        """Every slot that can be read, the last confirmed first."""
        found = []
        for path in sorted(self._folder.glob("[0-9]*-*")):
            try:
                release = ReleaseTarget.model_validate_json((path / RELEASE).read_bytes())
            except (OSError, ValidationError):
                continue
            if (path / ARCHIVE).is_file() and path == self._path(Model.of(release)):
                found.append(Slot(release, path / ARCHIVE, _number(path / CONFIRMED)))
        return sorted(found, key=lambda slot: (-slot.confirmed, -slot.release.counter))

    def install(
        self, release: ReleaseTarget, write: Callable[[BinaryIO], bool], check: Callable[[ReleaseTarget, Path], None]
    ) -> bool:
        """Brings a release into its slot.

        1. the archive is written beside the slots and brought to the disk;
        2. `check` finds it to be what was signed;
        3. the bundle in it is whole and has the digest that was signed;
        4. the folder is renamed into place and brought to the disk.

        Args:
            release: which.
            write: writes the archive; False when it could not be put together, and nothing is installed.
            check: raises when the file is not what was signed.

        Returns:
            What `write` returned.

        Raises:
            ArchiveRefused: it is signed, but no bundle that this program can use.
            NoSpace: the disk does not take it.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=_SCRATCH) as scratch:
                fresh = Path(scratch) / "slot"
                fresh.mkdir()
                with (fresh / ARCHIVE).open("wb") as file:
                    if not write(file):
                        return False
                    file.flush()
                    os.fsync(file.fileno())
                check(release, fresh / ARCHIVE)
                check_bundle(release, fresh / ARCHIVE)
                write_durably(fresh / RELEASE, encode(release))
                target = self._path(Model.of(release))
                shutil.rmtree(target, ignore_errors=True)
                fresh.rename(target)
                to_disk(self._folder)
        except OSError as exc:
            raise NoSpace(f"the disk does not take the model: {exc.strerror}") from exc
        return True

    def mark_confirmed(self, model: Model) -> None:
        """Notes that this model proved itself, after all others.

        Raises:
            NoSpace: the disk does not take it.
        """
        slots = self.installed()
        number = max((slot.confirmed for slot in slots), default=0)
        own = next((slot for slot in slots if slot.model.key == model.key), None)
        if own is None or (own.confirmed == number and number > 0):
            return
        try:
            write_durably(self._path(model) / CONFIRMED, str(number + 1).encode())
        except OSError as exc:
            raise NoSpace(f"the disk does not take the mark of the confirmed model: {exc.strerror}") from exc

    def collect(self, keep: Iterable[Model]) -> int:
        """Deletes every slot but those of `keep`, and what was left half written; returns how many went."""
        kept = {self._path(model) for model in keep}
        gone = 0
        for path in [*self._folder.glob("[0-9]*-*"), *self._folder.glob(f"{_SCRATCH}*")]:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
                gone += 1
        return gone

    def _path(self, model: Model) -> Path:
        return self._folder / f"{model.counter}-{model.digest.removeprefix('sha256:')}"


def check_bundle(release: ReleaseTarget, archive: Path) -> None:
    """Whether an archive is the bundle that the release describes.

    Raises:
        ArchiveRefused: `E_INCOMPAT`, `E_PATH` (a name reaches out of it), `E_LOAD` (broken in another way), `E_HASH`.
    """
    try:
        digest = read_bundle(archive).digest
    except BundleIncompatibleError as exc:
        raise ArchiveRefused(UpdateCode.INCOMPATIBLE, str(exc)) from exc
    except BundleEscapeError as exc:
        raise ArchiveRefused(UpdateCode.PATH, str(exc)) from exc
    except BundleError as exc:
        raise ArchiveRefused(UpdateCode.LOAD, str(exc)) from exc
    if digest != release.digest:
        raise ArchiveRefused(UpdateCode.HASH, f"the bundle is {digest}, {release.digest} was signed")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
