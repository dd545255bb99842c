"""`ahs-train data`: fetches, checks, converts, splits and shows data sets. None of it needs torch."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from training.data.check import check_set
from training.data.fetch import fetch as fetch_set
from training.data.fetch import forget_archives
from training.data.formats.annotated import KNOWN_CLASSES, AnnotatedSet, Fault, Faults, judge, mended, renamed
from training.data.formats.registry import Format, read_set, write_set
from training.data.grouping import found_groups, given_groups
from training.data.leak_report import summary, write_leaks
from training.data.near_copies import MAX_BITS, MIN_LIKENESS, agreement
from training.data.pinned import as_pinned, load_pins
from training.data.places import find_set, roots
from training.data.sources import load_sources
from training.data.splitting import leaks_of, parse_shares, split_by_group, with_groups, with_splits
from training.data.statistics import statistics_of
from training.data.statistics_page import statistics_page
from training.errors import DataError
from training.terminal import console, told

data_app = typer.Typer(no_args_is_help=True, help="Data sets: fetch, check, convert, split and look at them.")

SetArgument = Annotated[str, typer.Argument(help="a folder or COCO file, or the name of a set, e.g. det_txl")]
FromOption = Annotated[Format | None, typer.Option("--from", help="format; by default by what lies there")]
RenameOption = Annotated[list[str] | None, typer.Option("--rename", help="OLD=NEW class, as often as needed")]
BitsOption = Annotated[int, typer.Option(min=0, max=63, help="most bits in which hashes of near-copies differ")]
LikenessOption = Annotated[float, typer.Option(min=0, max=1, help="least correlation of near-copies")]


class Groups(StrEnum):
    """Which near-duplicate groups count."""

    FOUND = "found"
    GIVEN = "given"


GroupsOption = Annotated[Groups, typer.Option(help="near-copies found in the pictures, or groups that the set names")]


@data_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="public sets; `ahs-train data list` names them")],
    mirror: Annotated[str | None, typer.Option(help="address of a folder with the archives instead of sources")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="do not delete what was downloaded")] = False,
) -> None:
    """Download public sets into the cache, compare them with what is pinned, and lay them out for training."""
    with told():
        sources = load_sources()
        for name in names:
            if name not in sources.sets:
                raise DataError(f"{name}: is no public set; there are {', '.join(sources.sets)}")
        for name in names:
            with _Downloads() as bars:
                done = fetch_set(name, sources, mirror=mirror, progress=bars.of)
            _list(done.faults)
            what = "fetched, as pinned" if done.anew else "was there"
            entry = sources.sets[name]
            console.print(f"{name}: {what}: {done.folder}", soft_wrap=True)
            console.print(f"  {entry.cite}; {entry.licence}", soft_wrap=True, highlight=False)
        if not keep_archives:
            forget_archives(names, sources)


@data_app.command("list")
def list_sets() -> None:
    """Name the public sets, and where each of them is."""
    with told():
        table = Table("set", "what", "licence", "where")
        for name, entry in load_sources().sets.items():
            found = next((str(root / name) for root in roots() if (root / name).is_dir()), "not here: data fetch")
            table.add_row(name, f"{entry.what}\n{entry.cite}", entry.licence, found)
        console.print(table)
        console.print(
            "Research use only. Cite the source wherever the data, or weights trained on them, are described."
        )


@data_app.command()
def check(
    dataset: SetArgument,
    source: FromOption = None,
    allow: Annotated[list[str] | None, typer.Option("--allow", help="a class that belongs here")] = None,
) -> None:
    """List everything that is wrong with a data set: files, boxes, classes, pictures. Exit code 1 if anything is."""
    with told():
        faults = Faults()
        data = read_set(find_set(dataset), faults, source)
        with _Bar("pictures") as bar:
            check_set(data, faults, known=(*KNOWN_CLASSES, *(allow or ())), progress=bar.update)
        _list(faults)
        _count(data, faults)
        if not faults.grave and dataset in load_sources().sets:
            pins = load_pins(dataset)
            same, others = as_pinned(pins, [p.path for p in data.pictures])
            console.print(f"as pinned: {same} of {len(pins.by_key)} pictures; {others} others", soft_wrap=True)
    if faults.grave:
        raise typer.Exit(1)


@data_app.command()
def convert(
    dataset: SetArgument,
    to: Annotated[Format, typer.Option("--to", help="format to write")],
    out: Annotated[Path, typer.Option(help="new folder")],
    source: FromOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="cut boxes to the frame, leave out empty and double ones")
    ] = False,
    rename: RenameOption = None,
) -> None:
    """Write a data set in another format; pictures are copied byte for byte. Whatever is lost or changed is said."""
    with told():
        faults = Faults()
        data = renamed(read_set(find_set(dataset), faults, source), _pairs(rename))
        if repair:
            data = AnnotatedSet(data.classes, tuple(mended(p, faults) for p in data.pictures))
        for picture in data.pictures:
            judge(picture, faults)
        faults.refuse()
        write_set(data, out, to, faults)
        _list(faults)
        console.print(f"{out}: {len(data.pictures)} pictures as {to}", soft_wrap=True)


@data_app.command()
def leaks(
    dataset: SetArgument,
    out: Annotated[Path, typer.Option(help="folder for leaks.md and leaks.html")],
    source: FromOption = None,
    groups: GroupsOption = Groups.FOUND,
    bits: BitsOption = MAX_BITS,
    likeness: LikenessOption = MIN_LIKENESS,
) -> None:
    """Say which pictures of a split have near-copies in another one."""
    with told():
        data = _sound(dataset, source)
        given = given_groups(data)
        own = _groups(data, groups, bits, likeness)
        told_of = agreement(own, given) if groups is Groups.FOUND and any(p.group for p in data.pictures) else None
        report = leaks_of(with_groups(data, own))
        write_leaks(out, dataset, report, told_of)
        console.print(summary(report), soft_wrap=True)
        if told_of is not None:
            console.print(
                f"pairs found and given: {told_of.both}, only found: {told_of.only_found}, "
                f"only given: {told_of.only_given}",
                soft_wrap=True,
            )
        console.print(f"{out / 'leaks.html'}", soft_wrap=True)


@data_app.command()
def split(
    dataset: SetArgument,
    out: Annotated[Path, typer.Option(help="new folder")],
    shares: Annotated[str, typer.Option(help="splits and their shares")] = "train=.7,val=.2,test=.1",
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same splits")] = 0,
    to: Annotated[Format, typer.Option("--to", help="format to write")] = Format.COCO,
    source: FromOption = None,
    groups: GroupsOption = Groups.FOUND,
    bits: BitsOption = MAX_BITS,
    likeness: LikenessOption = MIN_LIKENESS,
) -> None:
    """Split a data set anew, near-copies together, each class and source as near to the shares as that allows."""
    with told():
        wanted = parse_shares(shares)
        data = _sound(dataset, source)
        own = _groups(data, groups, bits, likeness)
        done = with_splits(with_groups(data, own), split_by_group(data.pictures, own, wanted, seed))
        faults = Faults()
        write_set(done, out, to, faults)
        report = leaks_of(done)
        write_leaks(out / "report", dataset, report)
        _list(faults)
        console.print(summary(report), soft_wrap=True)
        for name, count in report.splits.items():
            cells = ", ".join(f"{cls} {n}" for cls, n in sorted(report.cells[name].items()))
            console.print(f"{name}: {count} pictures; {cells}", soft_wrap=True)


@data_app.command()
def stats(
    dataset: SetArgument,
    out: Annotated[Path, typer.Option(help="folder for index.html")],
    source: FromOption = None,
    examples: Annotated[int, typer.Option(min=0, max=60, help="pictures to show")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="decides which pictures are shown")] = 0,
) -> None:
    """Show a data set on one page: counts, sizes, light and stain, fields with their boxes."""
    with told():
        data = _sound(dataset, source)
        with _Bar("pictures") as bar:
            found = statistics_of(data, progress=bar.update)
        out.mkdir(parents=True, exist_ok=True)
        page = out / "index.html"
        page.write_text(
            statistics_page(Path(dataset).name, data, found, examples=examples, seed=seed), encoding="utf-8"
        )
        console.print(f"{page}", soft_wrap=True)


def _pairs(options: list[str] | None) -> dict[str, str]:
    pairs = {}
    for option in options or ():
        old, sign, new = option.partition("=")
        if not (old and sign and new):
            raise DataError(f"--rename {option}: write OLD=NEW")
        pairs[old] = new
    return pairs


def _sound(dataset: str, source: Format | None) -> AnnotatedSet:
    faults = Faults()
    data = read_set(find_set(dataset), faults, source)
    faults.refuse()
    return data


def _groups(data: AnnotatedSet, groups: Groups, bits: int, likeness: float) -> list[str]:
    if groups is Groups.GIVEN:
        return given_groups(data)
    with _Bar("near-copies") as bar:
        return found_groups(data, max_bits=bits, min_likeness=likeness, progress=bar.update)


def _list(faults: Faults) -> None:
    for fault in faults.found:
        _line(fault)


def _line(fault: Fault) -> None:
    kind = "fault" if fault.grave else "note "
    console.print(f"{kind} {fault}", soft_wrap=True, highlight=False, markup=False)


def _count(data: AnnotatedSet, faults: Faults) -> None:
    cells = sum(len(p.names) for p in data.pictures)
    what = f"{cells} boxes" if data.has_boxes else "one class a picture"
    notes = len(faults.found) - len(faults.grave)
    console.print(f"{len(data.pictures)} pictures, {what}: {len(faults.grave)} faults, {notes} notes", soft_wrap=True)


class _Downloads:
    """Bars of bytes on stderr, one a file; none where stderr is no terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        stderr = Console(stderr=True)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=stderr, disable=not stderr.is_terminal)

    def __enter__(self) -> _Downloads:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def of(self, file: str) -> Callable[[int, int | None], None]:
        """Whom to tell of a file's bytes."""
        task = self._bar.add_task(file, total=None)

        def moved(have: int, total: int | None) -> None:
            self._bar.update(task, completed=have, total=total)

        return moved


class _Bar:
    """A bar on stderr that lasts as long as the work; none where stderr is no terminal."""

    def __init__(self, what: str) -> None:
        self._bar = Progress(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal)
        self._task = self._bar.add_task(what)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, of: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=of)
