"""Settings: defaults that run with no server, a YAML file, and `AHS_CLOUD__...` in the environment above it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cloud.errors import ConfigurationError

ENV_PREFIX = "AHS_CLOUD__"


class Part(BaseModel):
    """Frozen and closed: a key nobody knows is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(Part):
    """The web side."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 takes a free one and prints it")
    secure_cookie: bool = Field(False, description="set it where the console is reached over https")
    tls_certificate_file: Path | None = Field(None, description="certificate chain (PEM), to speak https")
    tls_key_file: Path | None = Field(None, description="its private key (PEM)")
    session_lifetime_s: int = Field(8 * 3600, ge=60, le=7 * 86400, description="end of a console session, seconds")
    session_secret: SecretStr | None = Field(
        None, description="key of the session cookie, at least 32 characters; without it one is made in data_dir"
    )
    shutdown_grace_s: int = Field(10, ge=1, le=300, description="time for open requests at the end, seconds")

    @model_validator(mode="after")
    def _certificate_and_key(self) -> HttpSettings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("give tls_certificate_file and tls_key_file, or neither")
        return self

    @property
    def uses_tls(self) -> bool:
        """Whether the web side itself speaks https."""
        return self.tls_certificate_file is not None


class DatabaseSettings(Part):
    """Where the tables are."""

    url: str | None = Field(
        None, description="sqlite+aiosqlite:///path or postgresql+psycopg://user@host/db; default: a file in data_dir"
    )
    busy_timeout_ms: int = Field(10_000, ge=100, le=120_000, description="SQLite: longest wait for a lock")
    pool_size: int = Field(10, ge=1, le=200, description="connections kept open")
    migrate_on_start: bool = Field(True, description="bring the tables up to date at start")


class ImageSettings(Part):
    """Where the images are."""

    url: str | None = Field(None, description="an fsspec address: a folder, gs://bucket/path, s3://bucket/path")


class BrokerSettings(Part):
    """The MQTT broker."""

    host: str | None = Field(None, description="address of the broker; without it nothing is ingested")
    port: int = Field(1883, ge=1, le=65535)
    user: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = Field(None, description="file with the password, instead of password")
    tls: bool = Field(False, description="talk TLS; port 8883 is usual then")
    tls_ca_file: Path | None = Field(None, description="certificates to trust instead of the system's; turns TLS on")
    allow_plain_text: bool = Field(
        False, description="send the password without TLS to another machine (a network that nobody else is on)"
    )
    keepalive_s: int = Field(30, ge=5, le=600)
    shared_subscription: bool = Field(
        True, description="share the load among workers; false for a broker without $share (one worker then)"
    )
    max_packet_bytes: int = Field(2_000_000, ge=300_000, description="largest packet that is taken from the broker")
    receive_maximum: int = Field(200, ge=1, le=5000, description="messages in hand that are not yet committed")

    @model_validator(mode="after")
    def _one_password(self) -> BrokerSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        return self

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> BrokerSettings:
        account = self.user is not None or self.password is not None or self.password_file is not None
        near = self.host is None or _is_loopback(self.host)
        if account and not near and not self.uses_tls and not self.allow_plain_text:
            raise ValueError(
                f"the password would go to {self.host} without TLS: set tls (or tls_ca_file), or allow_plain_text"
            )
        return self

    @property
    def uses_tls(self) -> bool:
        """Whether the link to the broker is encrypted."""
        return self.tls or self.tls_ca_file is not None

    def secret(self) -> str | None:
        """The password; ConfigurationError when its file cannot be read."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        try:
            return self.password_file.read_text().strip()
        except OSError as exc:
            raise ConfigurationError(f"broker.password_file {self.password_file}: {exc.strerror}") from exc


class OpinionSettings(Part):
    """The larger model."""

    bundle: Path | None = Field(None, description="second-opinion bundle; default: the one that ships")
    threads: int = Field(2, ge=1, le=64, description="threads of one inference")
    parallel: int = Field(1, ge=1, le=32, description="inferences at a time")
    queue_limit: int = Field(8, ge=0, le=1000, description="requests that may wait; more get 503 and Retry-After")
    per_device_limit: int = Field(4, ge=1, le=1000, description="requests of one device at a time; more get 429")
    max_image_bytes: int = Field(12 * 1024 * 1024, ge=1024, le=12 * 1024 * 1024)
    max_image_pixels: int = Field(24_000_000, ge=1024, le=64_000_000)
    pair_iou: float = Field(0.4, gt=0, le=1, description="overlap from which two boxes are the same cell")
    self_test: bool = Field(True, description="prove the bundle on its golden inputs before the first answer")


