"""Certificates, passwords and broker accounts of one box: run by the service `setup` of docker-compose.yml.

    init            make what is not there, renew certificates that end soon (each start of the box)
    account NAME    let a device into the broker; its token comes on stdin
    remove NAME     take it away again
    online-key      take the online key of `ahs-fleet keys init` from stdin
    ca              print the certificate of the box's own authority, for devices and browsers

Each secret lies in the folder (a volume) of the one that reads it, with its account as owner and mode 0400:

    authority/  ca.key                                              nobody but this program
    public/     ca.crt                                              everybody
    broker/     server.crt server.key passwords mosquitto_sub       the broker
    database/   password                                            PostgreSQL
    cloud/      server.crt server.key broker-password pgpass online.key     web and worker

Nothing is printed but the certificate. Exit codes: 0 done; 2 what was given cannot work.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import ipaddress
import os
import re
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = Path(os.environ.get("AHS_SECRETS", "/secrets"))

BROKER_UID, DATABASE_UID, CLOUD_UID = 1883, 999, 10001
"""Accounts of the images of Mosquitto, PostgreSQL and ours; docker-compose.yml names the same."""

CLOUD_ACCOUNT, PROBE_ACCOUNT = "_cloud", "_probe"
OWN_NAMES = ("localhost", "127.0.0.1", "broker", "cloud-web")
AUTHORITY_LIFE, SERVER_LIFE, RENEW_BEFORE = timedelta(days=3650), timedelta(days=730), timedelta(days=60)
CLOCKS_DIFFER = timedelta(hours=24)

_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{20,200}")


class CannotWork(Exception):
    """What was given, or lies there, is of no use."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; see the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("init", "online-key", "ca"):
        commands.add_parser(name)
    for name in ("account", "remove"):
        commands.add_parser(name).add_argument("name")
    given = parser.parse_args(arguments)
    try:
        with _alone():
            if given.command == "init":
                init(os.environ.get("AHS_HOST_NAMES", ""))
            elif given.command == "account":
                add_account(given.name, sys.stdin.read().strip())
            elif given.command == "remove":
                remove_account(given.name)
            elif given.command == "online-key":
                put_online_key(sys.stdin.buffer.read())
            else:
                sys.stdout.write(_there("public/ca.crt").decode())
    except CannotWork as exc:
        sys.stderr.write(f"one_box: {exc}\n")
        return 2
    return 0


