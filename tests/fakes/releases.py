"""Small real bundles, released with real keys: what an operator's machine makes."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fleet.contract.base import JsonObject
from fleet.contract.release import EvidenceRef, ReleaseTarget, Trust
from fleet.release.chunks import cut
from fleet.release.evidence import reference
from fleet.release.keys import ONLINE_KEY, Keys, load_keys, make_keys, save_keys
from fleet.release.repository import first_trust, releases_of, resigned, with_release
from models.bundle import pack_zip, write_bundle
from tests.fakes.evaluations import evidence_bytes

_FIELDS: dict[str, Any] = {
    "name": "plain",
    "role": "edge",
    "created": "2026-01-01",
    "licence": "MIT",
    "detector": {"input_px": 320, "thresholds": {"RBC": 0.5, "WBC": 0.5, "Platelets": 0.5}},
    "embedder": {"input_px": 64, "dimensions": 8, "window_rbc": 2.0, "window_box": 1.4},
    "head": {"accept_probability": 0.8},
    "provenance": {"trained_on": [], "recipe": "none", "seed": 1},
}
DETECTOR = random.Random(1).randbytes(256_000)
"""Four chunks that all releases share."""


@dataclass(frozen=True)
class Offered:
    """A release as it is sent to the cloud."""

    target: ReleaseTarget
    targets: str
    archive: bytes
    evidence: bytes | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """The multipart form."""
        found: dict[str, Any] = {
            "targets": (None, self.targets, "application/json"),
            "archive": ("bundle.zip", self.archive, "application/zip"),
        }
        if self.evidence is not None:
            found["evidence"] = ("evidence.json", self.evidence, "application/json")
        return found


class ReleaseDesk:
    """An operator with the offline keys; `folder` gets the key files.

    Args:
        at: when the first trust is signed.
    """

    def __init__(self, folder: Path, *, at: datetime | None = None) -> None:
        self.folder = folder
        save_keys(folder, make_keys())
        self.keys: Keys = load_keys(folder)
        self.factory = self._factory(at or datetime.now(UTC))

    @property
    def online_key_file(self) -> Path:
        """For the cloud's settings."""
        return self.folder / ONLINE_KEY

    @property
    def trust(self) -> Trust:
        """`trust.json` of the factory kit: one release."""
        return self.factory[0]

    def _factory(self, at: datetime) -> tuple[Trust, bytes]:
        empty = first_trust(self.keys, at)
        offered = self.offer(empty, at=at)
        trust = empty.model_copy(update={"targets": offered.targets})
        fresh = resigned(trust, self.keys.online, at, timestamp_for=timedelta(days=3), snapshot_for=timedelta(days=7))
        return fresh, offered.archive

    def offer(
        self,
        trust: Trust,
        *,
        at: datetime | None = None,
        evidence: bool = False,
        signer: Any = None,
        head: bytes | None = None,
        forged: JsonObject | None = None,
        champion: int = 1,
    ) -> Offered:
        """The next release on top of a trust; each has a head of its own and the same detector.

        Args:
            forged: what is written over the evidence's fields, and signed as accepted without a look.
            champion: counter of the release that the evidence compares with.
        """
        counter = max((release.counter for release in releases_of(trust)), default=0) + 1
        version = f"1.{counter}.0"
        archive, digest = bundle_zip(version, head or f"head {counter}".encode())
        named = document = None
        if evidence or forged is not None:
            compared = next(release for release in releases_of(trust) if release.counter == champion)
            document = evidence_bytes(digest, compared.digest, **(forged or {}))
            named = reference(document, digest) if forged is None else _unread(document)
        target = _target(archive, digest, counter, version, at, named)
        targets = with_release(trust, target, archive, signer or self.keys.release)
        return Offered(target, targets, archive, document)


def bundle_zip(version: str, head: bytes) -> tuple[bytes, str]:
    """A bundle as one zip, and its digest."""
    files = {
        "detector.onnx": DETECTOR,
        "embedder.onnx": b"embedder",
        "head.npz": head,
        "card.md": b"# Card\n",
        "golden/expected.json": b"{}",
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", {**_FIELDS, "version": version}, files)
        pack_zip(bundle, Path(folder) / "bundle.zip")
        return (Path(folder) / "bundle.zip").read_bytes(), bundle.digest


def _unread(document: bytes) -> EvidenceRef:
    said = json.loads(document)
    sha256 = hashlib.sha256(document).hexdigest()
    return EvidenceRef(sha256=sha256, champion=said["champion"], frozen_set=said["frozen_set"], accepted=True)


def _target(
    archive: bytes, digest: str, counter: int, version: str, at: datetime | None, evidence: EvidenceRef | None
) -> ReleaseTarget:
    return ReleaseTarget(
        digest=digest,
        name="plain",
        version=version,
        counter=counter,
        bundle_schema="ahs.bundle/1",
        size_bytes=len(archive),
        chunks=tuple(cut(archive)),
        created_at=at or datetime.now(UTC),
        checked=True,
        evidence=evidence,
    )
