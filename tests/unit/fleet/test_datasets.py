"""A data set comes to a folder whole, checked, and goes on where it was broken off."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.client import CloudClient, Damaged, LinkDown
from fleet.client.datasets import download_dataset
from fleet.contract.codec import encode
from fleet.contract.dataset import DatasetExport, DatasetFilters, DatasetImage, DatasetInfo

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def picture(name: str) -> bytes:
    return f"\xff\xd8 {name}".encode("latin-1")


def described(number: int, name: str, **changes: object) -> DatasetImage:
    image = DatasetImage(
        id=number,
        file_name=f"{name}.jpg",
        width=320,
        height=240,
        sha256=hashlib.sha256(picture(name)).hexdigest(),
        image_url=f"/v1/second-opinions/{name}/image",
        opinion=name,
        capture_id=f"bench-1/1/{number}",
        device="bench-1",
        captured_at=NOW,
        complete=True,
    )
    return image.model_copy(update=changes)


@dataclass
class Cloud:
    """Serves an export and its pictures; the ones in `away` fail once."""

    images: tuple[DatasetImage, ...] = ()
    pictures: dict[str, bytes] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if path.startswith("/v1/datasets/export"):
            info = DatasetInfo(site="lab-a", filters=DatasetFilters(), labels={}, manifest_sha256="c" * 64)
            return 200, encode(DatasetExport(info=info, categories=(), images=self.images, annotations=()))
        name = path.split("/")[3]
        if name in self.away:
            self.away.remove(name)
            return 503, b""
        return 200, self.pictures.get(name, picture(name))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    state = Cloud(images=(described(1, "one"), described(2, "two"), described(3, "three")))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = state.answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(cloud: Cloud) -> Iterator[CloudClient]:
    with CloudClient(cloud.url, "secret-token", timeout_s=5.0) as opened:
        yield opened


def test_images_and_annotations_lie_in_the_folder(client: CloudClient, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = download_dataset(client, tmp_path / "set", progress=lambda at, total: seen.append((at, total)))
    assert (done.fetched, done.present) == (3, 0)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {p.name: p.read_bytes() for p in (tmp_path / "set" / "images").iterdir()} == {
        f"{name}.jpg": picture(name) for name in ("one", "two", "three")
    }
    document = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert document["info"]["schema"] == "ahs.coco/1"
    assert [image["file_name"] for image in document["images"]] == ["one.jpg", "two.jpg", "three.jpg"]


def test_a_download_that_broke_off_goes_on_where_it_was(cloud: Cloud, client: CloudClient, tmp_path: Path) -> None:
    cloud.away = {"two"}
    with pytest.raises(LinkDown):
        download_dataset(client, tmp_path)
    assert not (tmp_path / "annotations.json").exists()
    cloud.asked.clear()
    done = download_dataset(client, tmp_path)
    assert (done.fetched, done.present) == (2, 1)
    assert [path.split("/")[3] for path in cloud.asked[1:]] == ["two", "three"]


def test_an_image_that_was_damaged_on_the_disk_is_fetched_again(client: CloudClient, tmp_path: Path) -> None:
    download_dataset(client, tmp_path)
    (tmp_path / "images" / "two.jpg").write_bytes(b"half")
    assert download_dataset(client, tmp_path).fetched == 1
    assert (tmp_path / "images" / "two.jpg").read_bytes() == picture("two")


def test_an_image_that_is_not_the_named_one_is_not_kept(cloud: Cloud, client: CloudClient, tmp_path: Path) -> None:
    cloud.pictures["two"] = b"another"
    with pytest.raises(Damaged, match=r"two\.jpg"):
        download_dataset(client, tmp_path)
    assert not (tmp_path / "images" / "two.jpg").exists()
    assert not (tmp_path / "annotations.json").exists()


@pytest.mark.parametrize("name", ["../two.jpg", "a/b.jpg", ".jpg", "two.exe", ""])
def test_a_name_that_leaves_the_folder_is_refused(cloud: Cloud, client: CloudClient, tmp_path: Path, name: str) -> None:
    cloud.images = (described(1, "two", file_name=name),)
    with pytest.raises(Damaged, match="no name of an image"):
        download_dataset(client, tmp_path / "set")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_command_line_tells_what_it_brought(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHS_FLEET_TOKEN", "secret-token")
    monkeypatch.setenv("AHS_FLEET_CLOUD", cloud.url)
    result = CliRunner().invoke(app, ["labels", "export", "--out", str(tmp_path / "set"), "--since", "2026-01-31"])
    assert result.exit_code == 0, result.output
    assert "3 images (3 fetched)" in result.output
    assert cloud.asked[0] == "/v1/datasets/export?since=2026-01-31T00%3A00%3A00.000Z"
