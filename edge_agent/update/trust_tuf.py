"""What this device trusts: python-tuf's client over the one trust message, and the time it cannot be before.

`refresh` verifies a trust message:

1. it is not larger than is read;
2. python-tuf walks the roots, each signed by the one before and by itself, then timestamp, snapshot and targets, each
   signed, not older than what is on this disk, of one moment, and not expired at the reference time;
3. what is in the targets and reads as a release is a release; of other targets only the names of chunks are kept;
4. the written files are brought to the disk, and the floor of time is raised.

The reference time is the later of the clock and the floor. The floor is the latest time that a signature proves to be
over: when a release was made (signed by the release key), and when the last timestamp was signed (by the online key;
forgotten when the root names another one, so that a stolen online key cannot stop a fleet for good).

A factory kit is verified by the same steps in a folder of its own that is thrown away, with no expiry judged: metadata
that expired on the shelf stops installing, never reading.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Root, TargetFile, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_agent.update.errors import TrustRefused
from fleet.contract.codec import WireError, decode
from fleet.contract.messages import Desired
from fleet.contract.release import MAX_TRUST_BYTES, SIGNED_AT, ReleaseTarget, SignedDesired, Trust, UpdateCode

METADATA = "metadata"
FLOOR = "floor.json"

_BASE_URL = "trust://message/"
_NEVER = datetime.min.replace(tzinfo=UTC)
_MISSHAPEN = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENOTEMPTY}


@dataclass(frozen=True, slots=True)
class Releases:
    """What the trusted targets name.

    Attributes:
        by_key: (digest, counter) -> its signed description.
        online_keyid: the key that signs this fleet's wishes.
        chunks: names of the chunks of all targets, also of those that this program cannot read.
    """

    by_key: Mapping[tuple[str, int], ReleaseTarget]
    online_keyid: str
    chunks: frozenset[str] = frozenset()

    def find(self, digest: str, counter: int) -> ReleaseTarget:
        """One release.

        Raises:
            TrustRefused: (`E_SIG`) nothing signed names it.
        """
        try:
            return self.by_key[digest, counter]
        except KeyError as exc:
            raise TrustRefused(UpdateCode.SIGNATURE, f"no signed release {counter} is {digest}") from exc


class TrustStore:
    """Trusted metadata on disk. Not for several threads, and one instance a folder.

    Args:
        folder: for this store alone; made when absent.
        bootstrap_root: root 1 as it came with the factory kit, the anchor of everything.

    Raises:
        TrustRefused: (`E_SIG`) the bootstrap root is none. (`E_SPACE`) the folder cannot be written.
    """

    def __init__(self, folder: Path, bootstrap_root: bytes) -> None:
        self._folder = folder
        self._bootstrap = bootstrap_root
        with _told():
            _make_folder(self._folder)
            self._sweep()
            self._floor = _Floor.read(folder / FLOOR)
            self._updater, self._releases = self._remembered()
        self._kit: Updater | None = None

    @property
    def releases(self) -> Releases:
        """As of the last refresh, also one before a restart; empty before the first."""
        return self._releases

    def reference_time(self, now: datetime) -> datetime:
        """The later of the clock and the latest time that is proven to be over."""
        return max(now, self._floor.at(self._releases.online_keyid))

    def refresh(self, trust: Trust, now: datetime, *, judge_expiry: bool = True) -> Releases:
        """Verifies a trust message and keeps it; a refused one changes nothing of `releases`, an old kit neither.

        Args:
            trust: as it was received.
            now: this device's clock.
            judge_expiry: False for the factory kit, whose metadata may have expired on the shelf; it is verified apart
                and not compared with, or kept beside, what came later.

        Raises:
            TrustRefused: `E_SIG`, `E_ROLLBACK`, `E_STALE`, `E_LEN`, `E_HASH`, or `E_SPACE` when it cannot be stored.
        """
        documents = _documents(trust)
        with _told():
            if judge_expiry:
                keyid = _online_key(_trusted_root(self._walked(documents))).keyid
                updater = self._refreshed(documents, max(now, self._floor.at(keyid)))
            else:
                with tempfile.TemporaryDirectory(dir=self._folder, prefix="kit-") as scratch:
                    updater = _refreshed(Path(scratch), self._bootstrap, documents, _NEVER)
            releases = _releases_of(updater)
            self._raise_floor(updater, releases)
            _to_disk(self._folder)
        if judge_expiry or _is_newer(updater, self._updater):
            self._updater, self._releases = updater, releases
        else:
            self._kit = updater
        return releases

    def check_archive(self, target: ReleaseTarget, path: Path) -> None:
        """Whether a file is the archive that was signed, by python-tuf's own check of length and hash.

        Raises:
            TrustRefused: `E_LEN`, `E_HASH`; `E_SIG` when no trusted target has this name.
        """
        named = {**(_trusted_targets(self._kit) if self._kit else {}), **_trusted_targets(self._updater)}
        info = named.get(target.path)
        if info is None:
            raise TrustRefused(UpdateCode.SIGNATURE, f"no signed target is named {target.path}")
        with _told():
            size_bytes = path.stat().st_size
            if size_bytes != info.length:
                raise TrustRefused(UpdateCode.LENGTH, f"the archive has {size_bytes} bytes, {info.length} were signed")
            with path.open("rb") as file:
                info.verify_length_and_hashes(file)

    def verify_desired(self, signed: SignedDesired) -> Desired:
        """A wish, after its signature over the raw bytes was verified with the key that the root names.

        Device and version are for the caller to judge.

        Raises:
            TrustRefused: (`E_SIG`) another key, a wrong signature, or no wish.
        """
        root = _trusted_root(self._updater)
        key = _online_key(root)
        data = signed.signed.encode()
        if signed.keyid != key.keyid:
            raise TrustRefused(UpdateCode.SIGNATURE, "the wish is signed by another key than the root names")
        try:
            key.verify_signature(Signature(signed.keyid, signed.signature), data)
        except (UnverifiedSignatureError, VerificationError) as exc:
            raise TrustRefused(UpdateCode.SIGNATURE, "the signature of the wish is wrong") from exc
        try:
            return decode(Desired, data)
        except WireError as exc:
            raise TrustRefused(UpdateCode.SIGNATURE, f"what was signed is no wish: {exc}") from exc

    def _refreshed(self, documents: Mapping[str, bytes], reference: datetime) -> Updater:
        return self._shaped(lambda folder: _refreshed(folder, self._bootstrap, documents, reference))

    def _walked(self, documents: Mapping[str, bytes]) -> Updater:
        """A client that has followed the roots alone: a new root may name a new online key."""
        roots = {name: data for name, data in documents.items() if name.endswith(".root.json")}

        def walk(folder: Path) -> Updater:
            updater = _opened(folder, self._bootstrap, roots, _NEVER)
            with contextlib.suppress(DownloadHTTPError):  # no timestamp is served: here the walk ends
                updater.refresh()
            return updater

        return self._shaped(walk)

    def _shaped(self, act: Callable[[Path], Updater]) -> Updater:
        """Acts in the folder of metadata; one whose shape is broken is made anew from the bootstrap root."""
        folder = self._folder / METADATA
        try:
            return act(folder)
        except OSError as exc:
            if exc.errno not in _MISSHAPEN:
                raise
            _remove(folder)
            return act(folder)

    def _remembered(self) -> tuple[Updater, Releases]:
        """What is on disk, verified again; expiry is not judged, nothing is installed from it alone."""
        try:
            updater = self._refreshed(_kept(self._folder / METADATA), _NEVER)
            return updater, _releases_of(updater)
        except (RepositoryError, DownloadError):
            # Nothing complete is kept (first start, or a kill between two files): the roots are all that is known.
            updater = self._walked({})
            return updater, Releases(MappingProxyType({}), _online_key(_trusted_root(updater)).keyid)

    def _raise_floor(self, updater: Updater, releases: Releases) -> None:
        made = [target.created_at for target in releases.by_key.values()]
        signed_at = _signed_at(updater)
        floor = self._floor.raised(made, signed_at, releases.online_keyid)
        if floor != self._floor:
            floor.write(self._folder / FLOOR)
            self._floor = floor

    def _sweep(self) -> None:
        """Removes what a kill in the middle of a write has left."""
        for left in (*self._folder.glob("kit-*"), *self._folder.glob("tmp*"), *(self._folder / METADATA).glob("tmp*")):
            _remove(left)


@dataclass(frozen=True, slots=True)
class _Floor:
    """The latest times that are proven to be over."""

    release: datetime = _NEVER
    online: datetime = _NEVER
    online_keyid: str = ""

    def at(self, keyid: str) -> datetime:
        return max(self.release, self.online) if keyid == self.online_keyid else self.release

    def raised(self, made: list[datetime], signed_at: datetime | None, keyid: str) -> _Floor:
        online = self.online if keyid == self.online_keyid else _NEVER
        return _Floor(max([self.release, *made]), max(online, signed_at or _NEVER), keyid)

    @classmethod
    def read(cls, path: Path) -> _Floor:
        """A floor that cannot be read counts as none: the versions on disk still stop older metadata."""
        try:
            raw = json.loads(path.read_bytes())
            return cls(_time(raw["release"]), _time(raw["online"]), str(raw["online_keyid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        text = json.dumps(
            {"release": self.release.isoformat(), "online": self.online.isoformat(), "online_keyid": self.online_keyid}
        )
        _remove_if_folder(path)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)


class _Message(FetcherInterface):
    """Serves what is in the trust message; everything else is 404, which also ends the walk over the roots."""

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._documents = documents

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._documents.get(url.removeprefix(_BASE_URL))
        if data is None:
            raise DownloadHTTPError(f"{url} is not in the trust message", 404)
        return iter((data,))


def _documents(trust: Trust) -> dict[str, bytes]:
    """The message's documents by the names that python-tuf asks for.

    Raises:
        TrustRefused: (`E_LEN`) larger than is read.
    """
    named = {f"{version}.root.json": text for version, text in enumerate(trust.roots, start=1)}
    named |= {"timestamp.json": trust.timestamp, "snapshot.json": trust.snapshot, "targets.json": trust.targets}
    documents = {name: text.encode("utf-8", errors="surrogatepass") for name, text in named.items()}
    size_bytes = sum(map(len, documents.values()))
    if size_bytes > MAX_TRUST_BYTES:
        raise TrustRefused(
            UpdateCode.LENGTH, f"the trust message has {size_bytes} bytes, more than {MAX_TRUST_BYTES}; it is not read"
        )
    return documents


def _kept(folder: Path) -> dict[str, bytes]:
    """Documents that an earlier refresh has left on disk."""
    documents = {}
    for name in ("timestamp.json", "snapshot.json", "targets.json"):
        with contextlib.suppress(OSError):
            documents[name] = (folder / name).read_bytes()
    return documents


def _opened(folder: Path, bootstrap: bytes, documents: Mapping[str, bytes], reference: datetime) -> Updater:
    folder.mkdir(parents=True, exist_ok=True)
    limit = MAX_TRUST_BYTES
    config = UpdaterConfig(
        root_max_length=limit, timestamp_max_length=limit, snapshot_max_length=limit, targets_max_length=limit
    )
    updater = Updater(str(folder), _BASE_URL, fetcher=_Message(documents), config=config, bootstrap=bootstrap)
    # python-tuf offers no way to say what time it is, and reads the clock itself: this device's may stand in 1970.
    updater._trusted_set.reference_time = reference
    return updater


def _refreshed(folder: Path, bootstrap: bytes, documents: Mapping[str, bytes], reference: datetime) -> Updater:
    updater = _opened(folder, bootstrap, documents, reference)
    updater.refresh()
    return updater


# What python-tuf has verified is told by its trusted set alone; its public names ask for one target by its name.


def _trusted_root(updater: Updater) -> Root:
    return updater._trusted_set.root


def _trusted_targets(updater: Updater) -> Mapping[str, TargetFile]:
    trusted = updater._trusted_set
    return trusted.targets.targets if "targets" in trusted._trusted_set else {}


def _is_newer(updater: Updater, than: Updater) -> bool:
    return (_trusted_root(updater).version, _targets_version(updater)) > (
        _trusted_root(than).version,
        _targets_version(than),
    )


def _targets_version(updater: Updater) -> int:
    trusted = updater._trusted_set
    return trusted.targets.version if "targets" in trusted._trusted_set else 0


def _signed_at(updater: Updater) -> datetime | None:
    try:
        return _time(updater._trusted_set.timestamp.unrecognized_fields[SIGNED_AT])
    except (KeyError, ValueError, TypeError):
        return None


def _online_key(root: Root) -> Key:
    """The one key of role `timestamp`.

    Raises:
        TrustRefused: (`E_SIG`) there is none.
    """
    keyids = root.roles[Timestamp.type].keyids
    if not keyids or keyids[0] not in root.keys:
        raise TrustRefused(UpdateCode.SIGNATURE, "the root names no online key")
    return root.keys[keyids[0]]


def _releases_of(updater: Updater) -> Releases:
    found = {}
    chunks: set[str] = set()
    for path, info in _trusted_targets(updater).items():
        chunks |= _chunks_of(info.custom)
        try:
            release = ReleaseTarget.model_validate(info.custom)
        except ValidationError:
            continue  # another kind of target, or a release of a newer schema: not for this program
        if release.path == path and release.size_bytes == info.length and "sha256" in info.hashes:
            found[release.digest, release.counter] = release
    return Releases(MappingProxyType(found), _online_key(_trusted_root(updater)).keyid, frozenset(chunks))


def _chunks_of(description: object) -> set[str]:
    """Names of chunks in a signed description of whatever schema: they are sent to all, and devices differ in age."""
    listed = description.get("chunks") if isinstance(description, Mapping) else None
    named = [each.get("sha256") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    return {name for name in named if isinstance(name, str)}


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """python-tuf's errors and the disk's, as codes."""
    try:
        yield
    except ExpiredMetadataError as exc:
        raise TrustRefused(UpdateCode.STALE, f"{exc}; the cloud must sign it again, or this clock is wrong") from exc
    except BadVersionNumberError as exc:
        raise TrustRefused(UpdateCode.ROLLBACK, str(exc) or "an older version than is known here") from exc
    except LengthOrHashMismatchError as exc:
        raise TrustRefused(UpdateCode.HASH, str(exc)) from exc
    except DownloadLengthMismatchError as exc:
        raise TrustRefused(UpdateCode.LENGTH, str(exc)) from exc
    except (RepositoryError, DownloadError, ValueError) as exc:
        # Unsigned, signed by another key, of another type, unreadable: nothing that a key of ours stands for.
        raise TrustRefused(UpdateCode.SIGNATURE, str(exc) or type(exc).__name__) from exc
    except OSError as exc:
        raise TrustRefused(UpdateCode.SPACE, f"cannot be read or stored: {exc.strerror or exc}") from exc


def _make_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        _remove(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _to_disk(folder: Path) -> None:
    """Brings everything under `folder` to the disk: python-tuf renames into place, but does not wait for the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _time(text: object) -> datetime:
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.astimezone(UTC)
