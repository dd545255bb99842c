"""`ahs-fleet keys`, `factory` and `release`: what the operator does with the keys, and what the cloud holds.

The operator's folder of keys also holds `trust.json`, the documents as they were signed last. A cloud that shows older
ones, or those of another root, gets nothing signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fleet.connecting import DEFAULT_CLOUD, EXIT_BAD_INPUT, Cloud, Token, connected, err, out
from fleet.contract.release import ReleaseTarget, Trust
from fleet.release.checking import check_archive, check_continues, read_archive
from fleet.release.documents import RELEASES_FILL_BYTES, Chain, check_trust, trust_bytes
from fleet.release.errors import BundleRefused, EvidenceRefused, KeyExists, KeyProblem, ReleaseError, TrustInvalid
from fleet.release.evidence import MAX_EVIDENCE_BYTES, reference
from fleet.release.keys import (
    ONLINE_KEY,
    RELEASE_KEY,
    ROOT_KEY,
    load_key,
    make_key,
    make_keys,
    save_keys,
)
from fleet.release.package import (
    ARCHIVE_NAME,
    TRUST_NAME,
    Package,
    make_package,
    read_trust,
    write_kit,
    write_trust,
)
from fleet.release.pruning import pruned
from fleet.release.replacing import finish_replacement, replace_files
from fleet.release.repository import first_trust, releases_of, resigned, with_release
from fleet.release.rotation import KeyRole, replaced

EXIT_REFUSED = 1
"""Bundle, evidence or documents do not hold; wrong input and a cloud that says no exit with 2."""

TELL_FULL_RATIO = 0.8
"""From here on each release says how little room is left for further ones."""

UPLOAD_TIMEOUT_S = 60.0
"""The cloud checks an archive before it answers."""

KIT_TIMESTAMP_FOR, KIT_SNAPSHOT_FOR = timedelta(days=3), timedelta(days=7)
"""Until the cloud signs on. In the kit expiry is not judged."""

keys = typer.Typer(no_args_is_help=True, help="The keys that sign releases. They never leave your hands.")
release = typer.Typer(no_args_is_help=True, help="Signed model bundles.")

Folder = Annotated[Path, typer.Option("--keys", help="folder of your keys, as made by `ahs-fleet keys init`")]
BundlePath = Annotated[Path, typer.Option("--bundle", help="the bundle's folder or .zip")]


@keys.command("init")
def init_keys(
    folder: Annotated[Path, typer.Option("--out", help="new folder; keys are never overwritten")] = Path("keys"),
) -> None:
    """Makes the three keys and the first signed documents, once for a fleet."""
    with _told():
        if (folder / TRUST_NAME).exists():
            raise KeyExists(f"{folder / TRUST_NAME} is there already and is not overwritten; give another folder")
        made = make_keys()
        save_keys(folder, made)
        write_trust(folder / TRUST_NAME, first_trust(made, datetime.now(UTC)))
    _tell(f"{folder / ROOT_KEY}: offline, locked away; needed only to change a key")
    _tell(f"{folder / RELEASE_KEY}: stays with whoever releases; never on a server")
    _tell(f"{folder / ONLINE_KEY}: for the cloud alone (its setting releases.online_key_file)")
    _tell("next: ahs-fleet factory --bundle FOLDER")


@keys.command("replace")
def replace_key(
    role: Annotated[KeyRole, typer.Argument(help="root, release or online")],
    folder: Folder = Path("keys"),
) -> None:
    """Replaces a key that was stolen, lost or handed over; needs root.key. Then give the cloud the new documents.

    The old key stays in the folder under another name until you destroy it. After the online key: give the cloud the
    new file and start it again before `ahs-fleet keys publish`.
    """
    with _told():
        finished = finish_replacement(folder)
        trust = read_trust(folder / TRUST_NAME)
        path = folder / f"{role.value}.key"
        if finished is not None:
            _tell(
                f"{finished.value}.key: a replacement that was cut short is finished; root {len(trust.roots)} names it"
            )
        if finished is role:
            _tell("Next: ahs-fleet keys publish")
            return
        new = make_key()
        after = replaced(trust, role, root=load_key(folder / ROOT_KEY), new=new, now=datetime.now(UTC))
        replace_files(folder, role, new, after)
    _tell(f"{path} is new; root {len(after.roots)} names it. Next: ahs-fleet keys publish")


@keys.command("publish")
def publish_trust(folder: Folder = Path("keys"), cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """Gives the cloud the newest root after `keys replace`; devices get it with their next trust message."""
    with _told():
        finish_replacement(folder)
        trust = read_trust(folder / TRUST_NAME)
    with connected(cloud, token_file) as client, _told():
        held = client.put_trust(trust)
        check_continues(trust, held)
        write_trust(folder / TRUST_NAME, held)
    _tell(f"{cloud}: root {len(held.roots)}")


def factory(
    bundle: BundlePath,
    folder: Folder = Path("keys"),
    kit: Annotated[Path, typer.Option("--out", help="folder of the kit")] = Path("factory"),
) -> None:
    """Makes what a device starts with: a bundle and the signed documents that name it.

    The first bundle of a fleet becomes release 1. Later a kit is made of any bundle that has been released.
    """
    with _told():
        finish_replacement(folder)
        trust = read_trust(folder / TRUST_NAME)
        if releases_of(trust):
            chain = _of_one_moment(trust)
            package = make_package(bundle)
            if (known := _newest_of(chain, package.bundle.digest)) is None:
                raise BundleRefused(
                    f"{bundle} is not among the releases that {folder / TRUST_NAME} names; release it first: "
                    "ahs-fleet release create"
                )
            check_archive(trust, known, package.archive)
        else:
            package = make_package(bundle)
            trust = _first_release(folder, trust, package)
        write_kit(kit, trust, package.archive)
    manifest = package.bundle.manifest
    _tell(f"{kit}: {manifest.name} {manifest.version} with its signed documents")
    out.print(package.bundle.digest, soft_wrap=True, highlight=False)


@release.command("begin")
def begin_releases(
    kit: Annotated[Path, typer.Option("--kit", help="folder of the factory kit")] = Path("factory"),
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Gives a new cloud its first trust documents and the archive of release 1. The same again changes nothing."""
    with _told():
        trust = read_trust(kit / TRUST_NAME)
        chain = check_trust(trust)
        archive = _bytes_of(kit / ARCHIVE_NAME)
        known = _newest_of(chain, read_archive(archive).digest)
        if known is None:
            raise TrustInvalid(f"{kit / TRUST_NAME} does not name the bundle beside it; make the kit again")
        check_archive(trust, known, archive)
    with connected(cloud, token_file, timeout_s=UPLOAD_TIMEOUT_S) as client:
        held = client.put_trust(trust)
        if held.targets == trust.targets:
            client.create_release(trust.targets, archive)
    _tell(f"{cloud}: release {known.counter} is {known.name} {known.version}")
    out.print(str(known.counter), highlight=False)


