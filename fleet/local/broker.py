"""An MQTT broker for one machine: Mosquitto when it is on PATH, else the embedded one of the `demo` extra.

Mosquitto gets a password file and an ACL that is the protocol's: a device publishes below its own `up/`, receives
below its own `down/`. The embedded broker checks passwords but has no ACL and forgets sessions: for a demo, no more.
"""

from __future__ import annotations

import getpass
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fleet.contract.topics import HOST_STATE, PREFIX, TRUST
from fleet.local.errors import StartError
from fleet.local.processes import Part, free_port, port_answers

CLOUD_USER = "cloud"
START_TIMEOUT_S = 20.0
MAX_PACKET_BYTES = 2_000_000

_ACL = f"""\
user {CLOUD_USER}
topic readwrite {PREFIX}/#
topic read $SYS/#

pattern write {PREFIX}/d/%u/up/#
pattern read {PREFIX}/d/%u/down/#
pattern read {TRUST}
pattern read {PREFIX}/chunk/+
pattern read {HOST_STATE}
"""

_EMBEDDED = """\
id = 0
[router]
id = 0
max_connections = 200
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 8
[v5.1]
name = "local"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {max_payload}
max_inflight_count = 100
dynamic_filters = true
[v5.1.connections.auth]
{accounts}
"""


class LocalBroker:
    """One broker process on a port of 127.0.0.1. `accounts` maps user to password."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, *, port: int | None = None, embedded: bool | None = None) -> None:
        self._folder = folder
        self.port = port or free_port()
        mosquitto = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else "")
        self._mosquitto = "" if embedded else mosquitto
        self._part: Part | None = None

    @property
    def name(self) -> str:
        """Which broker it is, for people."""
        return "Mosquitto" if self._mosquitto else "embedded broker (no ACL, demo only)"

    @property
    def supports_sessions(self) -> bool:
        """Whether an absent client's messages are kept."""
        return bool(self._mosquitto)

    def start(self, accounts: Mapping[str, str]) -> None:
        """Writes the configuration and starts; StartError says why it did not come up."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._part = self._mosquitto_part(accounts) if self._mosquitto else self._embedded_part(accounts)
        self.restart()

    def restart(self) -> None:
        """Starts the configured broker (again)."""
        if self._part is None:
            raise StartError("the broker has no accounts yet: call start() first")
        self._part.start().wait_until(lambda: port_answers(self.port), timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Stops the broker; retained messages stay in its folder (Mosquitto)."""
        if self._part is not None:
            self._part.stop()

    def _mosquitto_part(self, accounts: Mapping[str, str]) -> Part:
        passwords, acl, config = (self._folder / name for name in ("passwords", "acl", "mosquitto.conf"))
        passwords.touch(mode=0o600)
        passwords.write_text("".join(f"{user}:{password}\n" for user, password in accounts.items()))
        tool = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
        done = subprocess.run([tool, "-U", str(passwords)], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise StartError(f"mosquitto_passwd could not hash the passwords: {done.stderr.strip()}")
        acl.touch(mode=0o600)
        acl.write_text(_ACL)
        config.write_text(
            f"listener {self.port} {self.host}\n"
            f"user {getpass.getuser()}\n"
            "allow_anonymous false\n"
            f"password_file {passwords}\nacl_file {acl}\n"
            f"persistence true\npersistence_location {self._folder}/\nautosave_interval 15\n"
            f"max_packet_size {MAX_PACKET_BYTES}\nmax_queued_messages 5000\nsys_interval 1\n"
        )
        return Part("broker", [self._mosquitto, "-c", str(config)], log=self._folder / "broker.log")

    def _embedded_part(self, accounts: Mapping[str, str]) -> Part:
        if importlib.util.find_spec("iotcore") is None:
            raise StartError(
                "no MQTT broker: install Mosquitto, or the extra that brings one: pip install -e '.[demo]'"
            )
        config = self._folder / "embedded.toml"
        config.touch(mode=0o600)
        lines = "\n".join(f'"{user}" = "{password}"' for user, password in accounts.items())
        config.write_text(_EMBEDDED.format(port=self.port, max_payload=MAX_PACKET_BYTES, accounts=lines))
        return Part.python("broker", "iotcore", "--config", str(config), log=self._folder / "broker.log")
