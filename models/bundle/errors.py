"""What can be wrong with a bundle, by who must act.

BundleError
├── BundleMissingError        nothing there: give the right path, or install a bundle
├── BundleCorruptError        bytes differ from the manifest, or the container is unsafe: fetch it again
│   └── BundleEscapeError     a name in it reaches out of the bundle: nobody makes that by accident
├── BundleIncompatibleError   intact, but this program does not know its schema: update one of the two
└── BundleWriteError          the bundle cannot be written as asked: correct the input
"""

from __future__ import annotations


class BundleError(Exception):
    """Root of everything this package raises."""


class BundleMissingError(BundleError):
    """There is no bundle at the path."""


class BundleCorruptError(BundleError):
    """The bytes are not the ones the manifest names, or the container must not be trusted."""


class BundleEscapeError(BundleCorruptError):
    """A name in the container or its manifest leads out of the bundle's root."""


class BundleIncompatibleError(BundleError):
    """The manifest follows a schema that this program does not know."""


class BundleWriteError(BundleError):
    """The bundle cannot be written as asked."""
