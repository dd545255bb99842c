"""Dockerfiles, the compose file and the Jenkinsfile, read as their tools would read them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fleet.contract import topics
from tests.programs import on_path

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
EXTRAS = {"edge": ("edge",), "cloud": ("cloud", "postgres")}
HEAVY = {
    *("torch", "torchvision", "albumentations", "mlflow", "mlflow-skinny", "onnx", "scipy", "matplotlib", "pandas"),
    *("scikit-learn", "iotcore", "pytest", "playwright", "hypothesis", "mypy", "ruff", "opencv-python"),
}
OF_THE_CLOUD = {"sqlalchemy", "alembic", "aiosqlite", "psycopg", "psycopg-binary", "fsspec", "fastapi-offline"}
SECRET_NAMES = re.compile(r"password|secret|token|passwd|api_?key|credential", re.IGNORECASE)


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
LASTING = sorted(set(SERVICES) - {"setup"})


def settled(text: str) -> str:
    """`${NAME:-value}` as it is where nobody has set NAME."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(line[0], line[1] if len(line) > 1 else "") for line in lines]


def closure(extras: tuple[str, ...]) -> set[str]:
    """What pip would install: the requirements of the extras, and theirs, by the metadata of what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    waiting, found = [Requirement(text) for text in listed], set[str]()
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = str(canonicalize_name(requirement.name))
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or []:
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    return found


# -- Dockerfiles -----------------------------------------------------------------------------------------------------


def test_there_is_an_image_for_each_side() -> None:
    assert [file.name.partition(".")[0] for file in DOCKERFILES] == ["cloud", "edge"]


@pytest.mark.hadolint
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    program = on_path("hadolint")
    assert program is not None
    done = subprocess.run([program, str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_has_two_stages_on_a_base_that_can_be_chosen(file: Path) -> None:
    lines = instructions(file)
    assert lines[0][0] == "ARG"
    assert lines[0][1].startswith("BASE_IMAGE=")
    assert [rest for word, rest in lines if word == "FROM"] == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_runs_as_nobody_special_and_can_be_asked_for_its_health(file: Path) -> None:
    last = instructions(file)[max(n for n, (word, _) in enumerate(instructions(file)) if word == "FROM") :]
    words = dict(last)
    assert words["USER"] == "10001:10001"
    assert "AHS_HEALTH_URL" in words["HEALTHCHECK"]
    assert words["ENTRYPOINT"].startswith('["ahs-')
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in words["LABEL"]
    assert "Research use only" in words["LABEL"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_no_secret_is_an_argument_a_variable_or_a_file_of_an_image(file: Path) -> None:
    for word, rest in instructions(file):
        if word in ("ARG", "ENV"):
            assert not SECRET_NAMES.search(rest), rest
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in ignored if line and not line.startswith("#")) == "*", "only what is named goes in"
    named = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        name
        for word, rest in instructions(file)
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert copied <= named
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_asks_for_its_own_extras_by_pinned_versions(file: Path) -> None:
    text = file.read_text()
    assert tuple(re.findall(r'\["optional-dependencies"\]\["(\w+)"\]', text)) == EXTRAS[file.name.partition(".")[0]]
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)


def test_what_the_edge_image_installs_has_nothing_of_training_nor_of_the_cloud() -> None:
    installed = closure(EXTRAS["edge"])
    assert {"onnxruntime", "opencv-python-headless", "paho-mqtt", "tuf", "numpy"} <= installed
    assert installed & (HEAVY | OF_THE_CLOUD) == set()


def test_what_the_cloud_image_installs_has_nothing_of_training() -> None:
    installed = closure(EXTRAS["cloud"])
    assert {"sqlalchemy", "alembic", "psycopg", "psycopg-binary", "tuf", "cryptography"} <= installed
    assert installed & HEAVY == set()


def test_the_walk_over_requirements_sees_what_lies_behind_others() -> None:
    assert "cryptography" in closure(("edge",)), "behind securesystemslib[crypto]"
    assert "pytest" in closure(("test",)) & HEAVY


# -- the compose file ------------------------------------------------------------------------------------------------


def test_the_box_is_web_worker_database_broker_and_prometheus() -> None:
    assert set(SERVICES) == {"setup", "cloud-web", "cloud-worker", "database", "broker", "prometheus"}


@pytest.mark.parametrize("name", LASTING)
def test_a_service_starts_again_by_itself_tells_its_health_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert int(service["user"].partition(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["depends_on"]["setup"] == {"condition": "service_completed_successfully"}


def test_setup_runs_once_as_root_without_a_network() -> None:
    setup = SERVICES["setup"]
    assert (setup["restart"], setup["user"], setup["network_mode"]) == ("no", "0:0", "none")
    assert setup["cap_drop"] == ["ALL"]
    assert set(setup["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_can_be_replaced_by_a_variable_and_has_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"\$\{AHS_[A-Z]+_IMAGE:-[a-z/-]+:[\w.-]*\d[\w.-]*\}", image), image


def test_the_images_of_ours_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ("setup", "cloud-web", "cloud-worker"):
        assert settled(SERVICES[name]["image"]) == f"ahs-cloud:{version}"


def test_no_password_stands_in_a_file_of_the_box() -> None:
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            if SECRET_NAMES.search(key):
                assert str(value).startswith("/run/ahs/"), f"{name}: {key} names a file"
            assert not re.search(r"://[^@/]*:[^@/]*@", str(value)), f"{name}: {key} holds a password"
    for file in ("mosquitto.conf", "mosquitto.acl", "prometheus.yml"):
        assert "PRIVATE KEY" not in (ROOT / "docker" / file).read_text()
        assert not re.search(
            r"^\s*(password|bearer_token|basic_auth)\b(?!_file)", (ROOT / "docker" / file).read_text(), re.M
        )


def test_a_service_sees_only_its_own_secrets_and_cannot_change_them() -> None:
    mounted = {
        name: {v for v in service["volumes"] if "secret" in v or "authority" in v} for name, service in SERVICES.items()
    }
    assert mounted == {
        "setup": {
            "authority:/secrets/authority",
            "public:/secrets/public",
            "broker-secrets:/secrets/broker",
            "database-secrets:/secrets/database",
            "cloud-secrets:/secrets/cloud",
        },
        "broker": {"broker-secrets:/run/ahs/broker:ro"},
        "database": {"database-secrets:/run/ahs/database:ro"},
        "cloud-web": {"cloud-secrets:/run/ahs/cloud:ro"},
        "cloud-worker": {"cloud-secrets:/run/ahs/cloud:ro"},
        "prometheus": set(),
    }


def test_what_is_published_is_encrypted_or_for_this_machine_alone() -> None:
    published = {
        name: [settled(port) for port in service["ports"]] for name, service in SERVICES.items() if "ports" in service
    }
    assert published == {"broker": ["8883:8883"], "cloud-web": ["8443:8443"], "prometheus": ["127.0.0.1:9090:9090"]}


def test_every_volume_is_declared_and_every_file_that_is_mounted_exists() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    named = {name for name in used if not name.startswith("./")}
    assert named == set(compose()["volumes"])
    assert [name for name in used - named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["cloud-web", "cloud-worker"])
def test_the_settings_of_the_box_are_settings_of_the_cloud(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloud.config import Settings, load_settings

    variables = {key: str(value) for key, value in SERVICES[name]["environment"].items() if value is not None}
    for key in [key for key in os.environ if key.startswith("AHS_")]:
        monkeypatch.delenv(key)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    assert settings.broker.uses_tls
    assert settings.http.uses_tls is (name == "cloud-web")
    assert settings.database_url.startswith("postgresql+psycopg://")
    assert "RELEASES" in "".join(SERVICES[name]["environment"])
    assert isinstance(settings, Settings)


def test_a_variable_without_a_value_is_passed_on_only_where_it_is_set() -> None:
    empty = {key for key, value in SERVICES["cloud-web"]["environment"].items() if value is None}
    assert empty == {"AHS_CLOUD__RELEASES__ONLINE_KEY_FILE"}


@pytest.mark.promtool
def test_prometheus_reads_its_configuration_and_our_rules(tmp_path: Path) -> None:
    text = (ROOT / "docker" / "prometheus.yml").read_text()
    authority = tmp_path / "ca.crt"
    authority.write_text("")
    text = text.replace("/etc/prometheus/rules", str(ROOT / "iac" / "prometheus" / "rules"))
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/run/ahs/public/ca.crt", str(authority)))
    promtool = shutil.which("promtool") or ""
    done = subprocess.run(
        [promtool, "check", "config", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(list((ROOT / 'iac' / 'prometheus' / 'rules').glob('*.yaml')))} rule files" in done.stdout


def test_prometheus_asks_services_of_the_box_where_they_listen() -> None:
    jobs = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in jobs}
    web, worker = SERVICES["cloud-web"]["environment"], SERVICES["cloud-worker"]["environment"]
    assert targets["cloud-web"] == f"cloud-web:{web['AHS_CLOUD__HTTP__PORT']}"
    assert targets["cloud-worker"] == f"cloud-worker:{worker['AHS_CLOUD__WORKER__STATUS_PORT']}"


def test_no_account_of_the_boxs_own_can_be_a_devices() -> None:
    acl = (ROOT / "docker" / "mosquitto.acl").read_text()
    users = re.findall(r"^user (\S+)$", acl, re.MULTILINE)
    assert SERVICES["cloud-web"]["environment"]["AHS_CLOUD__BROKER__USER"] in users
    for user in users:
        with pytest.raises(ValueError, match="device id"):
            topics.all_down(user)


# -- the Jenkinsfile -------------------------------------------------------------------------------------------------


def jenkins_stages() -> dict[str, str]:
    """Name -> text of each stage, without comments."""
    text = re.sub(r"^\s*//.*$", "", (ROOT / "Jenkinsfile").read_text(), flags=re.MULTILINE)
    stages = text[: text.index("\n    post {")]
    parts = re.split(r"stage\('([\w-]+)'\)", stages)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_stage_is_one_make_target_of_its_name() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    stages = jenkins_stages()
    assert list(stages) == ["lint", "check", "test-core", "test", "demo-check", "images-check", "images"]
    for name, text in stages.items():
        commands = re.findall(r"sh '([^']*)'", text)
        assert len(commands) == 1
        assert re.match(rf"make {name}( |$)", commands[0]), commands[0]
        assert name in targets


@pytest.mark.parametrize("stage", jenkins_stages())
def test_make_knows_what_a_stage_would_do(stage: str) -> None:
    (command,) = re.findall(r"sh '([^']*)'", jenkins_stages()[stage])
    make, *rest = shlex.split(command)
    done = subprocess.run([make, "--dry-run", *rest], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it would do nothing"


def test_results_of_the_tests_are_kept_whatever_happens() -> None:
    text = (ROOT / "Jenkinsfile").read_text()
    always = text[text.rindex("always {") :]
    assert "junit testResults: 'build/junit/*.xml'" in always
    for stage in ("check", "test-core", "test", "images-check"):
        assert f"--junitxml=build/junit/{stage}.xml" in jenkins_stages()[stage]


def test_the_stage_that_starts_containers_runs_where_that_is_possible_and_keeps_its_own_results() -> None:
    stage = jenkins_stages()["images-check"]
    assert "agent { label 'linux && root && podman' }" in stage
    assert "always { junit testResults: 'build/junit/images-check.xml'" in stage


def test_jenkins_is_told_no_secret_but_by_the_name_of_a_credential() -> None:
    text = (ROOT / "Jenkinsfile").read_text()
    assert re.findall(r"credentialsId: '([\w-]+)'", text) == ["ahs-pip-conf"]
    assert not re.search(r"(password|token|secret)\s*[:=]\s*['\"]", text, re.IGNORECASE)


PARSE = """
import org.codehaus.groovy.control.*
def unit = new CompilationUnit()
unit.addSource('Jenkinsfile', new File(args[0]).text)
try { unit.compile(Phases.CONVERSION) } catch (CompilationFailedException e) { println e.message; System.exit(1) }
"""


@pytest.mark.groovy
@pytest.mark.parametrize("whole", [True, False], ids=["as it is", "one brace short"])
def test_groovy_reads_the_jenkinsfile(tmp_path: Path, whole: bool) -> None:
    text = (ROOT / "Jenkinsfile").read_text()
    file, script = tmp_path / "Jenkinsfile", tmp_path / "parse.groovy"
    file.write_text(text if whole else text.rstrip().removesuffix("}"))
    script.write_text(PARSE)
    java = Path(shutil.which("java") or "").resolve().parent.parent
    done = subprocess.run(
        [shutil.which("groovy") or "groovy", str(script), str(file)],
        env={"JAVA_HOME": str(java)} | os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode == 0) is whole, done.stdout + done.stderr
