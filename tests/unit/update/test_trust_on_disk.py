"""What the device keeps of its trust: restarts, kills between any two files, damage, archives, wishes."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from edge_agent.update.errors import TrustRefused
from edge_agent.update.trust_tuf import FLOOR, METADATA, TrustStore
from fleet.contract.codec import encode
from fleet.contract.messages import Activation, Desired
from fleet.contract.release import SignedDesired, UpdateCode
from fleet.release.keys import sign_desired
from tests.unit.release.release_chain import NOW, ONLINE_ROLES, Fleet, rotated_root

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet.begun().released().released(head=b"head two")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


@pytest.fixture
def store(folder: Path, fleet: Fleet) -> TrustStore:
    opened = TrustStore(folder, fleet.root_bytes)
    opened.refresh(fleet.trust, LATER)
    return opened


def code_of(act: Callable[[], object]) -> UpdateCode:
    with pytest.raises(TrustRefused) as caught:
        act()
    return caught.value.code


# Restart, kill, damage.


def test_releases_are_known_again_after_a_restart_without_a_network(
    store: TrustStore, folder: Path, fleet: Fleet
) -> None:
    again = TrustStore(folder, fleet.root_bytes)
    assert again.releases == store.releases
    path = folder.parent / "archive.zip"
    path.write_bytes(fleet.archives[2])
    again.check_archive(fleet.releases[1], path)


def test_before_the_first_message_nothing_is_known(folder: Path, fleet: Fleet) -> None:
    assert not TrustStore(folder, fleet.root_bytes).releases.by_key


def test_older_versions_are_still_refused_after_a_restart(store: TrustStore, folder: Path, fleet: Fleet) -> None:
    store.refresh(fleet.fresh(LATER).trust, LATER)
    again = TrustStore(folder, fleet.root_bytes)
    assert code_of(lambda: again.refresh(fleet.trust, LATER)) is UpdateCode.ROLLBACK


KILLED_AT = """
import itertools, os, sys
from datetime import datetime
from pathlib import Path
from edge_agent.update.trust_tuf import TrustStore
from fleet.contract.release import Trust

def kill_before(name, number, calls=itertools.count()):
    real = getattr(os, name)
    def call(*args, **kwargs):
        if next(calls) == number:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(os, name, call)

folder, message, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
trust = Trust.model_validate_json(message.read_text())
calls = itertools.count()
for name in ("replace", "symlink", "remove"):
    kill_before(name, number, calls)
store = TrustStore(folder, trust.roots[0].encode())
store.refresh(trust, datetime.fromisoformat(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_kill_before_any_write_leaves_a_store_that_goes_on(folder: Path, tmp_path: Path, fleet: Fleet) -> None:
    new_root = rotated_root(fleet.trust.roots[0], (fleet.keys.root,), new={})
    later = fleet.released(head=b"head three").trust
    later = later.model_copy(update={"roots": (*later.roots, new_root)})
    TrustStore(folder, fleet.root_bytes).refresh(fleet.trust, LATER)
    message, kept = tmp_path / "later.json", tmp_path / "kept"
    message.write_text(later.model_dump_json())
    shutil.copytree(folder, kept, symlinks=True)
    root = Path(__file__).resolve().parents[3]
    for number in itertools.count():
        shutil.rmtree(folder)
        shutil.copytree(kept, folder, symlinks=True)
        arguments = [str(folder), str(message), str(number), LATER.isoformat()]
        child = subprocess.run(
            [sys.executable, "-c", KILLED_AT, *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            timeout=60,
            check=False,
        )
        again = TrustStore(folder, fleet.root_bytes)
        assert len(again.refresh(later, LATER).by_key) == 3
        assert code_of(partial(again.refresh, fleet.trust, LATER)) is UpdateCode.ROLLBACK
        assert not list(folder.rglob("tmp*"))
        if child.returncode == 0:
            break
        assert child.returncode == -9
    assert number > 8


def damaged(folder: Path) -> list[Callable[[], object]]:
    """Ways to spoil the folder."""
    metadata = folder / METADATA

    def fill(path: Path, data: bytes) -> None:
        path.unlink()
        path.write_bytes(data)

    def into_folder(path: Path) -> None:
        path.unlink()
        (path / "x").mkdir(parents=True)

    def into_file(path: Path) -> None:
        shutil.rmtree(path)
        path.write_bytes(b"")

    def into_loop(path: Path) -> None:
        shutil.rmtree(path)
        path.symlink_to(path)

    names = ("timestamp.json", "snapshot.json", "targets.json", "root.json", "root_history/1.root.json")
    return [
        *(partial(fill, metadata / name, data) for name in names for data in (b"", b"\0" * 99)),
        *(partial(into_folder, metadata / name) for name in names),
        lambda: into_file(metadata),
        lambda: into_loop(metadata),
        lambda: into_file(metadata / "root_history"),
        lambda: shutil.rmtree(folder),
        lambda: into_file(folder),
        lambda: fill(folder / FLOOR, b"\xff"),
        lambda: fill(folder / FLOOR, b'{"release": 3}'),
        lambda: into_folder(folder / FLOOR),
    ]


@pytest.mark.parametrize("number", range(len(damaged(Path()))))
def test_a_damaged_folder_is_built_anew_from_the_first_root(
    store: TrustStore, folder: Path, fleet: Fleet, number: int
) -> None:
    known = store.releases
    damaged(folder)[number]()
    again = TrustStore(folder, fleet.root_bytes)
    assert again.refresh(fleet.fresh(LATER).trust, LATER) == known
    assert TrustStore(folder, fleet.root_bytes).releases == known


def test_damage_under_a_running_store_is_mended_too(store: TrustStore, folder: Path, fleet: Fleet) -> None:
    shutil.rmtree(folder / METADATA)
    (folder / METADATA).write_bytes(b"")
    assert len(store.refresh(fleet.fresh(LATER).trust, LATER).by_key) == 2


def test_a_place_that_cannot_be_written_is_a_lack_of_space(tmp_path: Path, fleet: Fleet) -> None:
    # A file where the parent folder should be: nothing can be made there, whoever asks.
    (tmp_path / "file").write_bytes(b"")
    assert code_of(lambda: TrustStore(tmp_path / "file" / "trust", fleet.root_bytes)) is UpdateCode.SPACE


# Archives.


def test_the_archive_that_was_signed_passes(store: TrustStore, tmp_path: Path, fleet: Fleet) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(fleet.archives[1])
    store.check_archive(fleet.releases[0], path)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: data[:-1], UpdateCode.LENGTH),
        (lambda data: data + b"\0", UpdateCode.LENGTH),
        (lambda data: b"", UpdateCode.LENGTH),
        (lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:], UpdateCode.HASH),
        (lambda data: data[::-1], UpdateCode.HASH),
    ],
)
def test_another_archive_is_refused(
    store: TrustStore, tmp_path: Path, fleet: Fleet, spoil: Callable[[bytes], bytes], code: UpdateCode
) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(spoil(fleet.archives[1]))
    assert code_of(lambda: store.check_archive(fleet.releases[0], path)) is code


