"""A key is replaced on disk: killed at each step, the next run finds key and documents that belong together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from fleet.release.documents import trusted_root
from fleet.release.keys import ROOT_KEY, load_key, make_key, make_keys, save_keys
from fleet.release.package import TRUST_NAME, read_trust, write_trust
from fleet.release.replacing import finish_replacement, replace_files
from fleet.release.repository import first_trust
from fleet.release.rotation import ROLES, KeyRole, replaced


class Killed(Exception):
    """The program ended here."""


@pytest.mark.parametrize("role", list(KeyRole))
@pytest.mark.parametrize("kill_at", range(1, 6))
def test_killed_at_each_step_key_and_documents_belong_together_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: KeyRole, kill_at: int
) -> None:
    folder, made = tmp_path / "keys", make_keys()
    save_keys(folder, made)
    write_trust(folder / TRUST_NAME, first_trust(made, datetime.now(UTC)))
    steps = 0

    def killed(act: str) -> None:
        real = getattr(Path, act)

        def step(self: Path, target: Path) -> Path:
            nonlocal steps
            steps += 1
            if steps == kill_at:
                raise Killed
            moved: Path = real(self, target)
            return moved

        monkeypatch.setattr(Path, act, step)

    def replace_key() -> None:
        new, trust = make_key(), read_trust(folder / TRUST_NAME)
        root = load_key(folder / ROOT_KEY)
        replace_files(folder, role, new, replaced(trust, role, root=root, new=new, now=datetime.now(UTC)))

    with monkeypatch.context() as patched:
        assert patched is not None
        killed("rename")
        killed("replace")
        if kill_at < 5:
            with pytest.raises(Killed):
                replace_key()
        else:
            replace_key()
    monkeypatch.undo()
    finished = finish_replacement(folder)
    assert (finished is role) == (1 < kill_at < 5)
    if kill_at == 1:
        replace_key()
    root, key = trusted_root(read_trust(folder / TRUST_NAME)), load_key(folder / f"{role.value}.key")
    assert all(root.roles[name].keyids == [key.public_key.keyid] for name in ROLES[role])
    assert root.version == 2
    assert not list(folder.glob("*.new"))
    assert Targets.type in root.roles
