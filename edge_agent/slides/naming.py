"""Names of slides: the technician's own, and the pseudonym that leaves the workstation. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

_PSEUDONYM_DIGITS = 16


def pseudonym(name: str, *, salt: bytes) -> str:
    """What a slide is called on the wire: not to be turned back without the workstation's own salt."""
    return "s-" + hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:_PSEUDONYM_DIGITS]


def free_name(wanted: str, taken: Collection[str]) -> tuple[int, str]:
    """1 and `wanted`, or 2 and `wanted-2`, 3 and `wanted-3`, ... when that slide was read and closed before."""
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return number, name
