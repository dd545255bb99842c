"""What stands in the way of a release, by who must act. Each text says what to do.

ReleaseError
├── KeyProblem          the operator gives the right keys
│   ├── KeyMissing      no such key file
│   ├── KeyExists       a key would be overwritten, which is never done
│   ├── KeyUnreadable   the file is no Ed25519 private key
│   └── WrongKey        a key, but not the one that the root names for this role
├── TrustInvalid        the trust documents do not prove themselves: do not use them, find out where they come from
├── TargetsRefused      new targets that break a numbered check: correct them and sign again
├── BundleRefused       the bundle, or the archive it came in, cannot be released: build it again
└── EvidenceRefused     the evaluation is unreadable, about another model, or says no: evaluate the bundle
"""

from __future__ import annotations


class ReleaseError(Exception):
    """Root of everything this package raises."""


class KeyProblem(ReleaseError):
    """Something is wrong with a private key."""


class KeyMissing(KeyProblem):
    """There is no such key file."""


class KeyExists(KeyProblem):
    """A file is there already; keys are never overwritten."""


class KeyUnreadable(KeyProblem):
    """The file is not an Ed25519 private key in PEM."""


class WrongKey(KeyProblem):
    """The trusted root names another key for this role."""


class TrustInvalid(ReleaseError):
    """The trust documents are damaged, or not signed by whom the root names."""


class TargetsRefused(ReleaseError):
    """New targets break a check.

    Attributes:
        check: its number in `check_new_targets`.
    """

    def __init__(self, check: int, text: str) -> None:
        super().__init__(f"check {check}: {text}")
        self.check = check


class BundleRefused(ReleaseError):
    """The bundle or its archive cannot be released."""


class EvidenceRefused(ReleaseError):
    """The evidence does not speak for this bundle."""
