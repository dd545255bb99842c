"""The trial: a new model's self-test in a process of its own, bounded in time and memory.

1. `python -m edge_agent self-test --bundle ZIP --digest DIGEST --json` is started, its output into files of bounded
   use; another bundle is refused before any of its networks is opened;
2. too long a run, or being asked to stop, kills it;
3. an end that is no answer (crash, kill, no memory) means that the model cannot be loaded here;
4. checks that fail are mapped to one code: loading, then truth, then reference, then time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.contract.release import UpdateCode
from models.runtime import Check, SelfTestReport

POLL_S = 0.05
MAX_OUTPUT_BYTES = 256 * 1024
ALARM_GRACE_S = 10
_LOADING = {"loads"}
_REFERENCE = {
    "detections_match_reference",
    "scores_match_reference",
    "boxes_match_reference",
    "embedding_cosine",
    "types_match_reference",
}
_TIME = {"latency"}


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What the trial showed.

    Attributes:
        code: None when it passed.
        text: for a person.
        report: every check; None when there was no answer.
    """

    code: UpdateCode | None
    text: str
    report: SelfTestReport | None = None


class _CheckRead(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=64)
    passed: bool
    figure: float | None = None
    limit: float | None = None
    detail: str = Field("", max_length=2000)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    digest: str | None
    passed: bool
    checks: list[_CheckRead] = Field(min_length=1, max_length=64)


def run_trial(
    archive: Path,
    *,
    digest: str,
    threads: int,
    timeout_s: float,
    memory_bytes: int,
    stop: threading.Event,
    command: Sequence[str] = (sys.executable, "-m", "edge_agent"),
) -> TrialResult:
    """Runs the trial to its end.

    Args:
        archive: the bundle.
        digest: what it must be.
        threads: ONNX Runtime's threads, as they will be in use.
        timeout_s: longest run.
        memory_bytes: address space of the process.
        stop: ends it early; the result is then of no interest.
        command: what starts the agent's command line.
    """
    alarm_s = int(timeout_s) + ALARM_GRACE_S
    arguments = ["self-test", "--bundle", str(archive), "--json", "--threads", str(threads)]
    arguments += ["--digest", digest]
    arguments += ["--memory-bytes", str(memory_bytes), "--timeout-s", str(alarm_s)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, close_fds=True
        )
        deadline_s = time.monotonic() + timeout_s
        try:
            while child.poll() is None:
                if stop.is_set():
                    return TrialResult(UpdateCode.TIMEOUT, "the trial was ended early")
                if time.monotonic() >= deadline_s:
                    return TrialResult(UpdateCode.TIMEOUT, f"the trial took longer than {timeout_s:.0f} s")
                stop.wait(POLL_S)
        finally:
            child.kill()
            child.wait()
        out.seek(0)
        err.seek(0)
        said, wrote = out.read(MAX_OUTPUT_BYTES), err.read(MAX_OUTPUT_BYTES)
    return read_answer(said, exit_code=child.returncode, stderr=wrote, digest=digest)


def read_answer(said: bytes, *, exit_code: int, stderr: bytes, digest: str) -> TrialResult:
    """What the child's output and end mean."""
    try:
        answer = _Answer.model_validate(json.loads(said))
    except (ValueError, ValidationError):
        last = stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
        how = f"by signal {-exit_code}" if exit_code < 0 else f"with {exit_code}"
        return TrialResult(
            UpdateCode.LOAD, f"the trial's process ended {how} without an answer {last[0]}"[:400].strip()
        )
    report = SelfTestReport(tuple(Check(c.name, c.passed, c.figure, c.limit, c.detail) for c in answer.checks))
    if answer.digest is not None and answer.digest != digest:
        return TrialResult(UpdateCode.HASH, f"{answer.digest} was tried, not {digest}", report)
    if answer.passed and report.passed and answer.digest == digest and exit_code == 0:
        return TrialResult(None, f"{len(report.checks)} checks passed", report)
    failed = "; ".join(f"{check.name} ({_figure(check)})" for check in report.failures) or "the trial did not pass"
    return TrialResult(code_of(report), failed, report)


def code_of(report: SelfTestReport) -> UpdateCode:
    """One code for the checks that failed."""
    failed = {check.name for check in report.failures}
    if failed & _LOADING:
        return UpdateCode.LOAD
    if failed - _REFERENCE - _TIME or not failed:
        return UpdateCode.SELF_TEST
    return UpdateCode.PARITY if failed & _REFERENCE else UpdateCode.LATENCY


def _figure(check: Check) -> str:
    if check.figure is None:
        return check.detail[:200]
    limit = "" if check.limit is None else f", limit {check.limit:g}"
    return f"{check.figure:.3g}{limit}"
