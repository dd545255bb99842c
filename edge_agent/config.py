"""Settings of the agent: init > environment (`AHS_EDGE__SECTION__KEY`) > YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from edge_agent.capture.settings import QualitySettings, SelectionSettings, SourceSettings
from edge_agent.errors import ConfigurationError
from edge_agent.triage.rules import TriagePolicy
from edge_agent.triage.sampling import DUPLICATE_ABOVE_RATIO
from edge_agent.update.settings import UpdateSettings
from fleet.contract.base import DeviceId, SiteId
from fleet.contract.messages import SamplingPolicy

ENV_PREFIX = "AHS_EDGE__"
FULL_HOURS = 10

SlideName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]


class Part(BaseModel):
    """Frozen and closed: an unknown key is a mistake, not a feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceSettings(Part):
    """Who this workstation is."""

    id: DeviceId = Field("edge-1", description="name in the fleet and on the broker")
    site: SiteId = Field("local", description="laboratory it stands in")


class InferenceSettings(Part):
    """The model and its threads."""

    bundle: Path | None = Field(
        None, description="bundle folder or .zip; without it the shipped edge bundle; not with update.factory"
    )
    threads: int | None = Field(None, ge=1, le=64, description="ONNX Runtime threads; without it chosen by measurement")


class SamplingSettings(Part):
    """Which fields are worth a second opinion."""

    per_hour: int = Field(60, ge=0, le=10_000, description="pictures sent an hour, at most")
    per_day: int | None = Field(
        None, ge=0, le=240_000, description="pictures sent a day, at most; without it as many as ten full hours"
    )
    audit_ratio: float = Field(0.1, ge=0, le=1, description="random share of fields sent for audit")
    duplicate_above_ratio: float = Field(
        DUPLICATE_ABOVE_RATIO,
        gt=0,
        le=1,
        description="a picture in doubt that shares more of its area with one of the last 64 sent is not; 1: all are",
    )

    @property
    def policy(self) -> SamplingPolicy:
        """The same as the cloud would say it."""
        per_day = self.per_hour * FULL_HOURS if self.per_day is None else self.per_day
        return SamplingPolicy(per_hour=self.per_hour, per_day=per_day, audit_ratio=self.audit_ratio)


class SlideSettings(Part):
    """The slide that is opened by itself."""

    name: SlideName = Field("slide", description="name of the slide; a closed one is followed by name-2, name-3, ...")
    target_white_cells: int = Field(100, ge=1, le=10_000, description="white cells to count")
    platelet_factor_e9: float | None = Field(
        None, gt=0, description="10^9 platelets per litre for one platelet a field, calibrated per microscope"
    )


class StoreSettings(Part):
    """The database and its quotas."""

    spool_rows: int = Field(200_000, ge=10, le=10_000_000, description="results kept while the cloud is away, at most")
    spool_event_bytes: int = Field(
        512 * 1024 * 1024, ge=64 * 1024, description="results kept while the cloud is away, at most, in bytes"
    )
    spool_images: int = Field(20_000, ge=1, le=1_000_000, description="pictures kept while the cloud is away, at most")
    spool_image_bytes: int = Field(
        512 * 1024 * 1024, ge=1024 * 1024, description="pictures kept while the cloud is away, at most, in bytes"
    )
    min_free_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="below so many free bytes on the disk no field is taken"
    )
    full_retry_s: float = Field(2.0, gt=0, le=600, description="pause between two attempts on a full disk, seconds")


