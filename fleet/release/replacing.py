"""The files of a replaced key: key and documents change together, also when the program is killed in between.

1. the new key is written beside the old one (`online.key.new`);
2. the new documents are written beside the old ones (`trust.json.new`): from here on the replacement is done, and only
   has to be finished;
3. the old key gets its other name, the new key its own, and then the documents theirs.
"""

from __future__ import annotations

from pathlib import Path

from securesystemslib.signer import CryptoSigner

from fleet.contract.release import Trust
from fleet.release.errors import KeyExists
from fleet.release.keys import save_key
from fleet.release.package import TRUST_NAME, read_trust, write_trust
from fleet.release.rotation import KeyRole

_NEW = ".new"


def replace_files(folder: Path, role: KeyRole, new: CryptoSigner, after: Trust) -> None:
    """Puts a new key and the documents that name it in place; the old key stays under another name.

    Raises:
        KeyExists: there is a file of that other name.
    """
    path = folder / f"{role.value}.key"
    old = _old(path, after)
    if old.exists():
        raise KeyExists(f"{old} is there already and is not overwritten; move it away")
    save_key(_new(path), new)
    write_trust(_new(folder / TRUST_NAME), after)
    finish_replacement(folder)


def finish_replacement(folder: Path) -> KeyRole | None:
    """Finishes a replacement that was cut short, or takes back one that had hardly begun.

    Returns:
        Whose key it was; None when nothing had to be finished.
    """
    trust = folder / TRUST_NAME
    begun = [role for role in KeyRole if _new(folder / f"{role.value}.key").exists()]
    if not _new(trust).exists():
        for role in begun:  # no document names it: it never was a key
            _new(folder / f"{role.value}.key").unlink()
        return None
    after = read_trust(_new(trust))
    for role in begun:
        path = folder / f"{role.value}.key"
        if path.exists() and not _old(path, after).exists():
            path.rename(_old(path, after))
        _new(path).rename(path)
    done = [role for role in KeyRole if role in begun or _old(folder / f"{role.value}.key", after).exists()]
    _new(trust).rename(trust)
    return done[0] if done else None


def _new(path: Path) -> Path:
    return path.with_name(path.name + _NEW)


def _old(path: Path, after: Trust) -> Path:
    return path.with_name(f"{path.name}.until-root-{len(after.roots)}")
