"""What a model is on disk: manifest, reading, writing, checking."""

from models.bundle.archive import Bundle, pack_zip, read_bundle, write_bundle
from models.bundle.errors import (
    BundleCorruptError,
    BundleError,
    BundleEscapeError,
    BundleIncompatibleError,
    BundleMissingError,
    BundleWriteError,
)
from models.bundle.manifest import (
    UNIDENTIFIED,
    BundleManifest,
    CellClass,
    DetectorSpec,
    EmbedderSpec,
    HeadSpec,
    Role,
    WhiteCellType,
)

__all__ = [
    "UNIDENTIFIED",
    "Bundle",
    "BundleCorruptError",
    "BundleError",
    "BundleEscapeError",
    "BundleIncompatibleError",
    "BundleManifest",
    "BundleMissingError",
    "BundleWriteError",
    "CellClass",
    "DetectorSpec",
    "EmbedderSpec",
    "HeadSpec",
    "Role",
    "WhiteCellType",
    "pack_zip",
    "read_bundle",
    "write_bundle",
]
