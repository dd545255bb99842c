"""What the running service is made of, put together once in `assembly.py` and handed to routes and pages."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.auth.sessions import CookieSigner
from cloud.auth.tokens import Tokens
from cloud.config import Settings
from cloud.devices.registry import DeviceRegistry
from cloud.metrics import Metrics
from cloud.opinions.service import OpinionService
from cloud.releases.service import ReleaseService
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.worker import Worker


@dataclass(frozen=True, slots=True)
class Parts:
    """Reached from a route through `cloud.auth.dependencies.ServiceParts`.

    Attributes:
        worker: only where one runs inside this process.
        serves_web: false in a worker that runs alone.
    """

    settings: Settings
    storage: Storage
    images: ImageStore
    tokens: Tokens
    cookies: CookieSigner
    devices: DeviceRegistry
    opinions: OpinionService
    releases: ReleaseService
    metrics: Metrics
    worker: Worker | None = None
    serves_web: bool = True
