"""Names of the MQTT topics. One prefix, one place; the directions are the ACL."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "ahs/1"
TRUST = f"{PREFIX}/trust"
HOST_STATE = f"{PREFIX}/host/state"
ALL_UP = f"{PREFIX}/d/+/up/#"

_DEVICE = re.compile(r"^[a-z0-9][a-z0-9-]{1,62}$")
_UP = re.compile(rf"^{PREFIX}/d/(?P<device>[a-z0-9][a-z0-9-]{{1,62}})/up/(?P<kind>[a-z_]+)(?:/(?P<item>[^/]+))?$")
_DOWN = re.compile(rf"^{PREFIX}/d/(?P<device>[a-z0-9][a-z0-9-]{{1,62}})/down/(?P<kind>[a-z_]+)(?:/(?P<item>[^/]+))?$")


class DeviceTopic(NamedTuple):
    """A topic taken apart: `ahs/1/d/{device}/up|down/{kind}[/{item}]`."""

    device: str
    kind: str
    item: str | None


def _check(device: str) -> str:
    if not _DEVICE.match(device):
        raise ValueError(f"device id {device!r}: use 2 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
    return device


def up(device: str, kind: str, item: str | None = None) -> str:
    """Topic a device publishes on; ValueError for a device id that would break the ACL."""
    return f"{PREFIX}/d/{_check(device)}/up/{kind}" + (f"/{item}" if item else "")


def down(device: str, kind: str, item: str | None = None) -> str:
    """Topic a device receives on."""
    return f"{PREFIX}/d/{_check(device)}/down/{kind}" + (f"/{item}" if item else "")


def all_down(device: str) -> str:
    """Filter for everything that is meant for one device."""
    return f"{PREFIX}/d/{_check(device)}/down/#"


def chunk(sha256: str) -> str:
    """Topic of one chunk of a release."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("a chunk is named by 64 hex digits")
    return f"{PREFIX}/chunk/{sha256}"


def parse_up(topic: str) -> DeviceTopic | None:
    """Takes a device's topic apart; None when it is not one."""
    match = _UP.match(topic)
    return DeviceTopic(match["device"], match["kind"], match["item"]) if match else None


def parse_down(topic: str) -> DeviceTopic | None:
    """Takes a topic towards a device apart; None when it is not one."""
    match = _DOWN.match(topic)
    return DeviceTopic(match["device"], match["kind"], match["item"]) if match else None