class ReleaseSettings(Part):
    """Signed models: their trust documents, and how they travel to devices."""

    online_key_file: Path | None = Field(
        None, description="online.key of `ahs-fleet keys init`; without it nothing is released and nothing re-signed"
    )
    snapshot_days: int = Field(7, ge=1, le=365, description="life of the snapshot document; renewed at half of it")
    timestamp_hours: int = Field(24, ge=1, le=24 * 30, description="life of the timestamp document, hours; likewise")
    collect_s: float = Field(1.0, ge=0, le=60, description="how long devices' wants are collected, seconds")
    bytes_per_s: int = Field(2_000_000, ge=64 * 1024, description="pace of the chunks, for all devices together")
    repeat_s: float = Field(
        2.0, ge=0, le=60, description="a chunk published so short a time before is not published for another want"
    )
    chunk_expiry_s: int = Field(15, ge=1, le=600, description="how long the broker may hold a chunk back, seconds")
    republish_s: float = Field(
        900.0, ge=1, le=86400, description="how often trust and desired states are published whether asked or not"
    )


class WorkerSettings(Part):
    """Ingest, the outbox and the exporter."""

    lease_s: float = Field(15.0, ge=1, le=300, description="how long a silent leader keeps the lease, seconds")
    batch_messages: int = Field(100, ge=1, le=1000, description="messages committed together")
    outbox_poll_s: float = Field(0.5, ge=0.05, le=60, description="how often the outbox is looked at")
    figures_period_s: float = Field(2.0, ge=0.1, le=300, description="how often the fleet's figures are read")
    rollouts_period_s: float = Field(1.0, ge=0.05, le=60, description="how often rollouts are looked at")
    max_backoff_s: float = Field(30.0, ge=0.1, le=600, description="longest wait between two tries")
    status_host: str = Field("127.0.0.1", description="address of the worker's own /metrics, /healthz and /readyz")
    status_port: int | None = Field(9102, ge=0, le=65535, description="their port when the worker runs alone")


class LogSettings(Part):
    """One line an event."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=False
    )

    data_dir: Path = Field(Path("ahs-cloud-data"), description="folder of the embedded database and image store")
    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    images: ImageSettings = ImageSettings()
    broker: BrokerSettings = BrokerSettings()
    opinions: OpinionSettings = OpinionSettings()
    releases: ReleaseSettings = ReleaseSettings()
    worker: WorkerSettings = WorkerSettings()
    log: LogSettings = LogSettings()
    device_token_days: int = Field(365, ge=1, le=3650, description="life of a device's token, days")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment above what is given to the constructor, which is the file's content."""
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """The database's address, with the default filled in."""
        return self.database.url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'cloud.db'}"

    @property
    def images_url(self) -> str:
        """The image store's address, with the default filled in."""
        return self.images.url or f"file://{self.data_dir.absolute() / 'images'}"


def load_settings(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a YAML file (if given) and the environment.

    Raises:
        ConfigurationError: absent or unreadable file, unknown key, unknown variable, value out of bounds; the
            message names each.
    """
    _refuse_unknown_variables(os.environ if environ is None else environ)
    document = _read_yaml(path) if path is not None else {}
    try:
        return Settings(**document)
    except ValidationError as exc:
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in exc.errors(include_url=False)]
        place = f"{path} and the environment" if path else "the environment"
        raise ConfigurationError(f"the settings in {place} cannot work:\n" + "\n".join(lines)) from exc


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{path}: there is no such configuration file") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: cannot be read ({exc})") from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path}: is not YAML ({exc})") from exc
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigurationError(f"{path}: the file holds no settings (write `http:` and so on, one a line)")
    return document


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """pydantic-settings passes over an unknown top-level variable without a word."""
    known = set(Settings.model_fields)
    for name in environ:
        if not name.upper().startswith("AHS_CLOUD_"):
            continue
        top = name.upper().removeprefix(ENV_PREFIX).split("__")[0].lower()
        if not name.upper().startswith(ENV_PREFIX) or top not in known:
            raise ConfigurationError(
                f"the environment variable {name} is no setting; they are written {ENV_PREFIX}HTTP__PORT, and the "
                f"first word is one of {', '.join(sorted(known))}"
            )
