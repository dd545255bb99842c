"""The whole system on one machine: broker, cloud and agents, each a process of its own below one folder.

Order of a start: keys and the signed factory kit -> cloud (works without a broker) -> its first trust -> devices
registered over REST -> broker with their accounts -> agents. Keys and tokens are made at the start and live in the
folder, readable by this user alone.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from fleet.client import CloudClient
from fleet.client.errors import ClientError
from fleet.contract.http import DeviceCreate
from fleet.contract.report import AgentReport
from fleet.local.broker import CLOUD_USER, LocalBroker
from fleet.local.errors import StartError
from fleet.local.processes import Part, free_port
from models.zoo import shipped

SITE = "demo-lab"
SIMULATED = "sim"
CLOUD_START_TIMEOUT_S = 90.0
AGENT_START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 120.0
NOT_DELIVERED = 6
"""Exit code of `ahs-edge run` when its time for the delivery was over."""

Sections = dict[str, dict[str, Any]]


@dataclass
class Agent:
    """One agent of the local system."""

    device: str
    folder: Path
    console_port: int
    part: Part | None = None
    token: str = ""
    settings: Sections = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """Its YAML file."""
        return self.folder / "edge.yaml"

    @property
    def journal(self) -> Path:
        """The simulated microscope's own record."""
        return self.folder / "journal.jsonl"

    @property
    def console_url(self) -> str:
        """Address of its page."""
        return f"http://127.0.0.1:{self.console_port}/"


