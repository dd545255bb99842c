"""One file over HTTP into a folder: resumed where it was cut, verified before it gets its name.

The only door to httpx in training.

1. What is there already lies in `NAME.part`; `NAME.part.json` says of which version of the resource it is.
2. The rest is asked for by range, on the condition that the resource is still that version; a server that cannot do
   ranges, or has another version, sends the whole again.
3. What is cut, refused for a while (429, 5xx) or unreachable is tried again after a pause, as long as it goes on.
4. Length and SHA-256 are compared, the file is synced and renamed; a wrong one is deleted, never kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from training.errors import DataError

MAX_BYTES = 8 * 1024**3
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_VALIDATORS = {"etag": "ETag", "modified": "Last-Modified"}

Progress = Callable[[int, int | None], None]
"""Bytes that are there, and of how many, where the server says."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: tries in a row that bring no byte.
        pause_s: before the second try; doubled for each further one.
        longest_pause_s: also for what the server asks for by Retry-After.
        read_s: without a byte, after which a connection counts as cut.
    """

    attempts: int = 6
    pause_s: float = 2.0
    longest_pause_s: float = 120.0
    read_s: float = 60.0


class _Cut(Exception):
    """The transfer ended before its end; `wait_s` is what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _quiet(have: int, total: int | None) -> None:
    """Says nothing."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    patience: Patience | None = None,
    progress: Progress = _quiet,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Bring `url` to `target`, which is there afterwards, whole and verified.

    A target that is there already is kept if it has the wanted SHA-256, or if none is wanted.

    Returns:
        its SHA-256.

    Raises:
        DataError: refused, not there, cut too often, no space, or another SHA-256 than the wanted one.
    """
    patience = patience or Patience()
    if target.is_file():
        measured = file_sha256(target)
        if sha256 in (None, measured):
            return measured
        target.unlink()
    part = target.with_name(target.name + ".part")
    with _disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    timeout = httpx.Timeout(patience.read_s, connect=min(30.0, patience.read_s))
    failed = 0
    with httpx.Client(follow_redirects=True, timeout=timeout, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            before = _size(part)
            try:
                _transfer(client, url, part, progress)
                break
            except (_Cut, httpx.TransportError) as exc:
                failed = 1 if _size(part) > before else failed + 1
                if failed >= patience.attempts:
                    raise DataError(
                        f"{url}: {exc or type(exc).__name__} ({failed} tries in a row without a byte); the "
                        f"{_size(part)} bytes that have arrived are kept, and the same command goes on there"
                    ) from exc
                wait_s = exc.wait_s if isinstance(exc, _Cut) and exc.wait_s is not None else None
                usual_s = patience.pause_s * 2 ** (failed - 1)
                sleep(min(patience.longest_pause_s, usual_s if wait_s is None else wait_s))
    return _accept(url, part, target, sha256)


def _accept(url: str, part: Path, target: Path, sha256: str | None) -> str:
    measured = file_sha256(part)
    if sha256 is not None and measured != sha256:
        part.unlink()
        _version_file(part).unlink(missing_ok=True)
        raise DataError(
            f"{url}: has the SHA-256 {measured}, not {sha256}: it was damaged or exchanged on the way; it was deleted, "
            "try again, and if it stays so, do not use that source"
        )
    with _disk(target), part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(target)
    _version_file(part).unlink(missing_ok=True)
    return measured


def _transfer(client: httpx.Client, url: str, part: Path, progress: Progress) -> None:
    """One request; returns when the whole is there.

    Raises:
        _Cut, httpx.TransportError: try again.
        DataError: no use trying again.
    """
    have = _size(part)
    version = _version(part)
    headers = {}
    if have and version:
        headers = {"Range": f"bytes={have}-", "If-Range": version}
    with client.stream("GET", url, headers=headers) as answer:
        if url.startswith("https:") and answer.url.scheme != "https":
            raise DataError(f"{url}: leads to {answer.url}, which is not encrypted; it was not fetched")
        if answer.status_code in TRANSIENT:
            raise _Cut(f"the server answers {answer.status_code}", _retry_after(answer))
        if answer.status_code == 416:
            _forget(part)  # More is here than there is there: not the same resource.
            raise _Cut("the server has less than what is here; starting again")
        if answer.status_code not in (200, 206):
            raise DataError(f"{url}: the server answers {answer.status_code} {answer.reason_phrase}; check the address")
        total = _total(answer)
        if answer.status_code == 206 and _start(answer) != have:
            _forget(part)
            raise _Cut("the server sends another range than the one asked for; starting again")
        if answer.status_code == 200:
            have = 0
        if total is not None and total > MAX_BYTES:
            raise DataError(f"{url}: has {total} bytes, more than the {MAX_BYTES} that are fetched")
        _receive(answer, part, have, total, progress)


def _receive(answer: httpx.Response, part: Path, have: int, total: int | None, progress: Progress) -> None:
    with _disk(part), part.open("ab" if have else "wb") as stream:
        if not have:
            _remember(part, answer)
        progress(have, total)
        for block in answer.iter_raw():  # As it comes: a block that is waited for would be lost in a cut.
            stream.write(block)
            have += len(block)
            if have > (MAX_BYTES if total is None else total):
                raise DataError(f"{answer.url}: sends more than the {total or MAX_BYTES} bytes it should have")
            progress(have, total)
    if total is not None and have < total:
        raise _Cut(f"the transfer was cut at {have} of {total} bytes")


def _total(answer: httpx.Response) -> int | None:
    if answer.status_code == 206:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _start(answer: httpx.Response) -> int | None:
    start = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _retry_after(answer: httpx.Response) -> float | None:
    value = answer.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, answer: httpx.Response) -> None:
    said = {key: answer.headers.get(header, "") for key, header in _VALIDATORS.items()}
    _version_file(part).write_text(json.dumps(said), encoding="utf-8")


def _version(part: Path) -> str:
    """What If-Range may say: a strong entity tag, or else the date; "" where there is neither."""
    try:
        said = json.loads(_version_file(part).read_text(encoding="utf-8"))
        tag, date = str(said["etag"]), str(said["modified"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return date if not tag or tag.startswith("W/") else tag


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DataError(f"{path}: cannot be written ({exc.strerror}); what has arrived is kept") from exc