class MqttSettings(Part):
    """The broker; without a host nothing is published and results wait in the store."""

    host: str | None = Field(None, min_length=1, description="name or address of the broker")
    port: int = Field(8883, ge=1, le=65535, description="TCP port")
    tls: bool = Field(True, description="encrypt; switch off on one machine only")
    allow_plain_text: bool = Field(False, description="let the token go to another machine unencrypted")
    ca_file: Path | None = Field(None, description="certificate authority; without it the system's")
    username: str | None = Field(None, description="without it the device's id")
    token_file: Path | None = Field(None, description="file with the device's token, used as password")
    websockets: bool = Field(False, description="MQTT over WebSockets, where only port 443 is open")
    keepalive_s: int = Field(30, ge=5, le=3600, description="seconds between signs of life")
    session_expiry_s: int = Field(86_400, ge=0, description="seconds the broker keeps our session")
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="longest wait for a connection, seconds")
    ack_timeout_s: float = Field(15.0, gt=0, le=600, description="no acknowledgement for so long: send again, seconds")
    telemetry_s: float = Field(60.0, ge=1, le=3600, description="pause between two telemetry messages, seconds")

    @model_validator(mode="after")
    def _private(self) -> Self:
        if self.host is not None and not self.tls and not self.allow_plain_text and not _is_loopback(self.host):
            raise ValueError(
                f"mqtt.tls: false would send this device's token to {self.host} for everyone in the network to read: "
                "remove it, or set mqtt.allow_plain_text: true where the network is trusted"
            )
        return self


class CloudSettings(Part):
    """The cloud's HTTP side; without an address uncertain pictures wait in the store."""

    url: str | None = Field(None, pattern=r"^https?://", description="address of the cloud, e.g. https://cloud.example")
    allow_plain_text: bool = Field(False, description="let token and pictures go to another machine unencrypted")
    token_file: Path | None = Field(None, description="file with the device's token")
    proxy: str | None = Field(None, description="HTTP proxy; without it HTTPS_PROXY holds")
    timeout_s: float = Field(10.0, gt=0, le=120, description="longest wait for the next byte, seconds")
    catch_up_s: float = Field(60.0, ge=1, le=86_400, description="pause between two looks for missed opinions, seconds")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.url is not None and self.token_file is None:
            raise ValueError("cloud.url needs cloud.token_file: the file with this device's token")
        return self

    @model_validator(mode="after")
    def _private(self) -> Self:
        if self.url is None or self.allow_plain_text or not self.url.startswith("http://"):
            return self
        host = urlsplit(self.url).hostname or ""
        if not _is_loopback(host):
            raise ValueError(
                f"cloud.url with http:// would send this device's token to {host} for everyone in the network to "
                "read: write https://, or set cloud.allow_plain_text: true where the network is trusted"
            )
        return self


class ConsoleSettings(Part):
    """The local web page."""

    enabled: bool = Field(True, description="serve the page at all")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8600, ge=0, le=65535, description="TCP port; 0 takes any free one")
    token_file: Path | None = Field(None, description="file with the page's token; needed for any address but loopback")


class RunSettings(Part):
    """How long a run lasts."""

    stop_after_fields: int | None = Field(
        None, ge=1, description="end the run when the open slide has so many fields; a restarted run goes on counting"
    )
    exit_when_drained: bool = Field(
        False, description="when the source has ended: close the slide, deliver everything, then exit"
    )
    drain_timeout_s: float = Field(120.0, gt=0, le=86_400, description="longest wait for the delivery, seconds")
    self_test: bool = Field(True, description="run the model's self-test before the first field")


class Settings(BaseSettings):
    """Everything the agent is told from outside."""

    model_config = ConfigDict(frozen=True, extra="forbid")  # type: ignore[assignment]

    device: DeviceSettings = DeviceSettings()
    data_dir: Path = Field(Path("edge-data"), description="folder of the agent's own files")
    source: SourceSettings = Field(
        default_factory=lambda: SourceSettings.model_validate("sim:seed=1"),
        description="what to read from: camera number, stream URL, video, folder, or sim:seed=7",
    )
    quality: QualitySettings = QualitySettings()
    selection: SelectionSettings = SelectionSettings()
    inference: InferenceSettings = InferenceSettings()
    triage: TriagePolicy = TriagePolicy()
    sampling: SamplingSettings = SamplingSettings()
    slide: SlideSettings = SlideSettings()
    store: StoreSettings = StoreSettings()
    mqtt: MqttSettings = MqttSettings()
    cloud: CloudSettings = CloudSettings()
    console: ConsoleSettings = ConsoleSettings()
    update: UpdateSettings = UpdateSettings()
    run: RunSettings = RunSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only `load_settings` reads the environment and files."""
        return (init_settings,)


def load_settings(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Reads the settings; overrides > environment > file.

    Args:
        file: YAML file, refused when it is not there.
        overrides: `section.key` -> value, from the command line.
        environment: instead of the process's own, for tests.

    Raises:
        ConfigurationError: an absent or unreadable file, an unknown key anywhere, a value out of range.
    """
    document = _from_file(file) if file is not None else {}
    variables = _ours(os.environ if environment is None else environment)

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            env = EnvSettingsSource(settings_cls, env_prefix=ENV_PREFIX, env_nested_delimiter="__")
            env.env_vars = variables
            return (
                InitSettingsSource(settings_cls, init_kwargs=_nested(overrides or {})),
                env,
                InitSettingsSource(settings_cls, init_kwargs=document),
            )

    try:
        return Loaded()
    except ValidationError as exc:
        raise ConfigurationError(_explained(exc, file)) from exc
    except SettingsError as exc:
        raise ConfigurationError(
            f"an environment variable cannot be read ({exc}): name a single key, e.g. {ENV_PREFIX}MQTT__HOST"
        ) from exc


