"""The one typed HTTP client of the cloud, used by the edge and by `ahs-fleet`."""

from __future__ import annotations

from fleet.client.cloud import CloudClient
from fleet.client.errors import ClientError, Damaged, LinkDown, Rejected

__all__ = ["ClientError", "CloudClient", "Damaged", "LinkDown", "Rejected"]