@dataclass
class LocalSystem:
    """Broker, cloud and agents. Use as a context manager: leaving it stops every process.

    Args:
        folder: where everything lives; made when absent.
        embedded_broker: True forces the embedded broker, None takes Mosquitto when it is there.
        cloud_settings: sections of the cloud's YAML over the defaults of a local run.
    """

    folder: Path
    embedded_broker: bool | None = None
    cloud_settings: Sections = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.broker = LocalBroker(self.folder / "broker", embedded=self.embedded_broker)
        self.cloud_port = free_port()
        self.admin_token = ""
        self.edge_bundle = shipped("edge")
        self.cloud_password = secrets.token_urlsafe(24)
        self._cloud: Part | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- keys ----------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """Folder of the signing keys; in a laboratory only `online.key` would leave the operator's safe."""
        return self.folder / "keys"

    @property
    def factory(self) -> Path:
        """The signed kit that each agent starts from."""
        return self.folder / "factory"

    def make_keys(self) -> None:
        """Makes the keys, and signs the shipped edge bundle as release 1."""
        if self.keys.exists():
            return
        run_module("fleet", "keys", "init", "--out", str(self.keys))
        arguments = ("--bundle", str(self.edge_bundle), "--keys", str(self.keys), "--out", str(self.factory))
        run_module("fleet", "factory", *arguments)

    # -- cloud ---------------------------------------------------------------------------------------------------

    @property
    def cloud_url(self) -> str:
        """Address of the cloud: REST and console."""
        return f"http://127.0.0.1:{self.cloud_port}"

    @property
    def cloud(self) -> Part:
        """The cloud's process; StartError before `start_cloud`."""
        if self._cloud is None:
            raise StartError("the cloud was not started")
        return self._cloud

    def client(self) -> CloudClient:
        """A client with the administrator's token."""
        return CloudClient(self.cloud_url, self.admin_token)

    @property
    def _token_file(self) -> Path:
        return self.folder / "admin-token"

    def cloud_options(self) -> tuple[str, ...]:
        """Options that let an `ahs-fleet` command speak to this cloud as its administrator."""
        return ("--cloud", self.cloud_url, "--token-file", str(self._token_file))

    def start_cloud(self) -> None:
        """Writes the configuration, makes the first token and waits until the cloud answers."""
        self.make_keys()
        config = self.folder / "cloud.yaml"
        password = _secret_file(self.folder / "cloud-broker-password", self.cloud_password)
        _write_yaml(
            config,
            _merged(
                {
                    "data_dir": str(self.folder / "cloud"),
                    "http": {"port": self.cloud_port},
                    "broker": {
                        "host": self.broker.host,
                        "port": self.broker.port,
                        "user": CLOUD_USER,
                        "password_file": str(password),
                        "shared_subscription": self.broker.supports_sessions,
                    },
                    "worker": {"max_backoff_s": 1.0, "status_port": None},
                    "releases": {"online_key_file": str(self.keys / "online.key")},
                    "opinions": {"threads": 1},
                    "log": {"format": "json"},
                },
                self.cloud_settings,
            ),
        )
        if not self.admin_token:
            self.admin_token = run_module(
                "cloud", "token", "create", "--config", str(config), "--role", "admin", "--site", SITE, "--name", "demo"
            ).strip()
        _secret_file(self._token_file, self.admin_token)
        self._cloud = Part.python("cloud", "cloud", "all", "--config", str(config), log=self.folder / "cloud.log")
        self.restart_cloud()
        run_module("fleet", "release", "begin", "--kit", str(self.factory), *self.cloud_options())

    def restart_cloud(self) -> None:
        """Starts the configured cloud (again) and waits until it answers."""
        self.cloud.start().wait_until(self._cloud_answers, timeout_s=CLOUD_START_TIMEOUT_S)

    def _cloud_answers(self) -> bool:
        with contextlib.suppress(ClientError), CloudClient(self.cloud_url, None, timeout_s=2.0) as client:
            client.health()
            return True
        return False

    # -- broker --------------------------------------------------------------------------------------------------

    def start_broker(self) -> None:
        """Starts the broker with an account for the cloud and for each device that was added."""
        accounts = {CLOUD_USER: self.cloud_password} | {a.device: a.token for a in self.agents.values()}
        self.broker.start(accounts)

    # -- agents --------------------------------------------------------------------------------------------------

    def add_agent(self, device: str, settings: Sections) -> Agent:
        """Registers a device over REST and writes its configuration; the broker must not be running yet.

        A simulated microscope gets its journal in the agent's folder.
        """
        folder = self.folder / device
        folder.mkdir(exist_ok=True)
        agent = Agent(device=device, folder=folder, console_port=free_port())
        with self.client() as client:
            agent.token = client.create_device(DeviceCreate(device=device, site=SITE, label=device)).token
        token = str(_secret_file(folder / "token", agent.token))
        base: dict[str, Any] = {
            "device": {"id": device, "site": SITE},
            "data_dir": str(folder / "data"),
            "mqtt": {"host": self.broker.host, "port": self.broker.port, "tls": False, "token_file": token},
            "cloud": {"url": self.cloud_url, "token_file": token, "catch_up_s": 2.0},
            "console": {"port": agent.console_port},
            "update": {"factory": str(self.factory)},
        }
        agent.settings = base
        self.configure_agent(agent, settings)
        agent.part = Part.python(device, "edge_agent", "run", "--config", str(agent.config), log=folder / "agent.log")
        self.agents[device] = agent
        return agent

    def configure_agent(self, agent: Agent, settings: Sections) -> None:
        """Writes the agent's configuration anew; it holds from the next start on."""
        source = dict(settings.get("source", {}))
        if source.get("spec") == SIMULATED:
            source["simulated"] = {**source.get("simulated", {}), "journal": str(agent.journal)}
            settings = {**settings, "source": source}
        _write_yaml(agent.config, _merged(agent.settings, settings))

    def start_agent(self, agent: Agent, *, wait: bool = True) -> Part:
        """Starts the agent (again); waits until its page answers or a short run has already ended well."""
        if agent.part is None:
            raise StartError(f"{agent.device} was not added")
        part = agent.part.start()
        if wait:
            part.wait_until(lambda: _answers(agent.console_url + "healthz"), timeout_s=AGENT_START_TIMEOUT_S)
        return part

    def refuse_failures(self) -> None:
        """StartError when a part has ended that should not have; an agent that could not deliver is judged later."""
        for agent in self.agents.values():
            if agent.part is not None and (code := agent.part.exit_code()) not in (None, 0, NOT_DELIVERED):
                raise StartError(f"{agent.device} ended with code {code}.")
        if (code := self.cloud.exit_code()) is not None:
            raise StartError(f"the cloud ended with code {code}.")

    def running_digest(self, agent: Agent) -> str | None:
        """Digest of the model that the agent says it runs, by the cloud's list of devices."""
        with self.client() as client:
            return client.get_device(agent.device).active_model

    def report(self, agent: Agent) -> AgentReport:
        """What the agent has stored, by its own `export` command."""
        out = agent.folder / "report.json"
        run_module("edge_agent", "export", "--config", str(agent.config), "--out", str(out))
        return AgentReport.model_validate_json(out.read_bytes())

    def stop_agents(self) -> None:
        """Stops the agents in order; each finishes its field and delivers what it can."""
        for agent in self.agents.values():
            if agent.part is not None:
                agent.part.stop()

    def stop(self) -> None:
        """Stops agents, cloud and broker, in this order."""
        self.stop_agents()
        if self._cloud is not None:
            self._cloud.stop()
        self.broker.stop()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=1.0).status_code < 600
    return False


def run_module(*argv: str) -> str:
    """Runs `python -m ...` to its end; its standard output. StartError with what it said on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
    )
    if done.returncode:
        raise StartError(f"`{' '.join(argv[:3])}` ended with code {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def _merged(base: dict[str, Any], over: Sections) -> dict[str, Any]:
    """Section by section, the second wins; a section may also be a plain value."""
    result = dict(base)
    for section, values in over.items():
        known = result.get(section)
        result[section] = {**known, **values} if isinstance(known, dict) and isinstance(values, dict) else values
    return result


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def _secret_file(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(secret)
    return path
