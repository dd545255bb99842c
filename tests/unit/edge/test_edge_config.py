"""Settings: precedence, and every mistake answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_agent.config import effective, load_settings, read_token
from edge_agent.errors import ConfigurationError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "edge.yaml",
        "device: {id: from-file, site: lab-1}\nsource: 'sim:seed=1'\nmqtt: {host: from-file, port: 1}\n",
    )
    environment = {"AHS_EDGE__MQTT__HOST": "from-environment", "AHS_EDGE__MQTT__PORT": "2", "PATH": "/bin"}
    settings = load_settings(file, overrides={"mqtt.port": 3}, environment=environment)
    assert (settings.device.id, settings.mqtt.host, settings.mqtt.port) == ("from-file", "from-environment", 3)


@pytest.mark.parametrize("source", ["sim:seed=9", "9"])
def test_a_plain_source_can_be_given_anywhere(tmp_path: Path, source: str) -> None:
    file = write(tmp_path / "edge.yaml", "source: 'http://camera.lab/stream'\n")
    assert load_settings(file, environment={}).source.kind == "stream"
    assert load_settings(file, environment={"AHS_EDGE__SOURCE": source}).source.spec == source
    assert load_settings(file, overrides={"source": source}, environment={}).source.spec == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("devise: {id: a1}\n", "unknown key 'devise'"),
        ("mqtt: {hosst: a}\n", "mqtt.hosst: unknown key"),
        ("mqtt: {port: 0}\n", "mqtt.port"),
        ("device: {id: 'Not Allowed'}\n", "device.id"),
        ("cloud: {url: 'https://cloud'}\n", "cloud.url needs cloud.token_file"),
        ("- a\n", "write sections"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r"edge\.yaml") as caught:
        load_settings(write(tmp_path / "edge.yaml", text), environment={})
    assert says in str(caught.value)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no configuration file"):
        load_settings(tmp_path / "absent.yaml", environment={})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("AHS_EDGE__DEVISE__ID", "unknown section"),
        ("AHS_EDGE__DEVICE__IDD", "device.idd: unknown key"),
        ("AHS_EDGE__MQTT", "name a single key"),
    ],
)
def test_an_unknown_environment_variable_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_settings(environment={name: "x"})


def test_the_effective_settings_can_be_read_back_and_hold_no_password(tmp_path: Path) -> None:
    token = write(tmp_path / "token", "secret-of-the-device\n")
    overrides = {
        "cloud.url": "https://cloud",
        "cloud.token_file": str(token),
        "cloud.proxy": "http://user:open-sesame@proxy:3128",
    }
    text = effective(load_settings(overrides=overrides, environment={}))
    assert "open-sesame" not in text
    assert "secret-of-the-device" not in text
    assert yaml.safe_load(text)["cloud"]["proxy"] == "http://***@proxy:3128"


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match="token file"):
        read_token(file)
    assert read_token(None) is None