@release.command("create")
def create_release(
    bundle: BundlePath,
    folder: Folder = Path("keys"),
    evidence: Annotated[
        Path | None, typer.Option(help="evidence.json of its evaluation; without it a release stays on the bench")
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="no self-test, for drills; the signed description says so")
    ] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Checks a bundle, signs it as the next release and gives it to the cloud. Prints its counter.

    Devices get it by a rollout. The self-test on golden inputs runs here, on the archive as it will be delivered.
    """
    with _told():
        finish_replacement(folder)
        signer = load_key(folder / RELEASE_KEY)
        signed_last = read_trust(folder / TRUST_NAME)
        package = make_package(bundle, unchecked=unchecked)
        document = _bytes_of(evidence, MAX_EVIDENCE_BYTES) if evidence else None
        named = reference(document, package.bundle.digest) if document is not None else None
    with connected(cloud, token_file, timeout_s=UPLOAD_TIMEOUT_S) as client, _told():
        trust = client.get_trust()
        check_continues(signed_last, trust)
        released = releases_of(trust)
        if released and (released[-1].digest, released[-1].evidence) == (package.bundle.digest, named):
            target = released[-1]
            _tell(f"it is the newest release already: {target.counter}")
        else:
            counter = released[-1].counter + 1 if released else 1
            target = package.describe(counter, datetime.now(UTC), named)
            targets = with_release(trust, target, package.archive, signer)
            client.create_release(targets, package.archive, document)
        trust = client.get_trust()
        check_continues(signed_last, trust)
        write_trust(folder / TRUST_NAME, trust)
    _say(target, released, full=trust_bytes(trust) / RELEASES_FILL_BYTES)
    out.print(str(target.counter), highlight=False)


@release.command("prune")
def prune_releases(
    keep: Annotated[int, typer.Option(min=1, help="so many of the newest stay, and whatever is needed")],
    also: Annotated[list[int] | None, typer.Option(help="a release that stays besides; again for each")] = None,
    folder: Folder = Path("keys"),
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Leaves old releases out of the signed list, so that there is room for new ones. Prints their counters.

    What a device runs, keeps or is told of, what an open rollout brings or goes back to, what a straggler is still to
    get, the first and the newest release stay: the cloud says which, and refuses a list without them. It does not know
    of kits: a device that is started later from a kit of a release that was left out cannot be taken back to it.
    """
    with _told():
        finish_replacement(folder)
        signer = load_key(folder / RELEASE_KEY)
        signed_last = read_trust(folder / TRUST_NAME)
    with connected(cloud, token_file, timeout_s=UPLOAD_TIMEOUT_S) as client, _told():
        trust = client.get_trust()
        check_continues(signed_last, trust)
        counters = [target.counter for target in releases_of(trust)]
        stay = {*counters[-keep:], *(also or ()), *client.needed_releases().counters}
        gone = [counter for counter in counters if counter not in stay]
        if not gone:
            _tell(f"nothing to leave out: all {len(counters)} releases are needed, or among the newest {keep}")
            return
        client.prune_releases(pruned(trust, stay, signer, datetime.now(UTC)))
        trust = client.get_trust()
        check_continues(signed_last, trust)
        write_trust(folder / TRUST_NAME, trust)
    full = trust_bytes(trust) / RELEASES_FILL_BYTES
    _tell(f"{len(counters) - len(gone)} releases stay; {full:.0%} of the room for releases is taken")
    _tell(
        "a device that is started from a kit of a release that was left out cannot be taken back to it: make new kits"
        " (next time, --also COUNTER keeps a release)"
    )
    for counter in gone:
        out.print(str(counter), highlight=False)


