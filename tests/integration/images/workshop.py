"""buildah and podman on a store of their own, and a base made here where no registry can be asked.

What the machine refuses (to start a container, to fetch a Debian) is `Refused`: no fault of the images. A build that
fails on a base that is there is a fault, and raises as any other.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.programs import networks_have_names

ROOT = Path(__file__).resolve().parents[3]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE, PROBE = "localhost/ahs-test-base:1", "localhost/ahs-test-probe:1"
STAND_INS = {name: f"localhost/ahs-test-{name}:1" for name in ("database", "broker", "prometheus")}
AS_DOCKER = "--read-only-tmpfs=false"
"""Without it podman lays folders in memory over /run, /tmp and /var/tmp of a read-only container. Docker does not."""
HARDENED = ("--read-only", AS_DOCKER, "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
CHROOT = ("--isolation", "chroot")
DOWNLOAD_S, PAUSE_S = 480.0, 5.0

CONTAINERS = """\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
netns = "host"
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
STORAGE = """\
[storage]
driver = "{driver}"
runroot = "{folder}/run"
graphroot = "{folder}/graph"
"""


class Refused(Exception):
    """This machine does not do what the images need, and the message says what."""


def image(side: str) -> str:
    """The name of one of our images."""
    return f"localhost/ahs-{side}:{VERSION}"


