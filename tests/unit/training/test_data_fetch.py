"""Public sets: what arrives is compared with what is pinned, laid out for training, or refused whole."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.runtime.imaging import decode_image, encode_jpeg
from tests.fakes.file_server import FileServer, serving
from training.cli import app
from training.data.archives import git_blob, members
from training.data.coco import read_split
from training.data.download import Patience, Progress
from training.data.fetch import fetch, forget_archives, is_fetched
from training.data.generated import generated_example
from training.data.near_copies import fingerprint
from training.data.pinned import FOLDER, KEY_DIGITS, Pin, Pins, as_pinned, listing_sha256, load_pins, manifest_text
from training.data.places import data_root, fetched_root
from training.data.public_sets import BUILDERS
from training.data.sources import Sources, load_sources
from training.errors import DataError
from training.terminal import console

runner = CliRunner()
SOURCES = load_sources()
ROOT = "TXL-PBC_Dataset-056d09e/TXL_PBC"
LABELS = "0 0.500000 0.500000 0.250000 0.250000\n1 0.200000 0.200000 0.100000 0.100000\n1 0.2 0.2 0.1 0.1\n"
"""A white cell, and a red cell that stands there twice, in the source's order of classes."""


def picture(seed: int) -> bytes:
    return encode_jpeg(generated_example(seed, width_px=160, height_px=120).image)


PICTURES = {
    f"{split}/{split}-{n}": picture(960 + 3 * n + m)
    for m, split in enumerate(("train", "val", "test"))
    for n in range(2)
}


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def source_files() -> dict[str, bytes]:
    files = {f"{ROOT}/images/{place}.jpg": content for place, content in PICTURES.items()}
    files |= {f"{ROOT}/labels/{place}.txt": LABELS.encode() for place in PICTURES}
    return files | {f"{ROOT}/images/train/unpinned.jpg": picture(999), f"{ROOT}/labels/train/unpinned.txt": b"9 9 9\n"}


@pytest.fixture(scope="module")
def pins() -> Pins:
    """The test split's first picture is of the same group as one of train."""
    blobs = {place: git_blob(content) for place, content in PICTURES.items()}
    groups = {place: "g" if place in ("train/train-0", "test/test-0") else place for place in PICTURES}
    by_key = {blob[:KEY_DIGITS]: Pin((1, 1, 0), groups[place], "made") for place, blob in blobs.items()}
    return Pins("det_txl", listing_sha256(blobs.values()), by_key)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AHS_DATA_DIR", raising=False)
    with serving(FileServer({SOURCES.archives["txl"].file: tarred(source_files())})) as made:
        yield made


def quiet(_: str) -> Progress:
    return lambda have, total: None


def got(server: FileServer, pins: Pins, sources: Sources = SOURCES) -> Path:
    return fetch("det_txl", sources, mirror=server.url, pins=pins, progress=quiet, patience=Patience(pause_s=0)).folder


def test_a_set_is_fetched_laid_out_and_found_by_training(server: FileServer, pins: Pins) -> None:
    folder = got(server, pins)
    assert data_root() == folder.parent
    fields = read_split(data_root() / "det_txl", "train")
    assert [(f.path.name, f.source, f.width_px) for f in fields] == [(f"train-{n}.jpg", "made", 160) for n in range(2)]
    assert fields[0].boxes.tolist() == [[60, 45, 100, 75], [24, 18, 40, 30]]
    assert fields[0].labels.tolist() == [1, 0]
    assert [f.path.name for f in read_split(folder, "test_clean")] == ["test-1.jpg"]
    assert all((folder / "images" / f"{place}.jpg").read_bytes() == content for place, content in PICTURES.items())
    origin = json.loads((folder / ".origin.json").read_text(encoding="utf-8"))
    assert origin["licence"] == "MIT"
    assert len(origin["archives"][0]["sha256"]) == 64


def test_a_set_that_is_there_is_not_fetched_again(server: FileServer, pins: Pins) -> None:
    got(server, pins)
    asked = len(server.asked)
    assert fetch("det_txl", SOURCES, mirror=server.url, pins=pins, progress=quiet).anew is False
    assert len(server.asked) == asked


def test_a_cut_download_goes_on_and_the_set_is_made(server: FileServer, pins: Pins) -> None:
    server.cut_at = [5_000]
    assert is_fetched(got(server, pins).name)
    assert server.asked[1][0] == "bytes=5000-"


def test_a_set_is_compared_with_what_is_pinned(server: FileServer, pins: Pins) -> None:
    paths = sorted((got(server, pins) / "images").rglob("*.jpg"))
    assert as_pinned(pins, paths) == (6, 0)
    paths[0].write_bytes(picture(1))
    assert as_pinned(pins, paths) == (5, 1)
    look = int(fingerprint(decode_image(picture(2))).hashes[0])
    by_look = Pins("wbc_site_b", "", {paths[0].stem: Pin((1,), "", "", look), paths[1].stem: Pin((1,), "", "", look)})
    paths[0].write_bytes(encode_jpeg(decode_image(picture(2)), 60))
    assert as_pinned(by_look, paths[:2]) == (1, 1)