@release.command("list")
def list_releases(cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """One row a release, newest first."""
    table = Table()
    for column in ("release", "model", "bytes", "self-test", "evidence", "running on", "made", "by", "digest"):
        table.add_column(column, no_wrap=column in ("release", "model", "self-test"))
    with connected(cloud, token_file) as client:
        for row in client.list_releases().items:
            counter = f"{row.counter} withdrawn" if row.withdrawn else str(row.counter)
            words = {None: "none: bench only", True: "accepted", False: "not accepted"}[row.evidence_accepted]
            made = row.created_at.isoformat(timespec="seconds")
            model, checked = f"{row.name} {row.version}", "passed" if row.checked else "not run"
            cells = (counter, model, str(row.size_bytes), checked, words, str(row.devices_running))
            table.add_row(*cells, made, row.created_by, row.digest)
    out.print(table)


@release.command("show")
def show_release(counter: int, cloud: Cloud = DEFAULT_CLOUD, token_file: Token = None) -> None:
    """One release as JSON, as the REST gives it: the signed description and its evidence."""
    with connected(cloud, token_file) as client:
        out.print_json(client.get_release(counter).model_dump_json(by_alias=True))


@release.command("verify")
def verify_releases(
    path: Annotated[
        Path | None, typer.Argument(help="a factory kit, or a trust.json; without it the cloud is asked")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--keys", help="your keys: the documents must stand on your own root")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="bundle that must be one of the releases")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="also refuse documents that have expired")] = False,
    cloud: Cloud = DEFAULT_CLOUD,
    token_file: Token = None,
) -> None:
    """Verifies signed documents from their root on, as a device does, and lists the releases that they name."""
    with _told():
        if path is None:
            with connected(cloud, token_file) as client:
                trust = client.get_trust()
        else:
            trust = read_trust(path / TRUST_NAME if path.is_dir() else path)
        if folder is not None and read_trust(folder / TRUST_NAME).roots[0] != trust.roots[0]:
            raise TrustInvalid(f"these documents stand on another root than {folder / TRUST_NAME}; do not use them")
        chain = check_trust(trust, datetime.now(UTC) if fresh else None)
        if bundle is None and path is not None and (path / ARCHIVE_NAME).is_file():
            bundle = path / ARCHIVE_NAME
        if bundle is not None:
            archive = make_package(bundle, unchecked=True).archive if bundle.is_dir() else _bytes_of(bundle)
            known = _newest_of(chain, read_archive(archive).digest)
            if known is None:
                raise BundleRefused(f"{bundle} is no release of these documents; do not use it")
            check_archive(trust, known, archive)
            _tell(f"{bundle} is release {known.counter}")
    _print_chain(chain)


def _tell(text: str) -> None:
    """A sentence for a person, on one line however narrow the terminal is, so that digests can be copied."""
    err.print(text, highlight=False, soft_wrap=True)


def _of_one_moment(trust: Trust) -> Chain:
    """The documents as a device verifies them; after a key was replaced the cloud must have signed some anew."""
    try:
        return check_trust(trust)
    except TrustInvalid as exc:
        if len(trust.roots) == 1:
            raise
        raise TrustInvalid(
            f"{exc}; a key was replaced, so give the cloud the new root: ahs-fleet keys publish"
        ) from exc


def _first_release(folder: Path, trust: Trust, package: Package) -> Trust:
    now = datetime.now(UTC)
    target = package.describe(1, now)
    targets = with_release(trust, target, package.archive, load_key(folder / RELEASE_KEY))
    released = resigned(
        trust.model_copy(update={"targets": targets}),
        load_key(folder / ONLINE_KEY),
        now,
        timestamp_for=KIT_TIMESTAMP_FOR,
        snapshot_for=KIT_SNAPSHOT_FOR,
    )
    check_trust(released)
    write_trust(folder / TRUST_NAME, released)
    return released


def _newest_of(chain: Chain, digest: str) -> ReleaseTarget | None:
    return next((target for target in reversed(chain.releases) if target.digest == digest), None)


def _bytes_of(path: Path, limit_bytes: int | None = None) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read() if limit_bytes is None else file.read(limit_bytes + 1)
    except OSError as exc:
        kind = BundleRefused if limit_bytes is None else EvidenceRefused
        raise kind(f"{path} cannot be read: {exc.strerror}") from exc
    return data


def _say(target: ReleaseTarget, before: tuple[ReleaseTarget, ...], *, full: float) -> None:
    known = {chunk.sha256 for other in before for chunk in other.chunks if other.counter != target.counter}
    new_bytes = sum(chunk.size_bytes for chunk in target.chunks if chunk.sha256 not in known)
    _tell(
        f"release {target.counter}: {target.name} {target.version}, {target.size_bytes} bytes, "
        f"of which {new_bytes} are in no release before"
    )
    if full >= TELL_FULL_RATIO:
        _tell(
            f"[bold]{full:.0%}[/] of the room for releases in the signed documents is taken; leave out old ones: "
            "ahs-fleet release prune --keep N"
        )
    if not target.checked:
        _tell("[bold]its self-test was not run[/], and its signed description says so")
    if target.evidence is None:
        _tell("without evidence: it will not leave the bench wave")


def _print_chain(chain: Chain) -> None:
    now = datetime.now(UTC)
    table = Table()
    for column in ("document", "version", "expires"):
        table.add_column(column)
    for role in (chain.root, chain.targets, chain.snapshot, chain.timestamp):
        words = " (expired: no update is installed)" if role.is_expired(now) else ""
        table.add_row(role.type, str(role.version), role.expires.isoformat() + words)
    out.print(table)
    for target in chain.releases:
        out.print(f"{target.counter} {target.name} {target.version} {target.digest}", soft_wrap=True, highlight=False)


@contextmanager
def _told() -> Iterator[None]:
    """What stands in the way, as a sentence and an exit code."""
    try:
        yield
    except KeyProblem as exc:
        _tell(f"[bold red]not done:[/] {escape(str(exc))}")
        raise typer.Exit(EXIT_BAD_INPUT) from exc
    except ReleaseError as exc:
        _tell(f"[bold red]refused:[/] {escape(str(exc))}")
        raise typer.Exit(EXIT_REFUSED) from exc
    except OSError as exc:
        _tell(f"[bold red]not done:[/] {escape(str(exc))}")
        raise typer.Exit(EXIT_BAD_INPUT) from exc
