"""Downloads over real sockets: cut, refused, exchanged, without ranges; what arrives is whole or not there."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.file_server import FileServer, serving
from training.data.download import Patience, download
from training.errors import DataError

CONTENT = np.random.default_rng(0).bytes(1_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=4, pause_s=2.0, longest_pause_s=120.0, read_s=30.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer({"set.tar": CONTENT})) as made:
        yield made


class Pauses(list[float]):
    """Pauses that were asked for and not waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetched(server: FileServer, target: Path, pauses: Pauses, sha256: str | None = DIGEST) -> str:
    return download(f"{server.url}/set.tar", target, sha256=sha256, patience=QUICK, sleep=pauses)


def test_a_file_arrives_whole_and_says_how_far_it_is(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "set.tar"
    measured = download(f"{server.url}/set.tar", target, progress=lambda have, total: seen.append((have, total)))
    assert measured == DIGEST
    assert target.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in target.parent.iterdir()] == ["set.tar"]


def test_a_cut_transfer_goes_on_where_it_was_cut(server: FileServer, tmp_path: Path) -> None:
    server.cut_at = [300_000, 500_000]
    pauses = Pauses()
    fetched(server, tmp_path / "set.tar", pauses)
    assert (tmp_path / "set.tar").read_bytes() == CONTENT
    assert server.asked == [("", ""), ("bytes=300000-", '"v1"'), ("bytes=800000-", '"v1"')]
    assert pauses == [2.0, 2.0]


def test_a_program_that_was_killed_goes_on_next_time(server: FileServer, tmp_path: Path) -> None:
    server.cut_at = [400_000, 0, 0, 0]
    with pytest.raises(DataError, match="the 400000 bytes that have arrived are kept, and the same command goes"):
        fetched(server, tmp_path / "set.tar", Pauses())
    assert not (tmp_path / "set.tar").exists()
    assert (tmp_path / "set.tar.part").stat().st_size == 400_000
    fetched(server, tmp_path / "set.tar", Pauses())
    assert server.asked[-1] == ("bytes=400000-", '"v1"')
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_another_version_of_the_file_is_never_joined_to_the_first(server: FileServer, tmp_path: Path) -> None:
    server.cut_at = [400_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetched(server, tmp_path / "set.tar", Pauses())
    other = CONTENT[::-1]
    server.files["set.tar"], server.tag = other, '"v2"'
    fetched(server, tmp_path / "set.tar", Pauses(), hashlib.sha256(other).hexdigest())
    assert (tmp_path / "set.tar").read_bytes() == other


def test_a_server_without_ranges_sends_the_whole_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_at = [300_000]
    fetched(server, tmp_path / "set.tar", Pauses())
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_without_a_version_nothing_is_asked_for_by_range(server: FileServer, tmp_path: Path) -> None:
    server.tag = ""
    server.cut_at = [300_000]
    fetched(server, tmp_path / "set.tar", Pauses())
    assert server.asked == [("", ""), ("", "")]
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has the SHA-256 {DIGEST}, not {'0' * 64}"):
        fetched(server, tmp_path / "set.tar", Pauses(), "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_more_here_than_there_starts_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "set.tar.part").write_bytes(CONTENT + b"more")
    (tmp_path / "set.tar.part.json").write_text('{"etag": "\\"v1\\"", "modified": ""}', encoding="utf-8")
    fetched(server, tmp_path / "set.tar", Pauses())
    assert (tmp_path / "set.tar").read_bytes() == CONTENT


def test_a_busy_server_is_waited_for_as_long_as_it_asks(server: FileServer, tmp_path: Path) -> None:
    server.refuse = [(503, "7"), (429, "9999"), (503, "")]
    pauses = Pauses()
    fetched(server, tmp_path / "set.tar", pauses)
    assert pauses == [7.0, QUICK.longest_pause_s, 8.0]


def test_a_date_in_retry_after_is_understood(server: FileServer, tmp_path: Path) -> None:
    server.refuse = [(503, format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))]
    pauses = Pauses()
    fetched(server, tmp_path / "set.tar", pauses)
    assert 0 < pauses[0] <= 100


def test_a_server_that_stays_busy_is_given_up_with_what_to_do(server: FileServer, tmp_path: Path) -> None:
    server.refuse = [(503, "1")] * 4
    with pytest.raises(DataError, match=r"the server answers 503 .4 tries in a row"):
        fetched(server, tmp_path / "set.tar", Pauses())
    assert len(server.asked) == 4


def test_a_refusal_is_not_tried_again(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answers 404 Not Found; check the address"):
        download(f"{server.url}/absent", tmp_path / "x", patience=QUICK, sleep=Pauses())
    assert len(server.asked) == 1


def test_nobody_listening_is_given_up_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/set.tar"
        with pytest.raises(DataError, match="4 tries in a row without a byte"):
            download(url, tmp_path / "set.tar", patience=QUICK, sleep=Pauses())


def test_what_is_there_is_kept_if_it_is_right_and_fetched_again_if_not(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "set.tar"
    target.write_bytes(CONTENT)
    fetched(server, target, Pauses())
    assert server.asked == []
    target.write_bytes(b"damaged")
    fetched(server, target, Pauses())
    assert target.read_bytes() == CONTENT


def test_a_place_that_cannot_be_written_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be written"):
        fetched(server, tmp_path / "file" / "set.tar", Pauses())