Change = Callable[[dict[str, bytes]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop(f"{ROOT}/images/val/val-1.jpg"), "1 of 6 pinned pictures are not in the archive"),
        (lambda f: f.update({f"{ROOT}/images/val/val-1.jpg": picture(1)}), "1 of 6 pinned pictures"),
        (lambda f: f.update({f"{ROOT}/labels/val/val-1.txt": b""}), r"has \(0, 0, 0\) boxes, pinned are \(1, 1, 0\)"),
        (lambda f: f.update({f"{ROOT}/labels/val/val-1.txt": b"0 1\n"}), "line 1: has 2 columns"),
        (lambda f: f.clear(), "6 of 6 pinned pictures"),
    ],
)
def test_what_is_not_as_pinned_is_refused_whole(server: FileServer, pins: Pins, change: Change, words: str) -> None:
    files = source_files()
    change(files)
    server.files[SOURCES.archives["txl"].file] = tarred(files)
    with pytest.raises(DataError, match=words):
        got(server, pins)
    assert not is_fetched("det_txl")
    assert list(fetched_root().iterdir()) == []


def test_contents_that_begin_alike_are_told_apart_by_the_hash_over_all(server: FileServer, pins: Pins) -> None:
    with pytest.raises(DataError, match=r"contents are [0-9a-f]{64}, pinned are 0000"):
        got(server, replace(pins, sha256="0" * 64))


def test_what_is_no_archive_is_refused(server: FileServer, pins: Pins) -> None:
    server.files[SOURCES.archives["txl"].file] = b"<html>Sign in to continue</html>"
    with pytest.raises(DataError, match="cannot be read as an archive"):
        got(server, pins)


def test_a_name_that_climbs_out_of_the_archive_is_written_nowhere(
    server: FileServer, pins: Pins, tmp_path: Path
) -> None:
    files = source_files() | {
        "../../../climbed/TXL_PBC/images/train/../../x.jpg": b"x",
        "/abs/TXL_PBC/labels/val/y.txt": b"y",
    }
    server.files[SOURCES.archives["txl"].file] = tarred(files)
    got(server, pins)
    assert not list(tmp_path.rglob("climbed"))
    assert not list(tmp_path.rglob("y.txt"))
    assert not Path("/abs").exists()


def test_a_folder_that_was_not_fetched_is_never_replaced(server: FileServer, pins: Pins, tmp_path: Path) -> None:
    mine = tmp_path / "cache" / "ahs" / "data" / "det_txl"
    mine.mkdir(parents=True)
    (mine / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DataError, match="was not fetched; move it away"):
        got(server, pins)
    assert (mine / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_archives_are_forgotten_on_request(server: FileServer, pins: Pins, tmp_path: Path) -> None:
    got(server, pins)
    assert len(list((tmp_path / "cache" / "ahs" / "downloads").iterdir())) == 1
    forget_archives(["det_txl"], SOURCES)
    assert list((tmp_path / "cache" / "ahs" / "downloads").iterdir()) == []


def test_a_zip_in_a_zip_is_gone_through_too(tmp_path: Path) -> None:
    inner, outer = io.BytesIO(), tmp_path / "outer.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a/b.jpg", b"inside")
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("data.zip", inner.getvalue())
        archive.writestr("c.txt", b"beside")
    assert dict(members(outer)) == {"a/b.jpg": b"inside", "c.txt": b"beside"}


def test_the_command_refuses_another_source_and_names_what_there_is(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = runner.invoke(app, ["data", "fetch", "det_txl", "--mirror", server.url])
    assert said.exit_code == 1
    assert "1259 of 1259 pinned pictures are not in the archive" in said.output
    unknown = runner.invoke(app, ["data", "fetch", "moon"])
    assert unknown.exit_code == 1
    assert "is no public set; there are det_txl, det_bccd, wbc_pbc" in unknown.output
    # The terminal's width was read when the console was made; a narrow one wraps the words that are looked for.
    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(console, "_height", 50)
    listed = runner.invoke(app, ["data", "list"])
    assert listed.exit_code == 0
    assert listed.output.count("not here: data fetch") == len(SOURCES.sets)


def test_every_public_set_has_a_builder_and_a_list_of_pins() -> None:
    assert set(SOURCES.sets) == BUILDERS
    for name in SOURCES.sets:
        assert load_pins(name).by_key
    assert {p.stem for p in FOLDER.glob("*.txt")} == BUILDERS


@pytest.mark.data
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "wbc_site_b" else n for n in sorted(BUILDERS)]
)
def test_the_lists_say_what_lies_in_the_data_folder(name: str) -> None:
    folder = data_root() / name
    if not folder.is_dir():
        pytest.skip(f"needs {name}")
    assert manifest_text(name, folder) == (FOLDER / f"{name}.txt").read_text(encoding="ascii")
