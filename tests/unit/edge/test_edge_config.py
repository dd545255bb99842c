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


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://cam:s3cret@10.0.0.5:554/live", "rtsp://***@10.0.0.5:554/live"),
        ("rtsp://cam:s3cret/?#x@10.0.0.5/live", "rtsp://***@10.0.0.5/live"),
        ("http://camera.lab/video?token=s3cret", "http://camera.lab/video?***"),
        ("http://camera.lab/video", "http://camera.lab/video"),
        ("sim:seed=7", "sim:seed=7"),
        ("0", "0"),
    ],
)
def test_the_effective_settings_hold_no_password_of_the_camera(address: str, shown: str) -> None:
    text = effective(load_settings(overrides={"source": address}, environment={}))
    assert "s3cret" not in text
    assert yaml.safe_load(text)["source"]["spec"] == shown


@pytest.mark.parametrize("host", ["broker.lab", "10.0.0.7", "::2", "localhost.evil.example", "127.0.0.1.evil.example"])
def test_the_token_does_not_leave_this_machine_unencrypted_unless_that_is_allowed(tmp_path: Path, host: str) -> None:
    token = str(write(tmp_path / "token", "t"))
    plain = {"mqtt.host": host, "mqtt.tls": False}
    with pytest.raises(ConfigurationError, match=r"mqtt\.allow_plain_text: true"):
        load_settings(overrides=plain, environment={})
    assert not load_settings(overrides={**plain, "mqtt.allow_plain_text": True}, environment={}).mqtt.tls
    assert load_settings(overrides={"mqtt.host": host}, environment={}).mqtt.tls
    name = f"[{host}]" if ":" in host else host
    cloud = {"cloud.url": f"http://{name}:8080", "cloud.token_file": token}
    with pytest.raises(ConfigurationError, match=r"cloud\.allow_plain_text: true"):
        load_settings(overrides=cloud, environment={})
    assert load_settings(overrides={**cloud, "cloud.allow_plain_text": True}, environment={}).cloud.url
    assert load_settings(overrides={**cloud, "cloud.url": f"https://{name}"}, environment={}).cloud.url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1"])
def test_within_one_machine_nothing_need_be_encrypted(tmp_path: Path, host: str) -> None:
    token = str(write(tmp_path / "token", "t"))
    name = f"[{host}]" if ":" in host else host
    overrides = {"mqtt.host": host, "mqtt.tls": False, "cloud.url": f"http://{name}:1", "cloud.token_file": token}
    assert load_settings(overrides=overrides, environment={}).mqtt.host == host


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match="token file"):
        read_token(file)
    assert read_token(None) is None
