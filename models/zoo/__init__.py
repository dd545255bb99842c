"""The bundles that ship with the program, one a role."""

from __future__ import annotations

from pathlib import Path

from models.bundle.manifest import Role

_ROOT = Path(__file__).resolve().parent


class ZooError(Exception):
    """No bundle of this role ships with this installation."""


def shipped(role: str | Role) -> Path:
    """Directory of the newest shipped bundle of a role.

    Args:
        role: `edge` or `second-opinion`.

    Raises:
        ZooError: unknown role, or none is installed.
    """
    try:
        wanted = Role(role)
    except ValueError as exc:
        raise ZooError(f"there is no role {role!r}; choose one of {', '.join(Role)}") from exc
    found = [path for path in _ROOT.glob(f"{wanted}-*") if (path / "manifest.json").is_file()]
    if not found:
        raise ZooError(f"no {wanted} bundle is installed; train one with `ahs-train`, or give a bundle's path")
    return max(found, key=_version)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in path.name.rsplit("-", 1)[-1].split("."))
