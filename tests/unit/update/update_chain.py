"""The chain of steps that ends confirmed, and benches that stand somewhere on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_agent.update.traffic import (
    ChunkFalse,
    LinkChanged,
    Started,
)
from fleet.contract.messages import Activation, Desired, UpdateState
from tests.unit.edge.edge_builders import DEVICE
from tests.unit.update.update_bench import (
    ALL,
    SETTINGS,
    TWO,
    UpdateBench,
    good_evidence,
    release,
)

S = UpdateState
THREE = release(3)
Step = Callable[[UpdateBench], object]


def links(bench: UpdateBench) -> None:
    bench.tell(LinkChanged(True))


def trusts(bench: UpdateBench) -> None:
    bench.trust(*ALL)


def wants(bench: UpdateBench) -> None:
    bench.want(TWO)


def delivers(bench: UpdateBench) -> None:
    bench.deliver(TWO)


def tries(bench: UpdateBench) -> None:
    bench.end_trial()


def soaks(bench: UpdateBench) -> None:
    bench.wait(11)
    bench.soak(good_evidence())


CHAIN: tuple[tuple[str, Step], ...] = (
    ("link", links),
    ("trust", trusts),
    ("want", wants),
    ("deliver", delivers),
    ("try", tries),
    ("soak", soaks),
)
PATH = [S.IDLE, S.DOWNLOADING, S.VERIFIED, S.TRIAL, S.UNCONFIRMED, S.CONFIRMED]
BEFORE = {S.DOWNLOADING: "deliver", S.TRIAL: "try", S.UNCONFIRMED: "soak"}
"""State -> the step of the chain that would leave it."""


def run(bench: UpdateBench, *, until: str | None = None, instead: dict[str, Step] | None = None) -> UpdateBench:
    """The chain, up to a step (without it), with some steps done otherwise."""
    for name, step in CHAIN:
        if name == until:
            break
        (instead or {}).get(name, step)(bench)
    return bench


def started(**more: Any) -> UpdateBench:
    bench = UpdateBench(**more)
    bench.tell(Started())
    return bench


def reach(state: UpdateState) -> UpdateBench:
    """A bench whose update stands in a state that is under way."""
    bench = started()
    match state:
        case S.WAITING:
            run(bench, until="deliver")
            bench.tell(LinkChanged(False))
        case S.VERIFIED:
            run(bench, instead={"want": lambda b: b.want(TWO, activation=Activation.DOWNLOAD)}, until="try")
        case _:
            run(bench, until=BEFORE[state])
    assert bench.state is state
    return bench


def wish(version: int, rollout: str = "r-2") -> Desired:
    return Desired(device=DEVICE, version=version, release=THREE.digest, counter=3, rollout=rollout,
                   activation=Activation.ACTIVATE)  # fmt: skip


def false_chunks(bench: UpdateBench) -> None:
    for _ in range(SETTINGS.max_bad_chunks):
        bench.tell(ChunkFalse(TWO.chunks[0].sha256))


def soaks_with(**more: Any) -> Step:
    def step(bench: UpdateBench) -> None:
        bench.wait(1)
        bench.soak(good_evidence(**more))

    return step
