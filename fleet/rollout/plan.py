"""Which device is in which wave. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from fleet.contract.release import WavePlan

DEFAULT_WAVES: tuple[WavePlan, ...] = (
    WavePlan(percent=0.001, least=1),
    WavePlan(percent=5, least=2),
    WavePlan(percent=25, least=1),
    WavePlan(percent=100, least=1),
)
"""One device on the bench, 5 % (at least 2), 25 %, all. In a small fleet the later ones may come to nothing."""

ROUNDING = 1e-9
"""So that 10 % of 30 is 3, whatever binary fractions say."""

_SHOWN = 5


class PlanError(ValueError):
    """The waves cannot be what was meant; whoever asked must say it otherwise."""


def resolve(devices: Sequence[str], waves: Sequence[WavePlan] = ()) -> tuple[tuple[str, ...], ...]:
    """The devices of each wave, in order; each device in exactly one.

    A wave with a percentage takes devices in their given order, passing over those that a later wave names.

    Args:
        devices: all devices of the rollout, in the order in which they are taken.
        waves: none for `DEFAULT_WAVES`, of which those are left out that no device remains for.

    Raises:
        PlanError: no device, a device twice or unknown, a wave without a device, or devices in no wave.
    """
    if not devices:
        raise PlanError("there is no device to roll out to")
    _refuse_repeated(devices, "the devices of the rollout")
    named = [device for wave in waves for device in wave.devices]
    _refuse_repeated(named, "the waves")
    if strangers := [device for device in named if device not in set(devices)]:
        raise PlanError(f"the waves name devices that the rollout does not have: {listed(strangers)}")
    resolved = _fill(devices, waves or DEFAULT_WAVES, reserved=set(named))
    if not waves:
        resolved = [wave for wave in resolved if wave]
    if empty := [index for index, wave in enumerate(resolved) if not wave]:
        raise PlanError(f"no device is left for wave {empty[0]}: give fewer waves, or smaller ones before it")
    if missing := sorted(set(devices) - {device for wave in resolved for device in wave}):
        raise PlanError(f"in no wave: {listed(missing)}; name them, or end with a wave of 100 percent")
    return tuple(resolved)


def share_of(ratio: float, count: int) -> int:
    """A share of a number of devices, rounded up."""
    return math.ceil(ratio * count - ROUNDING)


def listed(devices: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    names = list(devices)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _fill(devices: Sequence[str], waves: Sequence[WavePlan], *, reserved: set[str]) -> list[tuple[str, ...]]:
    free = [device for device in devices if device not in reserved]
    taken = 0
    resolved: list[tuple[str, ...]] = []
    for wave in waves:
        members = wave.devices
        if wave.percent is not None:
            wanted = max(share_of(wave.percent / 100, len(devices)) - taken, wave.least)
            members, free = tuple(free[:wanted]), free[wanted:]
        taken += len(members)
        resolved.append(members)
    return resolved


def _refuse_repeated(devices: Sequence[str], where: str) -> None:
    if repeated := [device for device, times in Counter(devices).items() if times > 1]:
        raise PlanError(f"{where} name a device more than once: {listed(repeated)}")
