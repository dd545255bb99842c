"""`ahs-edge self-test`: a bundle proves itself on this workstation, in this process and no other.

The agent runs it as a child before a new model is used: whatever an unproven file does to the libraries that open it,
it does to a process that has bounds of time and memory and nothing to lose.
"""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

from edge_agent.inference.engine import measured_threads
from models.bundle import BundleError, read_bundle
from models.runtime import Check, ModelRuntimeError, Pipeline, SelfTestReport, run_self_test

SCHEMA = "ahs.self-test/1"


def limit_this_process(*, memory_bytes: int | None, timeout_s: int | None) -> None:
    """From now on this process ends when it takes longer, and gets no more address space than that."""
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))
    if timeout_s is not None:
        # Also when whoever started us is gone: nobody else would end us then.
        signal.alarm(timeout_s)


def self_test(
    path: Path, *, threads: int | None, digest: str | None = None, latency_limit_ms: float | None = None
) -> dict[str, Any]:
    """Runs the self-test; whatever goes wrong is a failed check.

    Args:
        path: the bundle.
        threads: of ONNX Runtime; measured when None.
        digest: what the bundle must be; of another one no network is opened.
        latency_limit_ms: for one field; the bundle's own when None.

    Returns:
        {schema, digest (None when the bundle cannot be read), passed, checks: [{name, passed, figure, limit, detail}]}.
    """
    found = None
    try:
        bundle = read_bundle(path)
        found = bundle.digest
        if digest is not None and found != digest:
            other = Check("digest", False, detail=f"the bundle is {found}, not {digest}")
            return document(SelfTestReport((other,)), found)
        pipeline = Pipeline(bundle, threads=threads if threads is not None else measured_threads(bundle))
        report = run_self_test(pipeline, latency_limit_ms=latency_limit_ms)
    except (BundleError, ModelRuntimeError, MemoryError) as exc:
        report = SelfTestReport((Check("loads", False, detail=str(exc) or type(exc).__name__),))
    return document(report, found)


def document(report: SelfTestReport, digest: str | None) -> dict[str, Any]:
    """A report as it is written out."""
    checks = [
        {"name": c.name, "passed": c.passed, "figure": c.figure, "limit": c.limit, "detail": c.detail}
        for c in report.checks
    ]
    return {"schema": SCHEMA, "digest": digest, "passed": report.passed, "checks": checks}
