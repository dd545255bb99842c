"""Names of the MQTT topics. One prefix, one place; the directions are the ACL."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "ahs/1"
TRUST = f"{PREFIX}/trust"
HOST_STATE = f"{PREFIX}/host/state"
ALL_CHUNKS = f"{PREFIX}/chunk/+"
ALL_UP = f"{PREFIX}/d/+/up/#"

_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
_KIND = re.compile(r"[a-z_]{1,32}")
_ITEM = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_CHUNK = re.compile(rf"{PREFIX}/chunk/([0-9a-f]{{64}})")
_UP = re.compile(rf"{PREFIX}/d/({_DEVICE.pattern})/up/({_KIND.pattern})(?:/({_ITEM.pattern}))?")
_DOWN = re.compile(rf"{PREFIX}/d/({_DEVICE.pattern})/down/({_KIND.pattern})(?:/({_ITEM.pattern}))?")


class DeviceTopic(NamedTuple):
    """A topic taken apart: `ahs/1/d/{device}/up|down/{kind}[/{item}]`."""

    device: str
    kind: str
    item: str | None


def _check(device: str) -> str:
    if not _DEVICE.fullmatch(device):
        raise ValueError(f"device id {device!r}: use 2 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
    return device


def _tail(kind: str, item: str | None) -> str:
    if not _KIND.fullmatch(kind) or not (item is None or _ITEM.fullmatch(item)):
        raise ValueError(f"topic .../{kind}/{item}: a kind is lower-case letters, an item letters, digits and '._:-'")
    return kind if item is None else f"{kind}/{item}"


def up(device: str, kind: str, item: str | None = None) -> str:
    """Topic a device publishes on; ValueError for a name that would reach beyond it."""
    return f"{PREFIX}/d/{_check(device)}/up/{_tail(kind, item)}"


def down(device: str, kind: str, item: str | None = None) -> str:
    """Topic a device receives on; ValueError for a name that would reach beyond it."""
    return f"{PREFIX}/d/{_check(device)}/down/{_tail(kind, item)}"


def publish_filters(device: str) -> tuple[str, ...]:
    """What a broker lets this device publish."""
    return (f"{PREFIX}/d/{_check(device)}/up/#",)


def receive_filters(device: str) -> tuple[str, ...]:
    """What a broker lets this device receive."""
    return (all_down(device), TRUST, ALL_CHUNKS, HOST_STATE)


def all_down(device: str) -> str:
    """Filter for everything that is meant for one device."""
    return f"{PREFIX}/d/{_check(device)}/down/#"


def chunk(sha256: str) -> str:
    """Topic of one chunk of a release."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("a chunk is named by 64 hex digits")
    return f"{PREFIX}/chunk/{sha256}"


def parse_chunk(topic: str) -> str | None:
    """The hash that a chunk's topic names; None when it is not one."""
    match = _CHUNK.fullmatch(topic)
    return match[1] if match else None


def parse_up(topic: str) -> DeviceTopic | None:
    """Takes a device's topic apart; None when it is not one."""
    match = _UP.fullmatch(topic)
    return DeviceTopic(*match.groups()) if match else None


def parse_down(topic: str) -> DeviceTopic | None:
    """Takes a topic towards a device apart; None when it is not one."""
    match = _DOWN.fullmatch(topic)
    return DeviceTopic(*match.groups()) if match else None
