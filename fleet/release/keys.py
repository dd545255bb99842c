"""The three keys: who holds them, how they lie on disk, and what the online key signs beside TUF.

root.key     names all other keys; offline, used at the beginning and when a key is changed
release.key  signs releases (TUF role `targets`); stays with the operator, never goes to the cloud
online.key   signs `snapshot`, `timestamp` and each device's wish; given to the cloud
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fleet.contract.codec import encode
from fleet.contract.messages import Desired
from fleet.contract.release import SignedDesired
from fleet.release.errors import KeyExists, KeyMissing, KeyUnreadable

ROOT_KEY = "root.key"
RELEASE_KEY = "release.key"
ONLINE_KEY = "online.key"

MAX_KEY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Keys:
    """All three, as only the operator has them."""

    root: CryptoSigner
    release: CryptoSigner
    online: CryptoSigner


def make_key() -> CryptoSigner:
    """A new Ed25519 key."""
    return CryptoSigner.generate_ed25519()


def make_keys() -> Keys:
    """Three new Ed25519 keys."""
    return Keys(*(make_key() for _ in range(3)))


def save_keys(folder: Path, keys: Keys) -> None:
    """Writes root.key, release.key and online.key, readable by their owner alone.

    Raises:
        KeyExists: one of them is there; nothing is written.
    """
    files = {ROOT_KEY: keys.root, RELEASE_KEY: keys.release, ONLINE_KEY: keys.online}
    for name in files:
        if (folder / name).exists():
            raise KeyExists(f"{folder / name} is there already and is not overwritten; give another folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, signer in files.items():
        save_key(folder / name, signer)


def save_key(path: Path, signer: CryptoSigner) -> None:
    """Writes one private key as PEM, mode 0600.

    Raises:
        KeyExists: there is a file of that name.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise KeyExists(f"{path} is there already and is not overwritten; give another folder") from exc
    with os.fdopen(descriptor, "wb") as file:
        file.write(signer.private_bytes)
        file.flush()
        os.fsync(file.fileno())


def load_keys(folder: Path) -> Keys:
    """All three keys of a folder.

    Raises:
        KeyMissing, KeyUnreadable: which file, and what to do.
    """
    return Keys(*(load_key(folder / name) for name in (ROOT_KEY, RELEASE_KEY, ONLINE_KEY)))


def load_key(path: Path) -> CryptoSigner:
    """One private key.

    Raises:
        KeyMissing: no such file.
        KeyUnreadable: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except FileNotFoundError as exc:
        raise KeyMissing(f"there is no key {path}; give the right folder, or make keys: ahs-fleet keys init") from exc
    except OSError as exc:
        raise KeyUnreadable(f"the key {path} cannot be read: {exc.strerror}") from exc
    try:
        key = load_pem_private_key(data[:MAX_KEY_BYTES], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise KeyUnreadable(f"{path} is no private key in PEM; give the file that was made") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadable(f"{path} is not an Ed25519 key; give the file that ahs-fleet keys init made")
    return CryptoSigner(key)


def sign_desired(online_signer: CryptoSigner, desired: Desired) -> SignedDesired:
    """A device's wish, signed over exactly the bytes that are sent.

    The online key also signs TUF documents. Those name their `_type` and no device, a wish names a device and no
    `_type`, so that neither can be taken for the other.
    """
    text = encode(desired)
    signature = online_signer.sign(text)
    return SignedDesired(signed=text.decode(), keyid=signature.keyid, signature=signature.signature)
