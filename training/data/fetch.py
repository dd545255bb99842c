"""A public set into the user's cache: downloaded, compared with what is pinned, put into its place at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.archives import members
from training.data.download import Patience, Progress, download
from training.data.formats.annotated import Faults
from training.data.pinned import Pins, load_pins
from training.data.places import cache_folder, fetched_root
from training.data.public_sets import build
from training.data.sources import Archive, Sources
from training.errors import DataError

ORIGIN_NAME = ".origin.json"
"""In every set that was fetched: from where, and under which licence."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A set that is there.

    Attributes:
        folder: where.
        faults: what was repaired, as notes; nothing where it was there already.
        anew: whether it was made now.
    """

    folder: Path
    faults: Faults
    anew: bool


def downloads_folder() -> Path:
    """Where archives lie."""
    return cache_folder() / "downloads"


def is_fetched(name: str) -> bool:
    """Whether the cache holds the set, whole."""
    return (fetched_root() / name / ORIGIN_NAME).is_file()


def address(archive: Archive, mirror: str | None) -> str:
    """Where an archive is asked for: its source, or the same file below a mirror."""
    return archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.file}"


def fetch(
    name: str,
    sources: Sources,
    *,
    mirror: str | None = None,
    pins: Pins | None = None,
    progress: Callable[[str], Progress],
    patience: Patience | None = None,
) -> Fetched:
    """Make sure that the cache holds a public set.

    Args:
        name: of the set.
        sources: the list of sets.
        mirror: address of a folder with the archives, in place of their sources; what they hold is compared as ever.
        pins: by default those that shipped.
        progress: for an archive's file name, whom to tell of its bytes.
        patience: how long to try.

    Raises:
        DataError: unknown, cannot be fetched, or not what was pinned; nothing half-made is left in its place.
    """
    if name not in sources.sets:
        raise DataError(f"{name}: is no public set; there are {', '.join(sources.sets)}")
    target = fetched_root() / name
    if is_fetched(name):
        return Fetched(target, Faults(), anew=False)
    if target.exists():
        raise DataError(f"{target} is there and was not fetched; move it away, or set AHS_DATA_DIR to its parent")
    archives = [sources.archives[a] for a in sources.sets[name].archives]
    hashes = {}
    for archive in archives:
        url = address(archive, mirror)
        hashes[archive.file] = download(
            url,
            downloads_folder() / archive.file,
            sha256=archive.sha256,
            patience=patience,
            progress=progress(archive.file),
        )
    origin = {
        "set": name,
        "cite": sources.sets[name].cite,
        "licence": sources.sets[name].licence,
        "archives": [{"url": address(a, mirror), "commit": a.commit, "sha256": hashes[a.file]} for a in archives],
    }
    return Fetched(target, _make(name, archives, pins or load_pins(name), target, origin), anew=True)


def _make(name: str, archives: list[Archive], pins: Pins, target: Path, origin: Mapping[str, object]) -> Faults:
    work, new = (target.with_name(f".{name}.{what}") for what in ("work", "new"))
    try:
        for folder in (work, new):
            if folder.exists():  # Left over from a run that was broken off.
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        faults = build(name, _all_members(archives), pins, work, new)
        (new / ORIGIN_NAME).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        new.rename(target)
    except OSError as exc:
        raise DataError(f"{target}: cannot be written ({exc.strerror})") from exc
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
    return faults


def _all_members(archives: list[Archive]) -> Iterator[tuple[str, bytes]]:
    for archive in archives:
        yield from members(downloads_folder() / archive.file)


def forget_archives(names: list[str], sources: Sources) -> None:
    """Delete the archives of sets that are there."""
    for name in names:
        for archive in sources.sets[name].archives:
            (downloads_folder() / sources.archives[archive].file).unlink(missing_ok=True)
