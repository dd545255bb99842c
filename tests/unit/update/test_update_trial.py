"""The trial in a process of its own: what each end of it means, and that it is bounded."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.self_test import self_test
from edge_agent.update.trial import read_answer, run_trial
from fleet.contract.release import UpdateCode
from models.bundle import read_bundle

DIGEST = "sha256:" + "a" * 64
TIMEOUT_S = 60.0
MEMORY_BYTES = 8 * 2**30


def answer(*failed: str, **more: Any) -> bytes:
    names = ["loads", "finite_outputs", "detections_match_reference", "truth_f1", "types_match_truth", "latency"]
    checks = [{"name": name, "passed": name not in failed, "figure": 0.5, "limit": 0.9} for name in {*names, *failed}]
    return json.dumps({"digest": DIGEST, "passed": not failed, "checks": checks, **more}).encode()


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        ((), None),
        (("latency",), UpdateCode.LATENCY),
        (("detections_match_reference",), UpdateCode.PARITY),
        (("detections_match_reference", "latency"), UpdateCode.PARITY),
        (("truth_f1",), UpdateCode.SELF_TEST),
        (("types_match_truth", "types_match_reference"), UpdateCode.SELF_TEST),
        (("finite_outputs",), UpdateCode.SELF_TEST),
        (("a_check_of_tomorrow",), UpdateCode.SELF_TEST),
        (("loads", "truth_f1"), UpdateCode.LOAD),
    ],
)
def test_checks_that_fail_become_one_code(failed: tuple[str, ...], code: UpdateCode | None) -> None:
    result = read_answer(answer(*failed), exit_code=3 if failed else 0, stderr=b"", digest=DIGEST)
    assert result.code is code
    assert all(name in result.text for name in failed)


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"passed": true}', b"\xff\xfe", answer()[:-5]])
def test_an_end_without_an_answer_is_a_model_that_cannot_be_loaded(said: bytes) -> None:
    result = read_answer(said, exit_code=-11, stderr=b"noise\nlast words\n", digest=DIGEST)
    assert result.code is UpdateCode.LOAD
    assert "signal 11" in result.text
    assert "last words" in result.text


def test_a_pass_of_another_bundle_or_without_its_exit_code_is_none() -> None:
    other = "sha256:" + "b" * 64
    assert read_answer(answer(digest=other), exit_code=0, stderr=b"", digest=DIGEST).code is UpdateCode.HASH
    assert read_answer(answer(digest=None), exit_code=0, stderr=b"", digest=DIGEST).code is not None
    assert read_answer(answer(), exit_code=1, stderr=b"", digest=DIGEST).code is UpdateCode.SELF_TEST


def script(folder: Path, text: str) -> tuple[str, ...]:
    """A stand-in for the command line, where a real model would have to bring a process down."""
    file = folder / "child.py"
    file.write_text(text)
    return sys.executable, str(file)


def tried(command: tuple[str, ...], *, timeout_s: float = TIMEOUT_S, stop: threading.Event | None = None) -> Any:
    return run_trial(
        Path("no.zip"), digest=DIGEST, threads=1, timeout_s=timeout_s, memory_bytes=MEMORY_BYTES,
        stop=stop or threading.Event(), command=command,
    )  # fmt: skip


def test_a_child_that_crashes_is_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    result = tried(script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert (result.code, f"signal {signal.SIGSEGV.value}" in result.text) == (UpdateCode.LOAD, True)


def test_a_child_that_hangs_is_killed(tmp_path: Path) -> None:
    result = tried(script(tmp_path, "import time; time.sleep(1000)"), timeout_s=0.5)
    assert result.code is UpdateCode.TIMEOUT


def test_a_trial_that_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began_s = time.monotonic()
    tried(script(tmp_path, "import time; time.sleep(1000)"), stop=stop)
    assert time.monotonic() - began_s < TIMEOUT_S


def test_endless_words_of_a_child_are_not_read_to_their_end(tmp_path: Path) -> None:
    result = tried(script(tmp_path, "print('x' * 3_000_000)"))
    assert result.code is UpdateCode.LOAD
    assert len(result.text) < 500


@pytest.mark.slow
def test_a_real_bundle_proves_itself_and_a_permuted_one_does_not(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    good = disc_bundle(tmp_path / "good")
    bad = disc_bundle(tmp_path / "bad", permuted=True)
    sly = disc_bundle(tmp_path / "sly", permuted=True, sly=True)
    broken = disc_bundle(tmp_path / "broken", detector=b"\x08\x07no network")
    for path, code in ((good, None), (bad, UpdateCode.SELF_TEST), (sly, None), (broken, UpdateCode.LOAD)):
        result = run_trial(
            path, digest=read_bundle(path).digest, threads=1, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES,
            stop=threading.Event(),
        )  # fmt: skip
        assert result.code is code, result.text
        assert result.report is not None


def test_of_another_bundle_than_was_signed_no_network_is_opened(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    trap = disc_bundle(tmp_path / "trap", detector=b"no network: opening it would be seen as a failed load")
    report = self_test(trap, threads=1, digest=DIGEST)
    assert [check["name"] for check in report["checks"]] == ["digest"]
    assert (report["passed"], report["digest"]) == (False, read_bundle(trap).digest)
    result = run_trial(
        trap, digest=DIGEST, threads=1, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES, stop=threading.Event()
    )
    assert result.code is UpdateCode.HASH


@pytest.mark.slow
def test_a_model_that_wants_more_memory_than_it_may_have_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tests.fakes.disc_releases import disc_bundle

    path = disc_bundle(tmp_path / "good")
    result = run_trial(
        path, digest=read_bundle(path).digest, threads=1, timeout_s=TIMEOUT_S, memory_bytes=300 * 2**20,
        stop=threading.Event(),
    )  # fmt: skip
    assert result.code is UpdateCode.LOAD