def test_the_archive_of_another_release_is_refused(store: TrustStore, tmp_path: Path, fleet: Fleet) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(fleet.archives[1])
    assert code_of(lambda: store.check_archive(fleet.releases[1], path)) in (UpdateCode.LENGTH, UpdateCode.HASH)


def test_an_archive_that_nobody_signed_is_refused(store: TrustStore, tmp_path: Path) -> None:
    stranger = Fleet.begun().released(head=b"strange")
    path = tmp_path / "archive.zip"
    path.write_bytes(stranger.archives[1])
    assert code_of(lambda: store.check_archive(stranger.releases[0], path)) is UpdateCode.SIGNATURE


def test_a_kit_is_checked_also_when_later_releases_are_known(store: TrustStore, tmp_path: Path, fleet: Fleet) -> None:
    store.refresh(fleet.released(head=b"head three").trust, LATER)
    store.refresh(fleet.trust, datetime(2060, 1, 1, tzinfo=UTC), judge_expiry=False)
    path = tmp_path / "archive.zip"
    path.write_bytes(fleet.archives[1])
    store.check_archive(fleet.releases[0], path)


# Wishes.


def wish(version: int = 3, device: str = "bench-1") -> Desired:
    digest = "sha256:" + "a" * 64
    return Desired(device=device, version=version, release=digest, counter=2, activation=Activation.ACTIVATE)


def test_a_wish_signed_by_the_online_key_is_read(store: TrustStore, fleet: Fleet) -> None:
    assert store.verify_desired(sign_desired(fleet.keys.online, wish())) == wish()


def test_a_wish_is_read_after_a_restart_before_any_message(folder: Path, store: TrustStore, fleet: Fleet) -> None:
    again = TrustStore(folder, fleet.root_bytes)
    assert again.verify_desired(sign_desired(fleet.keys.online, wish())) == wish()


def test_a_changed_wish_is_refused(store: TrustStore, fleet: Fleet) -> None:
    signed = sign_desired(fleet.keys.online, wish())
    other = signed.model_copy(update={"signed": encode(wish(version=4)).decode()})
    spaced = signed.model_copy(update={"signed": signed.signed + " "})
    for bad in (other, spaced, signed.model_copy(update={"signature": "0" * 128})):
        assert code_of(partial(store.verify_desired, bad)) is UpdateCode.SIGNATURE


@pytest.mark.parametrize("key", ["root", "release"])
def test_a_wish_of_another_roles_key_is_refused(store: TrustStore, fleet: Fleet, key: str) -> None:
    signed = sign_desired(getattr(fleet.keys, key), wish())
    renamed = signed.model_copy(update={"keyid": fleet.keys.online.public_key.keyid})
    for bad in (signed, renamed):
        assert code_of(partial(store.verify_desired, bad)) is UpdateCode.SIGNATURE


def test_a_signed_timestamp_is_no_wish(store: TrustStore, fleet: Fleet) -> None:
    text = b'{"_type":"timestamp","version":9}'
    signature = fleet.keys.online.sign(text)
    signed = SignedDesired(signed=text.decode(), keyid=signature.keyid, signature=signature.signature)
    assert code_of(lambda: store.verify_desired(signed)) is UpdateCode.SIGNATURE


def test_after_a_rotation_a_wish_of_the_old_online_key_is_refused(
    store: TrustStore, folder: Path, fleet: Fleet
) -> None:
    new = CryptoSigner.generate_ed25519()
    root = rotated_root(fleet.trust.roots[0], (fleet.keys.root,), new=dict.fromkeys(ONLINE_ROLES, new))
    keys = type(fleet.keys)(fleet.keys.root, fleet.keys.release, new)
    trust = fleet.trust.model_copy(update={"roots": (*fleet.trust.roots, root)})
    store.refresh(Fleet(keys, trust, fleet.archives).fresh(LATER).trust, LATER)
    for opened in (store, TrustStore(folder, fleet.root_bytes)):
        assert opened.verify_desired(sign_desired(new, wish())) == wish()
        old = sign_desired(fleet.keys.online, wish())
        assert code_of(partial(opened.verify_desired, old)) is UpdateCode.SIGNATURE