def effective(settings: Settings) -> str:
    """The settings in force as YAML, to be shown. Secrets live in files; addresses (of a network camera, the cloud, a
    proxy) are the exception: user, password and query in them are masked.
    """
    document = settings.model_dump(mode="json")
    for section, key in (("source", "spec"), ("cloud", "url"), ("cloud", "proxy")):
        if document[section][key] is not None:
            document[section][key] = _masked(document[section][key])
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def read_token(file: Path | None) -> str | None:
    """The one line of a token file; None without a file.

    Raises:
        ConfigurationError: absent, unreadable or empty.
    """
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the token file {file} cannot be read: {exc}") from exc
    if not token:
        raise ConfigurationError(f"the token file {file} is empty: put the device's token into it")
    return token


def _masked(address: str) -> str:
    """An address without user, password and query; anything else as it is.

    Cuts by hand: in a password that was not percent-encoded a `/`, `?` or `#` would end the host for a URL parser.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    _, at, host = rest.rpartition("@")
    place, query, _ = host.partition("?")
    place = place.partition("#")[0]
    return scheme + mark + ("***@" if at else "") + place + ("?***" if query else "")


def _is_loopback(host: str) -> bool:
    """Whether what is sent there never leaves this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _from_file(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigurationError(f"there is no configuration file {file}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the configuration file {file} cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{file} is not YAML: {exc}") from exc
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"{file}: write sections such as 'device:' with keys below them")
    # A lone string for the source must not be merged key by key with one from the environment.
    if isinstance(document.get("source"), str | int):
        document["source"] = {"spec": str(document["source"])}
    if isinstance(unknown := next((k for k in document if k not in Settings.model_fields), None), str):
        raise ConfigurationError(f"{file}: unknown key '{unknown}'; known are {', '.join(Settings.model_fields)}")
    return document


def _ours(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Our variables, lower case. pydantic-settings would pass over an unknown section without a word."""
    found: dict[str, str | None] = {}
    for name, value in environment.items():
        if not name.upper().startswith(ENV_PREFIX):
            continue
        section = name.upper().removeprefix(ENV_PREFIX).split("__")[0].lower()
        if section not in Settings.model_fields:
            raise ConfigurationError(
                f"environment variable {name}: unknown section; known are {', '.join(Settings.model_fields)}"
            )
        key = name.lower()
        # `AHS_EDGE__SOURCE=sim:seed=7` is text, where a section's own variable would have to be JSON.
        found[f"{key}__spec" if key == f"{ENV_PREFIX}source".lower() else key] = value
    return found


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for path, value in overrides.items():
        *parents, key = path.split(".")
        if [*parents, key] == ["source"]:
            parents, key = ["source"], "spec"
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    return document


def _explained(exc: ValidationError, file: Path | None) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in error["loc"]) or "settings"
        said = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            said = "unknown key"
        lines.append(f"  {place}: {said}")
    origin = f" (file {file})" if file else ""
    return f"the configuration{origin} cannot be used:\n" + "\n".join(lines)
