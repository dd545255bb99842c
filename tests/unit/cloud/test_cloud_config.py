"""Settings: where they come from, and what is refused."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cloud.auth.principals import PERMISSIONS, Role
from cloud.auth.sessions import CookieSigner
from cloud.config import BrokerSettings, load_settings
from cloud.errors import ConfigurationError, Unauthenticated
from cloud.ingest.bus_paho import PahoBus
from cloud.metrics import FleetFigures, Metrics
from cloud.storage.engine_sqlalchemy import checked_url


def write(folder: Path, text: str) -> Path:
    path = folder / "cloud.yaml"
    path.write_text(text)
    return path


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "http: {port: 1000, host: 0.0.0.0}\n")
    monkeypatch.setenv("AHS_CLOUD__HTTP__PORT", "2000")
    settings = load_settings(path)
    assert (settings.http.port, settings.http.host) == (2000, "0.0.0.0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("htpp: {}\n", "htpp"),
        ("http: {prot: 1}\n", "http.prot"),
        ("http: {port: 70000}\n", "http.port"),
        ("- a list\n", "holds no settings"),
        ("http: {port: 1\n", "is not YAML"),
        ("broker: {password: a, password_file: b}\n", "not both"),
        ("broker: {host: mqtt.example, user: a, password: b}\n", "without TLS"),
        ("broker: {host: 10.0.0.7, user: a, password_file: b}\n", "without TLS"),
    ],
)
def test_a_file_that_cannot_work_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_settings(write(tmp_path, text))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such configuration file"):
        load_settings(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", ["AHS_CLOUD__HTPP__PORT", "AHS_CLOUD_HTTP_PORT"])
def test_a_variable_that_is_no_setting_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_settings(environ={name: "1"})


def test_secrets_are_masked_where_settings_are_shown(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "broker: {password: hunter2}\n"))
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    assert settings.broker.secret() == "hunter2"


@pytest.mark.parametrize(
    ("place", "tls"),
    [
        ("host: mqtt.example, tls: true", True),
        ("host: mqtt.example, tls_ca_file: ca.pem", True),
        ("host: mqtt.example, allow_plain_text: true", False),
        ("host: localhost", False),
        ("host: 127.0.0.1", False),
        ("host: '::1'", False),
    ],
)
def test_a_password_goes_over_tls_or_stays_on_this_machine_or_is_allowed_out(
    tmp_path: Path, place: str, tls: bool
) -> None:
    settings = load_settings(write(tmp_path, f"broker: {{{place}, user: a, password: b}}\n"))
    assert settings.broker.uses_tls is tls


def test_tls_without_a_file_trusts_what_the_system_trusts() -> None:
    bus = PahoBus(BrokerSettings(host="mqtt.example", tls=True), client_id="a-test")
    context = bus._client._ssl_context
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats() == ssl.create_default_context().cert_store_stats()


@pytest.mark.parametrize("url", ["mysql://a/b", "no url", "sqlite:///:memory:", "sqlite://"])
def test_a_database_that_is_not_supported_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        checked_url(url)


def test_a_cookie_is_good_until_its_end_and_only_with_its_mark() -> None:
    from datetime import UTC, datetime, timedelta

    moment = [datetime(2026, 1, 1, tzinfo=UTC)]
    signer = CookieSigner(b"k" * 32, lifetime_s=60, now=lambda: moment[0])
    value = signer.write("token-1")
    assert signer.read(value) == "token-1"
    with pytest.raises(Unauthenticated):
        CookieSigner(b"x" * 32, lifetime_s=60, now=lambda: moment[0]).read(value)
    moment[0] += timedelta(seconds=60)
    with pytest.raises(Unauthenticated, match="over"):
        signer.read(value)


def test_every_role_has_its_line_of_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)


def test_the_fleets_figures_are_shown_only_where_they_are_read() -> None:
    from prometheus_client import generate_latest

    metrics = Metrics()
    assert b"ahs_fleet" not in generate_latest(metrics.registry)
    metrics.fleet.figures = FleetFigures(devices={"online": 2})
    assert b'ahs_fleet_devices{presence="online"} 2.0' in generate_latest(metrics.registry)