def init(host_names: str) -> None:
    """Makes what is not there. Whatever is there stays, but for certificates that end soon or lack a name.

    Args:
        host_names: further names and addresses of the box, separated by commas.
    """
    names = [*OWN_NAMES, *(name.strip() for name in host_names.split(",") if name.strip())]
    for folder in ("authority", "public", "broker", "database", "cloud"):
        (FOLDER / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    authority, key = _authority()
    for folder, owner in (("broker", BROKER_UID), ("cloud", CLOUD_UID)):
        _server_certificate(folder, names, authority, key, owner)
    if not (FOLDER / "database/password").exists() or not (FOLDER / "cloud/pgpass").exists():
        _database_password()
    if not (FOLDER / "cloud/broker-password").exists():
        _put("cloud/broker-password", secrets.token_urlsafe(32).encode(), CLOUD_UID)
    if not (FOLDER / "broker/mosquitto_sub").exists():
        _probe(secrets.token_urlsafe(32))
    accounts = _accounts()
    for account, password in (
        (CLOUD_ACCOUNT, _there("cloud/broker-password").decode()),
        (PROBE_ACCOUNT, _probe_password()),
    ):
        if account not in accounts or not is_password(password, accounts[account]):
            accounts[account] = hashed(password)
    _put_accounts(accounts)


def add_account(name: str, token: str) -> None:
    """Lets a device into the broker, or changes its token there. The broker reads it on SIGHUP."""
    if not _DEVICE.fullmatch(name):
        raise CannotWork(f"{name!r} is no device's id: 2 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
    if not _TOKEN.fullmatch(token):
        raise CannotWork("give the device's token on stdin, alone: what `ahs-fleet devices create` has printed")
    _put_accounts(_accounts() | {name: hashed(token)})


def remove_account(name: str) -> None:
    """Takes a device's account away."""
    accounts = _accounts()
    if name not in accounts or not _DEVICE.fullmatch(name):
        raise CannotWork(f"the broker has no device {name!r}")
    del accounts[name]
    _put_accounts(accounts)


def put_online_key(pem: bytes) -> None:
    """Stores the key with which the cloud says who gets what."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise CannotWork("stdin holds no private key: give online.key of `ahs-fleet keys init`") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise CannotWork("this is no Ed25519 key: give online.key of `ahs-fleet keys init`")
    _put("cloud/online.key", pem, CLOUD_UID, mode=0o600)


# -- the broker's accounts ------------------------------------------------------------------------------------------


def hashed(password: str, *, salt: bytes | None = None, rounds: int = 101) -> str:
    """A password as Mosquitto stores it (PBKDF2 with SHA-512).

    Its usual number of rounds: the passwords are random and long, and the broker hashes in the loop that serves all.
    """
    salt = salt or secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def is_password(password: str, stored: str) -> bool:
    """Whether `stored` was made of `password`."""
    try:
        _, kind, rounds, salt, _ = stored.split("$")
        again = hashed(password, salt=base64.b64decode(salt, validate=True), rounds=int(rounds))
    except ValueError:
        return False
    return kind == "7" and secrets.compare_digest(again, stored)


def _accounts() -> dict[str, str]:
    file = FOLDER / "broker/passwords"
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _put_accounts(accounts: dict[str, str]) -> None:
    text = "".join(f"{name}:{stored}\n" for name, stored in accounts.items())
    _put("broker/passwords", text.encode(), BROKER_UID)


def _probe(password: str) -> None:
    """Options of `mosquitto_sub` for the broker's own health check."""
    lines = ("-h localhost", "-p 8884", f"-u {PROBE_ACCOUNT}", f"-P {password}", "-t $SYS/broker/uptime")
    text = "\n".join((*lines, "--cafile /run/ahs/public/ca.crt")) + "\n"
    _put("broker/mosquitto_sub", text.encode(), BROKER_UID)


def _probe_password() -> str:
    found = re.search(r"^-P (\S+)$", _there("broker/mosquitto_sub").decode(), re.MULTILINE)
    if found is None:
        raise CannotWork("broker/mosquitto_sub holds no password: remove it, then start again")
    return found[1]


# -- the database ---------------------------------------------------------------------------------------------------


def _database_password() -> None:
    """PostgreSQL takes the password only when its own folder is empty: a lost half is refused, never replaced."""
    here, there = ((FOLDER / name).exists() for name in ("database/password", "cloud/pgpass"))
    if there and not here:
        raise CannotWork("database/password is gone while cloud/pgpass is there: put it back from pgpass")
    if not here:
        _put("database/password", secrets.token_urlsafe(32).encode(), DATABASE_UID)
    _put("cloud/pgpass", b"*:*:ahs:ahs:" + _there("database/password") + b"\n", CLOUD_UID)


# -- certificates ---------------------------------------------------------------------------------------------------


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key = (FOLDER / name for name in ("public/ca.crt", "authority/ca.key"))
    in_use = any((FOLDER / folder / "server.crt").exists() for folder in ("broker", "cloud"))
    if not certificate.exists() and not in_use:  # the first start, or one that was cut between the two files
        _make_authority()
    elif not certificate.exists() or not key.exists():
        raise CannotWork("half of the authority is gone: put public/ca.crt and authority/ca.key back from the backup")
    return x509.load_pem_x509_certificate(_there("public/ca.crt")), _private_key("authority/ca.key")


def _make_authority() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: two boxes' authorities can be trusted side by side.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Automated Hematology System"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"authority {secrets.token_hex(4)}"),
        ]
    )
    certificate = (
        _begun(name, name, key.public_key(), AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _put("authority/ca.key", _pem(key), os.geteuid())
    _put("public/ca.crt", certificate.public_bytes(serialization.Encoding.PEM), os.geteuid(), mode=0o444)


def _server_certificate(
    folder: str, names: list[str], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, owner: int
) -> None:
    alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
    if _still_good(f"{folder}/server.crt", f"{folder}/server.key", alternatives, authority):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder)])
    issuer_key = authority_key.public_key()
    certificate = (
        _begun(subject, authority.subject, key.public_key(), SERVER_LIFE)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _put(f"{folder}/server.key", _pem(key), owner)
    _put(f"{folder}/server.crt", certificate.public_bytes(serialization.Encoding.PEM), owner)


def _still_good(
    certificate: str, key: str, alternatives: x509.SubjectAlternativeName, authority: x509.Certificate
) -> bool:
    """Whether it is ours, has the names, belongs to its key (a cut between the two files) and does not end soon."""
    if not (FOLDER / certificate).exists() or not (FOLDER / key).exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(_there(certificate))
        found.verify_directly_issued_by(authority)
        named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    same_key = found.public_key() == _private_key(key).public_key()
    return same_key and named == alternatives and found.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - CLOCKS_DIFFER).not_valid_after(now + life)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", name):
        raise CannotWork(f"AHS_HOST_NAMES: {name!r} is neither a name nor an address")
    return x509.DNSName(name.lower())


def _private_key(name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_there(name), password=None)
    except ValueError as exc:
        raise CannotWork(f"{name} is no private key: put it back from the backup") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CannotWork(f"{name} is of another kind than this program makes")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# -- files ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One such program at a time."""
    folder = FOLDER / "authority"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _there(name: str) -> bytes:
    try:
        return (FOLDER / name).read_bytes()
    except FileNotFoundError as exc:
        raise CannotWork(f"{name} is not there yet: run `docker compose up -d` (or `init`) first") from exc


def _put(name: str, content: bytes, owner: int, *, mode: int = 0o400) -> None:
    """Whole or not at all, never readable by others in between; owned by the account that reads it."""
    file = FOLDER / name
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner, owner)
        os.fchmod(descriptor, mode)
        out.flush()
        os.fsync(descriptor)
    new.replace(file)


if __name__ == "__main__":
    sys.exit(main())
