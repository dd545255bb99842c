"""`ahs-fleet keys`, `factory` and `release` as an operator types them, against a cloud over real HTTP."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fleet.cli import app
from fleet.contract.http import Problem, ReleaseDetail
from fleet.release import replacing
from fleet.release.keys import ONLINE_KEY, RELEASE_KEY, ROOT_KEY, load_key, save_keys
from fleet.release.package import read_trust, write_kit, write_trust
from fleet.release.repository import releases_of
from fleet.release.rotation import KeyRole
from models.bundle import Bundle, read_bundle, write_bundle
from tests.fakes.evaluations import changed, evidence_bytes, good_figures
from tests.fakes.release_cloud import ReleaseCloud, serving
from tests.unit.release.release_chain import FIELDS, Fleet, bundle_files

ZOO = Path(__file__).resolve().parents[3] / "models" / "zoo"

Command = Callable[..., Result]


def plain(folder: Path, *, version: str = "1.0.0", head: bytes = b"head one", role: str = "edge") -> Bundle:
    """A bundle whose networks are none: intact, but it cannot pass a self-test."""
    return write_bundle(folder, {**FIELDS, "version": version, "role": role}, bundle_files(head))


@pytest.fixture
def cloud() -> Iterator[ReleaseCloud]:
    with serving(ReleaseCloud()) as state:
        yield state


@pytest.fixture
def run(cloud: ReleaseCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AHS_FLEET_CLOUD", cloud.url)
    monkeypatch.setenv("AHS_FLEET_TOKEN", "t0")
    monkeypatch.setenv("COLUMNS", "400")
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def begun(run: Command, cloud: ReleaseCloud, tmp_path: Path) -> Command:
    """A fleet whose cloud has release 1."""
    now = datetime.now(UTC)
    fleet = Fleet.begun(now).released(at=now)
    save_keys(tmp_path / "keys", fleet.keys)
    write_trust(tmp_path / "keys" / "trust.json", fleet.trust)
    write_kit(tmp_path / "factory", fleet.trust, fleet.archives[1])
    cloud.online = fleet.keys.online
    began = run("release", "begin")
    assert (began.exit_code, began.stdout) == (0, "1\n"), began.stderr
    return run


def evidence(path: Path, digest: str, *, accepted: bool = True, champion: str = "sha256:" + "a" * 64) -> Path:
    after = good_figures() if accepted else changed(good_figures(), "home", named=0.5)
    path.write_bytes(evidence_bytes(digest, champion, after=after))
    return path


def test_keys_are_for_their_owner_alone_and_never_overwritten(run: Command, tmp_path: Path) -> None:
    assert run("keys", "init", "--out", "k").exit_code == 0
    for name in (ROOT_KEY, RELEASE_KEY, ONLINE_KEY):
        assert stat.S_IMODE((tmp_path / "k" / name).stat().st_mode) == 0o600
    before = (tmp_path / "k" / ROOT_KEY).read_bytes()
    again = run("keys", "init", "--out", "k")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "not overwritten" in again.stderr
    (tmp_path / "k" / "trust.json").unlink()
    assert run("keys", "init", "--out", "k").exit_code == 2
    assert (tmp_path / "k" / ROOT_KEY).read_bytes() == before


@pytest.mark.slow
def test_the_shipped_bundle_becomes_a_kit_that_verifies(run: Command, tmp_path: Path) -> None:
    run("keys", "init")
    made = run("factory", "--bundle", ZOO / "edge-1.0.0")
    assert made.exit_code == 0, made.stderr
    digest = read_bundle(ZOO / "edge-1.0.0").digest
    assert made.stdout == f"{digest}\n"
    proof = run("release", "verify", "factory", "--keys", "keys", "--fresh")
    assert proof.exit_code == 0, proof.stderr
    assert digest in proof.stdout
    trust = (tmp_path / "factory" / "trust.json").read_bytes()
    assert run("factory", "--bundle", ZOO / "edge-1.0.0", "--out", "second").exit_code == 0
    assert (tmp_path / "second" / "trust.json").read_bytes() == trust
    assert releases_of(read_trust(tmp_path / "factory" / "trust.json"))[0].checked


@pytest.mark.slow
@pytest.mark.parametrize("role", list(KeyRole))
def test_a_kit_is_made_with_the_key_whose_replacement_was_cut_short(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: KeyRole
) -> None:
    run("keys", "init")
    keys = tmp_path / "keys"
    with monkeypatch.context() as killed:
        killed.setattr(replacing, "finish_replacement", lambda folder: None)
        assert run("keys", "replace", role.value).exit_code == 0
    assert (keys / "trust.json.new").exists()
    made = run("factory", "--bundle", ZOO / "edge-1.0.0")
    assert made.exit_code == 0, made.stderr
    assert not list(keys.glob("*.new"))
    for path in (keys, tmp_path / "factory"):
        trust = read_trust(path / "trust.json")
        assert (len(trust.roots), [release.counter for release in releases_of(trust)]) == (2, [1])
    proof = run("release", "verify", "factory", "--keys", "keys", "--fresh")
    assert proof.exit_code == 0, proof.stderr


def test_a_bundle_that_fails_its_self_test_is_neither_shipped_nor_released(begun: Command, tmp_path: Path) -> None:
    plain(tmp_path / "bad", version="1.2.0", head=b"bad")
    refused = begun("release", "create", "--bundle", "bad")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "fails its self-test: loads" in refused.stderr
    assert begun("factory", "--bundle", "bad", "--out", "other").exit_code == 1
    assert not (tmp_path / "other").exists()


def test_for_a_drill_an_unchecked_bundle_is_released_and_says_so(
    begun: Command, cloud: ReleaseCloud, tmp_path: Path
) -> None:
    bundle = plain(tmp_path / "second", version="1.2.0", head=b"head two")
    made = begun("release", "create", "--bundle", "second", "--unchecked")
    assert (made.exit_code, made.stdout) == (0, "2\n"), made.stderr
    assert "self-test was not run" in made.stderr
    assert "bench" in made.stderr
    assert cloud.trust is not None
    newest = releases_of(cloud.trust)[-1]
    assert (newest.digest, newest.counter, newest.checked, newest.evidence) == (bundle.digest, 2, False, None)
    assert read_trust(tmp_path / "keys" / "trust.json") == cloud.trust
    shown = ReleaseDetail.model_validate_json(begun("release", "show", "2").stdout)
    assert shown.target == newest
    listed = begun("release", "list").stdout
    assert listed.index("plain 1.2.0") < listed.index("plain 1.1.0")
    assert "not run" in listed


def test_only_the_changed_part_of_a_refit_travels(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    begun("release", "create", "--bundle", "second", "--unchecked")
    assert cloud.trust is not None
    first, second = releases_of(cloud.trust)
    new = {chunk.sha256: chunk.size_bytes for chunk in second.chunks if chunk not in first.chunks}
    assert sum(new.values()) < 0.05 * second.size_bytes


def test_releasing_the_same_again_makes_no_second_release(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    begun("release", "create", "--bundle", "second", "--unchecked")
    posts = cloud.posts
    again = begun("release", "create", "--bundle", "second", "--unchecked")
    assert (again.exit_code, again.stdout, cloud.posts) == (0, "2\n", posts)
    assert begun("release", "begin").exit_code == 0
    assert cloud.trust is not None
    assert len(releases_of(cloud.trust)) == 2


def test_evidence_goes_with_the_release_and_is_named_in_it(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    bundle = plain(tmp_path / "second", version="1.2.0", head=b"head two")
    never = evidence(tmp_path / "never.json", bundle.digest)
    refused = begun("release", "create", "--bundle", "second", "--unchecked", "--evidence", never)
    assert refused.exit_code == 1
    assert "never released" in refused.stderr
    assert cloud.trust is not None
    champion = releases_of(cloud.trust)[0].digest
    path = evidence(tmp_path / "evidence.json", bundle.digest, champion=champion)
    made = begun("release", "create", "--bundle", "second", "--unchecked", "--evidence", path)
    assert made.exit_code == 0, made.stderr
    named = releases_of(cloud.trust)[-1].evidence
    assert named is not None
    assert named.accepted


def test_evidence_that_does_not_speak_for_the_bundle_is_refused(begun: Command, tmp_path: Path) -> None:
    bundle = plain(tmp_path / "second", version="1.2.0", head=b"head two")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for path, words in (
        (evidence(tmp_path / "other.json", "sha256:" + "c" * 64), "not about this bundle"),
        (
            evidence(tmp_path / "no.json", bundle.digest, accepted=False),
            "share named is worse by 0.46",
        ),
        (broken, "cannot be read"),
        (tmp_path / "absent.json", "cannot be read"),
    ):
        refused = begun("release", "create", "--bundle", "second", "--unchecked", "--evidence", path)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert words in refused.stderr


def test_missing_and_wrong_keys_are_told_apart(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    create = ("release", "create", "--bundle", "second", "--unchecked")
    missing = begun(*create, "--keys", "nowhere")
    assert missing.exit_code == 2
    assert "there is no key" in missing.stderr
    begun("keys", "init", "--out", "foreign")
    foreign = begun(*create, "--keys", "foreign")
    assert foreign.exit_code == 1
    assert "another root than yours" in foreign.stderr
    shutil.copy(tmp_path / "foreign" / RELEASE_KEY, tmp_path / "keys" / RELEASE_KEY)
    wrong = begun(*create)
    assert wrong.exit_code == 2
    assert "not the one that the root names" in wrong.stderr
    (tmp_path / "keys" / RELEASE_KEY).write_text("no key")
    junk = begun(*create)
    assert junk.exit_code == 2
    assert "no private key" in junk.stderr
    assert cloud.trust is not None
    assert len(releases_of(cloud.trust)) == 1


def test_a_cloud_that_refuses_is_told_in_its_own_words(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    cloud.refusal = Problem(title="Conflict", status=409, code="releases_off", detail="no key", hint="set one")
    refused = begun("release", "create", "--bundle", "second", "--unchecked")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "409 Conflict: no key: set one" in refused.stderr
    cloud.refusal = None
    assert begun("release", "create", "--bundle", "second", "--unchecked").stdout == "2\n"


def test_a_cloud_that_was_given_no_trust_yet_is_told_as_such(run: Command, tmp_path: Path) -> None:
    run("keys", "init")
    plain(tmp_path / "second")
    refused = run("release", "create", "--bundle", "second", "--unchecked")
    assert refused.exit_code == 2
    assert "give the first trust" in refused.stderr


def test_nothing_is_signed_for_a_cloud_that_was_set_back(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    before = cloud.trust
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    begun("release", "create", "--bundle", "second", "--unchecked")
    cloud.trust = before
    plain(tmp_path / "third", version="1.2.0", head=b"head three")
    refused = begun("release", "create", "--bundle", "third", "--unchecked")
    assert refused.exit_code == 1
    assert "was set back" in refused.stderr


def test_verify_refuses_what_does_not_hold(begun: Command, cloud: ReleaseCloud, tmp_path: Path) -> None:
    assert begun("release", "verify").exit_code == 0
    assert begun("release", "verify", "--keys", "keys").exit_code == 0
    begun("keys", "init", "--out", "foreign")
    foreign = begun("release", "verify", "factory", "--keys", "foreign")
    assert foreign.exit_code == 1
    assert "another root" in foreign.stderr
    plain(tmp_path / "other", version="3.0.0")
    stranger = begun("release", "verify", "factory", "--bundle", "other")
    assert stranger.exit_code == 1
    assert "no release of these documents" in stranger.stderr
    kit = tmp_path / "factory"
    damaged = bytearray((kit / "bundle.zip").read_bytes())
    damaged[5000] ^= 1
    (kit / "bundle.zip").write_bytes(damaged)
    assert begun("release", "verify", "factory").exit_code == 1
    trust = read_trust(kit / "trust.json")
    write_trust(kit / "trust.json", trust.model_copy(update={"targets": trust.targets.replace("plain", "plane")}))
    changed = begun("release", "verify", kit / "trust.json")
    assert changed.exit_code == 1
    assert "not signed" in changed.stderr


def test_a_bundle_for_the_cloud_is_not_released_to_devices(begun: Command, tmp_path: Path) -> None:
    plain(tmp_path / "large", role="second-opinion")
    refused = begun("release", "create", "--bundle", "large", "--unchecked")
    assert refused.exit_code == 1
    assert "second-opinion" in refused.stderr


def test_a_bundle_that_is_not_there_is_a_sentence(begun: Command) -> None:
    refused = begun("release", "create", "--bundle", "nowhere", "--unchecked")
    assert refused.exit_code == 1
    assert "there is no bundle" in refused.stderr


@pytest.mark.parametrize("role", ["root", "release", "online"])
def test_a_replaced_key_is_published_and_releases_go_on(
    begun: Command, cloud: ReleaseCloud, tmp_path: Path, role: str
) -> None:
    path = tmp_path / "keys" / f"{role}.key"
    old = path.read_bytes()
    done = begun("keys", "replace", role)
    assert done.exit_code == 0, done.stderr
    assert path.read_bytes() != old
    assert (tmp_path / "keys" / f"{role}.key.until-root-2").read_bytes() == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if role == "online":
        early = begun("keys", "publish")
        assert early.exit_code == 2
        assert "online key" in early.stderr
        cloud.online = load_key(path)
    published = begun("keys", "publish")
    assert published.exit_code == 0, published.stderr
    assert begun("keys", "publish").exit_code == 0
    plain(tmp_path / "second", version="1.2.0", head=b"head two")
    made = begun("release", "create", "--bundle", "second", "--unchecked")
    assert (made.exit_code, made.stdout) == (0, "2\n"), made.stderr
    assert begun("release", "verify", "--keys", "keys").exit_code == 0


@pytest.mark.parametrize("role", ["release", "online"])
def test_a_kit_waits_for_the_cloud_to_know_the_new_key(begun: Command, tmp_path: Path, role: str) -> None:
    assert begun("keys", "replace", role).exit_code == 0
    before = (tmp_path / "factory" / "trust.json").read_bytes()
    refused = begun("factory", "--bundle", "factory/bundle.zip")
    assert refused.exit_code == 1
    assert "ahs-fleet keys publish" in refused.stderr
    assert (tmp_path / "factory" / "trust.json").read_bytes() == before


def test_without_the_root_key_no_key_is_replaced(begun: Command, tmp_path: Path) -> None:
    (tmp_path / "keys" / ROOT_KEY).unlink()
    before = (tmp_path / "keys" / ONLINE_KEY).read_bytes()
    refused = begun("keys", "replace", "online")
    assert refused.exit_code == 2
    assert "there is no key" in refused.stderr
    assert (tmp_path / "keys" / ONLINE_KEY).read_bytes() == before
