"""Reading, verifying, writing and packing bundles."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import (
    Bundle,
    BundleCorruptError,
    BundleError,
    BundleEscapeError,
    BundleIncompatibleError,
    BundleMissingError,
    BundleWriteError,
    pack_zip,
    read_bundle,
    write_bundle,
)
from models.bundle.canonical import MAX_FILES, check_path

FIELDS: dict[str, Any] = {
    "name": "plain",
    "version": "1.2.3",
    "role": "edge",
    "created": "2025-01-01",
    "licence": "MIT",
    "detector": {"input_px": 320, "thresholds": {"RBC": 0.5, "WBC": 0.5, "Platelets": 0.5}},
    "embedder": {"input_px": 64, "dimensions": 8, "window_rbc": 2.0, "window_box": 1.4},
    "head": {"accept_probability": 0.8},
    "provenance": {"trained_on": [], "recipe": "none", "seed": 1},
}
FILES = {
    "detector.onnx": b"detector",
    "embedder.onnx": b"embedder",
    "head.npz": b"head",
    "card.md": b"# Card\n",
    "golden/expected.json": b"{}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "plain-1.2.3", FIELDS, FILES)
    return tmp_path / "plain-1.2.3"


def test_what_was_written_is_read_back(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert dict(bundle.files) == FILES
    assert bundle.manifest.version == "1.2.3"
    assert bundle.digest.startswith("sha256:")
    assert len(bundle.digest) == len("sha256:") + 64


def test_the_same_content_has_the_same_digest_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    again = write_bundle(tmp_path / "elsewhere", FIELDS, dict(reversed(FILES.items())))
    assert again.digest == read_bundle(folder).digest


def test_another_weight_gives_another_digest(folder: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", FIELDS, {**FILES, "detector.onnx": b"Detector"})
    assert other.digest != read_bundle(folder).digest


def test_packing_twice_gives_the_same_bytes_and_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    pack_zip(bundle, tmp_path / "a.zip")
    os.utime(folder / "card.md", (1, 1))
    pack_zip(read_bundle(folder), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    packed = read_bundle(tmp_path / "a.zip")
    assert packed.digest == bundle.digest
    assert dict(packed.files) == dict(bundle.files)


def test_an_older_bundle_in_the_same_place_is_replaced_as_a_whole(folder: Path) -> None:
    (folder / "stale.bin").write_bytes(b"left over")
    fresh = write_bundle(folder, {**FIELDS, "version": "1.2.4"}, {**FILES, "card.md": b"new"})
    assert fresh.manifest.version == "1.2.4"
    assert not (folder / "stale.bin").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleWriteError, match="no bundle"):
        write_bundle(tmp_path, FIELDS, FILES)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_fields_no_reader_would_accept_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleWriteError, match="accept_probability"):
        write_bundle(tmp_path / "x", {**FIELDS, "head": {"accept_probability": 1.5}}, FILES)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd", "a//b", "./a", "manifest.json"])
def test_a_path_that_leaves_the_bundle_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleWriteError, match="safe path"):
        write_bundle(tmp_path / "x", FIELDS, {**FILES, name: b"evil"})


def _truncate(folder: Path) -> None:
    (folder / "detector.onnx").write_bytes(b"detect")


def _swap_byte(folder: Path) -> None:
    (folder / "detector.onnx").write_bytes(b"detectoR")


def _lengthen(folder: Path) -> None:
    (folder / "detector.onnx").write_bytes(b"detector and more")


def _remove(folder: Path) -> None:
    (folder / "head.npz").unlink()


def _add(folder: Path) -> None:
    (folder / "golden" / "extra.so").write_bytes(b"unlisted")


def _link(folder: Path) -> None:
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/hostname")


def _link_folder(folder: Path) -> None:
    (folder / "more").symlink_to("/etc", target_is_directory=True)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _edit_by_hand(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text + "\n")


def _garble(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\x00\xff{")


def _nest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    text = json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text)


def _escape(folder: Path) -> None:
    _rewrite(folder, lambda raw: raw["files"][0].update(path="../card.md"))


def _list_twice(folder: Path) -> None:
    _rewrite(folder, lambda raw: raw["files"].append({**raw["files"][0], "path": "CARD.md"}))


def _claim_terabytes(folder: Path) -> None:
    _rewrite(folder, lambda raw: raw["files"][0].update(size_bytes=10**12))


def _unlist_detector(folder: Path) -> None:
    (folder / "detector.onnx").unlink()
    _rewrite(folder, lambda raw: raw.update(files=[f for f in raw["files"] if f["path"] != "detector.onnx"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "has 6 bytes, the manifest says 8"),
        (_swap_byte, "not the file the manifest names"),
        (_lengthen, "more than the 8 bytes"),
        (_remove, "absent"),
        (_add, "not listed"),
        (_link, "is a link"),
        (_link_folder, "is a link"),
        (_pipe, "no plain file"),
        (_edit_by_hand, "canonical"),
        (_garble, "not JSON"),
        (_nest, "not JSON"),
        (_escape, "safe path"),
        (_list_twice, "listed twice"),
        (_claim_terabytes, "more than"),
        (_unlist_detector, "lacks detector.onnx"),
    ],
)
def test_a_damaged_bundle_is_refused_and_the_message_names_it(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    read_bundle(folder)
    damage(folder)
    with pytest.raises(BundleCorruptError, match=message) as caught:
        read_bundle(folder)
    assert str(folder) in str(caught.value)


def test_nothing_at_the_path_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match="give the path"):
        read_bundle(tmp_path / "absent")
    with pytest.raises(BundleMissingError, match=r"no manifest\.json"):
        read_bundle(tmp_path)


def test_a_newer_schema_is_incompatible_not_corrupt(folder: Path) -> None:
    _rewrite(folder, lambda raw: raw.update(schema="ahs.bundle/2"))
    with pytest.raises(BundleIncompatibleError, match="update the program"):
        read_bundle(folder)


def test_a_field_nobody_knows_is_incompatible(folder: Path) -> None:
    _rewrite(folder, lambda raw: raw["detector"].update(colour_space="lab"))
    with pytest.raises(BundleIncompatibleError, match=r"detector\.colour_space"):
        read_bundle(folder)


def _zip(path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for info, data in entries:
            file.writestr(info, data)
    return path


def test_a_link_inside_a_zip_is_refused(folder: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("card.md")
    link.external_attr = 0o120777 << 16
    manifest = zipfile.ZipInfo("manifest.json")
    path = _zip(tmp_path / "x.zip", [(manifest, (folder / "manifest.json").read_bytes()), (link, b"/etc/passwd")])
    with pytest.raises(BundleCorruptError, match="no plain file"):
        read_bundle(path)


@pytest.mark.parametrize("name", ["../evil.py", "golden/../../evil.py", "/etc/passwd", "..\\evil.py", "C:evil.py"])
def test_a_name_that_reaches_out_of_the_bundle_is_told_apart_from_damage(
    folder: Path, tmp_path: Path, name: str
) -> None:
    whole = tmp_path / "whole.zip"
    pack_zip(read_bundle(folder), whole)
    with zipfile.ZipFile(whole, "a") as opened:
        opened.writestr(name, b"print('out')")
    with pytest.raises(BundleEscapeError, match="reaches out of it"):
        read_bundle(whole)


@pytest.mark.parametrize("name", ["../evil.py", "golden/../../evil.py", "/etc/passwd"])
def test_so_is_one_that_the_manifest_lists(folder: Path, name: str) -> None:
    _rewrite(folder, lambda raw: raw["files"][0].update(path=name))
    with pytest.raises(BundleEscapeError, match="reaches out of it"):
        read_bundle(folder)


def test_a_zip_that_unpacks_to_more_than_it_lists_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "manifest.json", "manifest.json")
        for name, data in FILES.items():
            file.writestr(name, b"\0" * 50_000_000 if name == "detector.onnx" else data)
    with pytest.raises(BundleCorruptError, match="more than the 8 bytes"):
        read_bundle(path)


def test_a_truncated_zip_and_a_file_that_is_no_zip_are_refused(folder: Path, tmp_path: Path) -> None:
    pack_zip(read_bundle(folder), tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("hello")
    for name in ("cut.zip", "text.zip"):
        with pytest.raises(BundleCorruptError, match="zip"):
            read_bundle(tmp_path / name)


def test_a_zip_with_a_flipped_bit_is_refused(folder: Path, tmp_path: Path) -> None:
    pack_zip(read_bundle(folder), tmp_path / "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"detector", data.index(b"detector.onnx") + 13)] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BundleCorruptError):
        read_bundle(tmp_path / "a.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_whatever_bit_of_a_zip_flips_it_is_whole_or_refused_in_our_words(
    folder: Path, tmp_path: Path, method: int
) -> None:
    path, files = tmp_path / "a.zip", dict(read_bundle(folder).files)
    with zipfile.ZipFile(path, "w", method) as file:
        for found in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(found, found.relative_to(folder).as_posix())
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            assert dict(read_bundle(path).files) == files
        except BundleError:
            refused += 1
    assert refused > len(whole) // 6


def test_a_zip_packed_in_another_way_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.write(folder / "manifest.json", "manifest.json")
    with pytest.raises(BundleCorruptError, match="packed in another way"):
        read_bundle(path)


def test_too_many_files_are_refused_before_they_are_read(folder: Path) -> None:
    for number in range(MAX_FILES + 2):
        (folder / f"{number}.bin").touch()
    with pytest.raises(BundleCorruptError, match="more than"):
        read_bundle(folder)


_NAMES = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}\.bin", fullmatch=True)


@given(extra=st.dictionaries(_NAMES, st.binary(max_size=200), max_size=5))
def test_any_files_come_back_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, extra: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("any")
    written: Bundle = write_bundle(root / "bundle", FIELDS, {**FILES, **extra})
    pack_zip(written, root / "bundle.zip")
    for place in (root / "bundle", root / "bundle.zip"):
        bundle = read_bundle(place)
        assert dict(bundle.files) == {**FILES, **extra}
        assert bundle.digest == written.digest


@given(path=st.text(alphabet="ab./\\", min_size=1, max_size=12))
def test_no_accepted_path_leaves_its_root(path: str) -> None:
    try:
        check_path(path)
    except BundleCorruptError:
        return
    root = Path("/root/of/bundle")
    assert Path(os.path.normpath(root / path)).is_relative_to(root)
