"""A truthful fleet in memory: real keys, real documents, small real bundles; and one edit to break it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleet.contract.release import EvidenceRef, ReleaseTarget, Trust
from fleet.release.chunks import cut
from fleet.release.documents import text_of
from fleet.release.keys import Keys, make_keys
from fleet.release.repository import first_trust, releases_of, resigned, with_release
from models.bundle import pack_zip, write_bundle

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMESTAMP_FOR = timedelta(hours=24)
SNAPSHOT_FOR = timedelta(days=3)

FIELDS: dict[str, Any] = {
    "name": "plain",
    "version": "1.0.0",
    "role": "edge",
    "created": "2026-01-01",
    "licence": "MIT",
    "detector": {"input_px": 320, "thresholds": {"RBC": 0.5, "WBC": 0.5, "Platelets": 0.5}},
    "embedder": {"input_px": 64, "dimensions": 8, "window_rbc": 2.0, "window_box": 1.4},
    "head": {"accept_probability": 0.8},
    "provenance": {"trained_on": [], "recipe": "none", "seed": 1},
}
DETECTOR = bytes(range(256)) * 700
"""Longer than two chunks."""


def bundle_files(head: bytes = b"head one") -> dict[str, bytes]:
    return {
        "detector.onnx": DETECTOR,
        "embedder.onnx": b"embedder",
        "head.npz": head,
        "card.md": b"# Card\n",
        "golden/expected.json": b"{}",
    }


def archive_of(*, version: str = "1.0.0", files: Mapping[str, bytes] | None = None) -> tuple[bytes, str]:
    """A bundle as one zip, and its digest."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", {**FIELDS, "version": version}, files or bundle_files())
        pack_zip(bundle, Path(folder) / "bundle.zip")
        return (Path(folder) / "bundle.zip").read_bytes(), bundle.digest


def describe(
    archive: bytes,
    digest: str,
    *,
    counter: int,
    version: str = "1.0.0",
    at: datetime = NOW,
    evidence: EvidenceRef | None = None,
) -> ReleaseTarget:
    return ReleaseTarget(
        digest=digest,
        name="plain",
        version=version,
        counter=counter,
        bundle_schema="ahs.bundle/1",
        size_bytes=len(archive),
        chunks=tuple(cut(archive)),
        created_at=at,
        checked=True,
        evidence=evidence,
    )


@dataclass(frozen=True)
class Fleet:
    """Keys and the trust as the cloud has it; each step gives a new one."""

    keys: Keys
    trust: Trust
    archives: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def begun(cls, at: datetime = NOW) -> Fleet:
        keys = make_keys()
        return cls(keys, first_trust(keys, at))

    @property
    def releases(self) -> tuple[ReleaseTarget, ...]:
        return releases_of(self.trust)

    @property
    def root_bytes(self) -> bytes:
        return self.trust.roots[0].encode()

    def next_targets(self, *, head: bytes = b"head one", at: datetime = NOW) -> tuple[str, bytes]:
        """New targets with one more release, and its archive."""
        counter = len(self.archives) + 1
        version = f"1.{counter}.0"
        archive, digest = archive_of(version=version, files=bundle_files(head))
        target = describe(archive, digest, counter=counter, version=version, at=at)
        return with_release(self.trust, target, archive, self.keys.release), archive

    def released(self, *, head: bytes = b"head one", at: datetime = NOW) -> Fleet:
        targets, archive = self.next_targets(head=head, at=at)
        archives = {**self.archives, len(self.archives) + 1: archive}
        return replace(self, trust=self.trust.model_copy(update={"targets": targets}), archives=archives).fresh(at)

    def fresh(self, at: datetime = NOW) -> Fleet:
        """Snapshot and timestamp signed again."""
        trust = resigned(self.trust, self.keys.online, at, timestamp_for=TIMESTAMP_FOR, snapshot_for=SNAPSHOT_FOR)
        return replace(self, trust=trust)


def edited(text: str, signer: CryptoSigner | None, change: Callable[[Any], object] = lambda signed: None) -> str:
    """A document after `change` of its signed part, signed by `signer` alone; None keeps the old signatures."""
    document: Metadata[Any] = Metadata.from_bytes(text.encode())
    change(document.signed)
    if signer is not None:
        document.sign(signer)
    return text_of(document)


def rotated_root(
    text: str,
    signers: tuple[CryptoSigner, ...],
    *,
    new: Mapping[str, CryptoSigner],
) -> str:
    """The next root: each role in `new` (role name -> its new key) changes its key; signed by `signers`."""
    document: Metadata[Root] = Metadata.from_bytes(text.encode())
    root = document.signed
    root.version += 1
    for role, signer in new.items():
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(signer.public_key, role)
    document.signatures.clear()
    for signer in signers:
        document.sign(signer, append=True)
    return text_of(document)


ONLINE_ROLES = (Snapshot.type, Timestamp.type)
RELEASE_ROLE = Targets.type
