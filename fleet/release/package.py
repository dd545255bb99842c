"""A bundle made ready for release: proven on its golden inputs, packed, described; and the kit a device starts with."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from fleet.contract.codec import WireError, decode, encode
from fleet.contract.release import MAX_RELEASE_BYTES, MAX_TRUST_BYTES, EvidenceRef, ReleaseTarget, Trust
from fleet.release.chunks import cut
from fleet.release.errors import BundleRefused, TrustInvalid
from models.bundle import Bundle, BundleError, Role, pack_zip, read_bundle

TRUST_NAME = "trust.json"
ARCHIVE_NAME = "bundle.zip"


@dataclass(frozen=True, slots=True)
class Package:
    """A bundle as one archive.

    Attributes:
        bundle: verified.
        archive: the same as a zip; equal bundles give equal bytes.
        checked: whether it has passed its self-test here.
    """

    bundle: Bundle
    archive: bytes
    checked: bool

    def describe(self, counter: int, at: datetime, evidence: EvidenceRef | None = None) -> ReleaseTarget:
        """The description that is signed.

        Raises:
            BundleRefused: more than a release may hold.
        """
        manifest = self.bundle.manifest
        try:
            return ReleaseTarget(
                digest=self.bundle.digest,
                name=manifest.name,
                version=manifest.version,
                counter=counter,
                bundle_schema=manifest.schema_,
                size_bytes=len(self.archive),
                chunks=tuple(cut(self.archive)),
                created_at=at.replace(microsecond=0),
                checked=self.checked,
                evidence=evidence,
            )
        except ValidationError as exc:
            raise BundleRefused(f"this bundle cannot be described as a release: {exc.errors()[0]['msg']}") from exc


def make_package(path: Path, *, unchecked: bool = False) -> Package:
    """Reads a bundle, packs it, and runs its self-test on the packed archive.

    Args:
        path: the bundle's folder or zip.
        unchecked: skips the self-test, for drills; the signed description says so.

    Raises:
        BundleRefused: unreadable, not for devices, too large, or it fails its self-test.
    """
    try:
        bundle = read_bundle(path)
        if bundle.manifest.role is not Role.EDGE:
            raise BundleRefused(f"{path} is a bundle for {bundle.manifest.role.value}; devices take bundles for edge")
        with tempfile.TemporaryDirectory(prefix="ahs-release-") as folder:
            packed = Path(folder) / ARCHIVE_NAME
            pack_zip(bundle, packed)
            if packed.stat().st_size > MAX_RELEASE_BYTES:
                raise BundleRefused(f"{path} has more than {MAX_RELEASE_BYTES} bytes; make the bundle smaller")
            if not unchecked:
                _prove(packed, path)
            return Package(bundle, packed.read_bytes(), checked=not unchecked)
    except BundleError as exc:
        raise BundleRefused(str(exc)) from exc


def read_trust(path: Path) -> Trust:
    """A trust message from a file.

    Raises:
        TrustInvalid: there is none; its signatures are for `check_trust`.
    """
    try:
        with path.open("rb") as file:
            # Twice: the file may have been written for people, with more space in it.
            return decode(Trust, file.read(2 * MAX_TRUST_BYTES + 1), limit_bytes=2 * MAX_TRUST_BYTES)
    except FileNotFoundError as exc:
        raise TrustInvalid(f"there is no {path}; give the right folder, or make keys: ahs-fleet keys init") from exc
    except OSError as exc:
        raise TrustInvalid(f"{path} cannot be read: {exc.strerror}") from exc
    except WireError as exc:
        raise TrustInvalid(f"{path} holds no trust documents: {exc}") from exc


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def write_trust(path: Path, trust: Trust) -> None:
    """Writes a trust message whole or not at all."""
    write_whole(path, encode(trust))


def write_kit(folder: Path, trust: Trust, archive: bytes) -> None:
    """Writes what a device starts with: `bundle.zip`, and the `trust.json` that names it."""
    write_whole(folder / ARCHIVE_NAME, archive)
    write_trust(folder / TRUST_NAME, trust)


def _prove(packed: Path, path: Path) -> None:
    # The networks are opened only here: whoever merely reads releases, the cloud among them, needs no runtime.
    from models.runtime import self_test_bundle

    report = self_test_bundle(packed)
    if not report.passed:
        failures = "; ".join(_words(check.name, check.figure, check.detail) for check in report.failures)
        raise BundleRefused(f"{path} fails its self-test: {failures}; build it again, it is not released")


def _words(name: str, figure: float | None, detail: str) -> str:
    measured = "" if figure is None else f" {figure:.4g}"
    return f"{name}{measured}" + (f" ({detail})" if detail else "")