class Workshop:
    """Builds and starts; see the top."""

    def __init__(self, folder: Path, *, pause_s: float = PAUSE_S) -> None:
        self.folder = folder
        self._pause_s = pause_s
        self.base = ""
        self.variables = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def said(
        self,
        *command: str,
        check: bool = True,
        timeout_s: float = 600,
        stdin: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command; what it has said."""
        done = subprocess.run(
            command,
            env=os.environ | self.variables | dict(variables or {}),
            cwd=ROOT,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    # -- what the machine does ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Finds a storage and a runtime with which this machine starts a container.

        Raises:
            Refused: there is none.
        """
        root = self.folder / "probe"
        _tiny_root(root)
        answers = []
        for runtime in filter(shutil.which, ("runc", "crun")):
            for driver in ("overlay", "vfs"):
                self._configure(driver, runtime)
                if not (answer := self._starts_a_container(root)):
                    shutil.rmtree(root)
                    return
                answers.append(f"{runtime} on {driver}: {answer}")
                self._forget_store()
        raise Refused(f"this machine starts no container ({'; '.join(answers) or 'neither runc nor crun is here'})")

    def _configure(self, driver: str, runtime: str) -> None:
        text = CONTAINERS.format(runtime=runtime, folder=self.folder)
        if networks_have_names():
            text += 'network_backend = "netavark"\n'
        (self.folder / "containers.conf").write_text(text)
        (self.folder / "storage.conf").write_text(STORAGE.format(driver=driver, folder=self.folder))

    def _starts_a_container(self, root: Path) -> str:
        """Nothing if a container with one small program ran, in a build and by itself; else what was answered."""
        steps: tuple[tuple[str, ...], ...] = (
            ("buildah", "from", "--name", "ahs-probe", "scratch"),
            ("buildah", "add", "--quiet", "ahs-probe", str(root), "/"),
            ("buildah", "run", *CHROOT, "ahs-probe", "/true"),
            ("buildah", "commit", "--quiet", "--rm", "ahs-probe", PROBE),
            ("podman", "run", "--rm", *HARDENED, PROBE, "/true"),
        )
        for step in steps:
            try:
                done = self.said(*step, check=False, timeout_s=120)
            except subprocess.TimeoutExpired:
                return f"{step[0]} {step[1]}: no answer in two minutes"
            if done.returncode:
                return f"{step[0]} {step[1]}: {_last_line(done.stderr)}"
        return ""

    # -- the base ----------------------------------------------------------------------------------------------------

    def make_base(self) -> None:
        """A base image: the one that is named in AHS_BASE_IMAGE, or a Debian with python3 made here.

        Raises:
            Refused: what it is made of could not be fetched.
        """
        if given := os.environ.get("AHS_BASE_IMAGE"):
            self.base = given
            return
        root = self.folder / "root"
        suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
        packages = "--include=python3,python3-venv,ca-certificates"

        def fetch() -> None:
            shutil.rmtree(root, ignore_errors=True)
            self.said("debootstrap", "--variant=minbase", packages, suite, str(root), timeout_s=DOWNLOAD_S)

        self.fetched(f"debootstrap {suite}", fetch)
        if CERTIFICATES.exists():
            shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        for rest in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / rest, ignore_errors=True)
        container = self.said("buildah", "from", "scratch").stdout.strip()
        self.said("buildah", "add", "--quiet", container, str(root), "/")
        self.said("buildah", "commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root, ignore_errors=True)
        self.base = BASE

    def fetched(self, what: str, fetch: Callable[[], object]) -> None:
        """Fetches, and once more if that failed: a line that breaks once is no reason to leave the images untried.

        Raises:
            Refused: it failed twice.
        """
        for last in (False, True):
            try:
                fetch()
                return
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                if last:
                    raise Refused(f"{what}: {_last_line(str(exc))}") from exc
                time.sleep(self._pause_s)

    # -- the images --------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Both images of ours, by the script behind `make images`."""
        self.said(
            "docker/build.sh",
            timeout_s=1500,
            variables={
                "IMAGE_TOOL": "buildah",
                "BASE_IMAGE": self.base,
                "PIP_CONF": str(self._pip_configuration()),
                "BUILD_ARGS": " ".join(CHROOT),
            },
        )

    def make_stand_ins(self) -> None:
        """Images with the programs of PostgreSQL, Mosquitto and Prometheus.

        Raises:
            Refused: their packages could not be fetched.
        """
        context = Path(__file__).parent / "stand_ins"
        given = (
            "buildah",
            "build",
            *CHROOT,
            "--format",
            "docker",
            "--layers",
            "--build-arg",
            f"BASE_IMAGE={self.base}",
        )

        def build(target: str, name: str) -> None:
            self.said(*given, "--target", target, "--tag", name, str(context), timeout_s=DOWNLOAD_S)

        self.fetched("packages for the stand-ins", lambda: build("installed", "localhost/ahs-test-installed:1"))
        for target, name in STAND_INS.items():
            build(target, name)

    def _pip_configuration(self) -> Path:
        """How pip reaches its index on this machine, without what lies in folders of this machine."""
        carried = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout")
        pip = (sys.executable, "-m", "pip", "config", "list")
        listed = subprocess.run(pip, capture_output=True, text=True, check=False)
        lines = ["[global]"]
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            key, value = name.rpartition(".")[2], value.strip("'\"")
            if key in carried and "file:" not in value:
                lines.append(f"{key} = {value}")
        if CERTIFICATES.exists():
            lines.append(f"cert = {CERTIFICATES}")
        file = self.folder / "pip.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")
        return file

    # -- containers --------------------------------------------------------------------------------------------------

    def wait_until_healthy(self, container: str, *, timeout_s: float = 180) -> None:
        """Asks a container's own health check until it says yes. (podman leaves the asking to systemd.)"""
        ends_s = time.monotonic() + timeout_s
        while self.said("podman", "healthcheck", "run", container, check=False).returncode:
            if time.monotonic() > ends_s:
                log = self.said("podman", "logs", container, check=False)
                raise AssertionError(f"{container} is not healthy\n{log.stdout[-3000:]}\n{log.stderr[-3000:]}")
            time.sleep(1)

    def close(self) -> None:
        """Stops what runs and removes the store."""
        self._forget_store()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget_store(self) -> None:
        for command in (
            ("podman", "rm", "--all", "--force", "--time", "5"),
            ("podman", "volume", "rm", "--all", "--force"),
            ("podman", "network", "prune", "--force"),
            ("buildah", "rm", "--all"),
        ):
            self.said(*command, check=False, timeout_s=120)
        for place in ("graph/overlay", "graph/containers/overlay"):
            subprocess.run(["umount", str(self.folder / place)], capture_output=True, check=False)
        for place in ("graph", "run"):
            shutil.rmtree(self.folder / place, ignore_errors=True)


def _tiny_root(root: Path) -> None:
    """A root folder with `true` and the libraries it asks for."""
    program = shutil.which("true") or "/bin/true"
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    root.mkdir()
    shutil.copy(program, root / "true")
    for library in re.findall(r"(/\S+) \(0x", listed):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"
