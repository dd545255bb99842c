"""Who asks, and what a role may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cloud.errors import Forbidden


class Role(StrEnum):
    """What a principal is there for; stored strings, never renamed."""

    DEVICE = "device"
    VIEWER = "viewer"
    TECHNICIAN = "technician"
    REVIEWER = "reviewer"
    ENGINEER = "engineer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SYSTEM = "system"


class Permission(StrEnum):
    """What a route asks for."""

    ASK_OPINION = "ask_opinion"
    READ_OPINIONS = "read_opinions"
    READ_DEVICES = "read_devices"
    MANAGE_DEVICES = "manage_devices"
    READ_AUDIT = "read_audit"
    LABEL = "label"
    EXPORT_DATASET = "export_dataset"
    READ_ROLLOUTS = "read_rollouts"
    MANAGE_RELEASES = "manage_releases"
    MANAGE_ROLLOUTS = "manage_rollouts"


_READ = frozenset({Permission.READ_OPINIONS, Permission.READ_DEVICES, Permission.READ_ROLLOUTS})

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.DEVICE: frozenset({Permission.ASK_OPINION, Permission.READ_OPINIONS}),
    Role.VIEWER: _READ,
    Role.TECHNICIAN: _READ,
    Role.REVIEWER: _READ | {Permission.LABEL},
    Role.ENGINEER: _READ | {Permission.EXPORT_DATASET},
    Role.OPERATOR: _READ | {Permission.MANAGE_DEVICES, Permission.MANAGE_RELEASES, Permission.MANAGE_ROLLOUTS},
    Role.ADMIN: _READ
    | {
        Permission.MANAGE_DEVICES,
        Permission.READ_AUDIT,
        Permission.LABEL,
        Permission.EXPORT_DATASET,
        Permission.MANAGE_RELEASES,
        Permission.MANAGE_ROLLOUTS,
    },
    Role.SYSTEM: frozenset(),
}
"""Role -> what it may do, within its site and (a device) on its own rows."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody or something that asks.

    Attributes:
        id: key of the principal, stored with every change.
        role: what it is there for.
        site_id: the one site whose rows it sees.
        name: for people.
        device: its device id, for a device.
        token_id: the token it came with; None for the system itself.
    """

    id: str
    role: Role
    site_id: str
    name: str
    device: str | None = None
    token_id: str | None = None

    @property
    def is_device(self) -> bool:
        """Whether a machine asks, not a person."""
        return self.role is Role.DEVICE

    def may(self, permission: Permission) -> bool:
        """Whether the role holds a permission."""
        return permission in PERMISSIONS[self.role]

    def require(self, permission: Permission) -> None:
        """Forbidden (403) without the permission."""
        if not self.may(permission):
            holders = ", ".join(role for role, held in PERMISSIONS.items() if permission in held)
            raise Forbidden(
                f"the role {self.role} may not do this ({permission})",
                code="role_not_allowed",
                hint=f"ask with a token of one of these roles: {holders}",
            )
