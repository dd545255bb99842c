"""`setup` of one box: what it makes, what it leaves alone, what it refuses."""

from __future__ import annotations

import importlib.util
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PROGRAM = Path(__file__).resolve().parents[3] / "docker" / "one_box.py"
PRIVATE = (
    "authority/ca.key",
    "broker/server.key",
    "broker/passwords",
    "broker/mosquitto_sub",
    "database/password",
    "cloud/server.key",
    "cloud/broker-password",
    "cloud/pgpass",
)
TOKEN = "ahs_0123456789abcdefghijklmnopqrstuv"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(certificate: Path) -> list[str]:
    found = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    return [str(name.value) for name in found.get_extension_for_class(x509.SubjectAlternativeName).value]


def test_the_first_start_makes_everything_and_prints_no_secret(box: Any) -> None:
    done = box.setup("init")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in PRIVATE:
        assert (box.secrets / name).stat().st_mode & 0o377 == 0, (
            f"{name} is for its owner's eyes, and not to be changed"
        )
    assert box.ca.stat().st_mode & 0o777 == 0o444
    assert box.secret("database/password") in box.secret("cloud/pgpass")


@pytest.mark.root
def test_each_secret_belongs_to_the_account_that_reads_it(started_box: Any) -> None:
    owners = {name: (started_box.secrets / name).stat().st_uid for name in PRIVATE}
    expected = {"authority": os.geteuid(), "broker": 1883, "database": 999, "cloud": 10001}
    assert owners == {name: expected[name.partition("/")[0]] for name in PRIVATE}


def test_a_second_start_changes_nothing(started_box: Any) -> None:
    before = content(started_box.secrets)
    assert started_box.setup("init").returncode == 0
    assert content(started_box.secrets) == before


def test_two_boxes_share_no_secret(tmp_path: Path, box: Any) -> None:
    other = type(box)(tmp_path / "other")
    assert box.setup("init").returncode == other.setup("init").returncode == 0
    first, second = content(box.secrets), content(other.secrets)
    assert {name for name in first if first[name] == second[name]} == {"authority/.lock"}


@pytest.mark.parametrize("cut", ["broker/server.crt", "broker/server.key", "broker/passwords", "cloud/pgpass"])
def test_a_start_that_was_cut_is_made_good_by_the_next(started_box: Any, cut: str) -> None:
    authority = started_box.ca.read_bytes()
    (started_box.secrets / cut).unlink()
    assert started_box.setup("init").returncode == 0
    assert (started_box.secrets / cut).stat().st_size > 0
    assert started_box.ca.read_bytes() == authority
    assert started_box.secret("database/password") in started_box.secret("cloud/pgpass")


@pytest.mark.parametrize("lost", ["database/password", "authority/ca.key", "public/ca.crt"])
def test_what_cannot_be_made_again_is_told_and_not_replaced(started_box: Any, lost: str) -> None:
    (started_box.secrets / lost).unlink()
    before = content(started_box.secrets)
    done = started_box.setup("init")
    assert done.returncode == 2
    assert lost.rpartition("/")[2] in done.stderr
    assert content(started_box.secrets) == before


def test_a_new_name_of_the_box_gives_new_certificates_of_the_same_authority(started_box: Any) -> None:
    authority = started_box.ca.read_bytes()
    assert started_box.setup("init", names="box.lab, 10.20.30.40").returncode == 0
    for folder in ("broker", "cloud"):
        assert names(started_box.secrets / folder / "server.crt")[-2:] == ["box.lab", "10.20.30.40"]
    assert started_box.ca.read_bytes() == authority


def test_a_name_that_is_none_is_refused(box: Any) -> None:
    done = box.setup("init", names="box lab")
    assert done.returncode == 2
    assert "box lab" in done.stderr


@pytest.mark.openssl
def test_the_certificates_pass_a_strict_verification(started_box: Any) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None
    for folder in ("broker", "cloud"):
        certificate = started_box.secrets / folder / "server.crt"
        command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(started_box.ca)]
        done = subprocess.run([*command, str(certificate)], capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, done.stderr
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, certificate.with_name("server.key"))


def test_certificates_that_end_soon_are_renewed(started_box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("one_box", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "FOLDER", started_box.secrets)
    certificates = [started_box.secrets / folder / "server.crt" for folder in ("broker", "cloud")]
    before = [path.read_bytes() for path in certificates]
    program.init("")
    assert [path.read_bytes() for path in certificates] == before
    monkeypatch.setattr(program, "RENEW_BEFORE", program.SERVER_LIFE)
    program.init("")
    assert not set(before) & {path.read_bytes() for path in certificates}


@pytest.mark.parametrize(
    ("command", "stdin", "words"),
    [
        (("account", "_cloud"), TOKEN, "no device's id"),
        (("account", "bench:1"), TOKEN, "no device's id"),
        (("account", "bench-1"), "", "token on stdin"),
        (("account", "bench-1"), "short", "token on stdin"),
        (("account", "bench-1"), f"{TOKEN}\nother:line", "token on stdin"),
        (("remove", "bench-9"), "", "no device 'bench-9'"),
        (("remove", "_cloud"), "", "no device '_cloud'"),
        (("online-key",), "nothing", "no private key"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    started_box: Any, command: tuple[str, ...], stdin: str, words: str
) -> None:
    before = content(started_box.secrets)
    done = started_box.setup(*command, stdin=stdin)
    assert done.returncode == 2
    assert words in done.stderr
    assert TOKEN not in done.stderr
    assert content(started_box.secrets) == before


def test_a_device_has_one_account_whose_token_is_not_stored(started_box: Any) -> None:
    for token in (TOKEN, TOKEN[::-1]):
        assert started_box.setup("account", "bench-1", stdin=f"{token}\n").returncode == 0
    text = started_box.secret("broker/passwords")
    assert [line.partition(":")[0] for line in text.splitlines()] == ["_cloud", "_probe", "bench-1"]
    assert TOKEN not in text
    assert started_box.setup("remove", "bench-1").returncode == 0
    assert "bench-1" not in started_box.secret("broker/passwords")


def test_the_online_key_is_for_the_cloud_alone(started_box: Any) -> None:
    key = Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, *form).decode()
    assert started_box.setup("online-key", stdin=pem).returncode == 0
    stored = started_box.secrets / "cloud" / "online.key"
    assert stored.read_text() == pem
    assert stored.stat().st_mode & 0o777 == 0o600


def test_a_key_of_another_kind_is_refused_as_online_key(started_box: Any) -> None:
    done = started_box.setup("online-key", stdin=started_box.secret("cloud/server.key"))
    assert done.returncode == 2
    assert "Ed25519" in done.stderr


def test_the_authority_is_printed_for_devices(started_box: Any) -> None:
    assert started_box.setup("ca").stdout == started_box.ca.read_text()


def test_before_the_first_start_there_is_nothing_to_print(box: Any) -> None:
    done = box.setup("ca")
    assert done.returncode == 2
    assert "docker compose up" in done.stderr
