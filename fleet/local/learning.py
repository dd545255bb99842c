"""The second half of the loop on one machine: labels, refit, signed release, rollout in two waves, proof.

Every step is done as a person would do it: over REST or by the programs' own commands. Only the reader is a stand-in,
who knows what the simulated microscope has drawn (or, with other pictures, repeats the larger model).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.client import CloudClient
from fleet.client.errors import LinkDown
from fleet.contract.http import CellLabel, LabelsCreate, RolloutCreate, RolloutDetail, SecondOpinion
from fleet.contract.release import RolloutState, Thresholds, WavePlan
from fleet.local.bad_model import write_permuted
from fleet.local.errors import StartError
from fleet.local.system import LocalSystem, run_module
from fleet.local.truth_labels import Box, Truth, UnsureCell, corners, labels_by_larger_model, labels_of, unsure_cells
from models.bundle import read_bundle
from models.bundle.manifest import UNIDENTIFIED
from models.runtime.matching import iou_matrix

MATCH_IOU = 0.5
ROLLOUT_TIMEOUT_S = 240.0
POLL_S = 0.5
MAX_LATER_IMAGES = 30
ENDED = frozenset(
    {RolloutState.COMPLETED, RolloutState.ABORTED, RolloutState.DENIED, RolloutState.SUPERSEDED, RolloutState.PAUSED}
)
THRESHOLDS = Thresholds(
    p_ok=1.0,
    p_error=0.1,
    min_errors=1,
    soak_s=2.0,
    step_deadline_s=120.0,
    wave_deadline_s=200.0,
    min_fields=6,
    max_disagreement=0.2,
)
"""A demonstration's patience: a laboratory would let a wave rest for hours."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Learned:
    """What the second half came to.

    Attributes:
        reader: whose word the labels are.
        truthful: the reader knows what was drawn.
        bad: the model is one that must be stopped.
        opinions, labels: second opinions read to their end, cells labelled.
        model_before, model_after: name and version.
        digest, counter: of the release.
        refit_s: how long the refit took, as a whole process.
        release_bytes: size of the whole release; devices fetch only the chunks they lack.
        taught: opinions that were labelled.
        unsure: cells that the edge had left unidentified and the reader named.
        named_before, named_after: how many of them each model names as the reader did.
        later, later_before, later_after: likewise, cells of images that were not labelled: what was not taught.
        rollout: as the cloud tells it at the end.
        reported: device -> digest that it says it runs.
    """

    reader: str = ""
    truthful: bool = False
    bad: bool = False
    opinions: int = 0
    labels: int = 0
    model_before: str = ""
    model_after: str = ""
    digest: str = ""
    counter: int = 0
    refit_s: float = 0.0
    release_bytes: int = 0
    taught: set[str] = field(default_factory=set)
    unsure: list[UnsureCell] = field(default_factory=list)
    named_before: int = 0
    named_after: int = 0
    later: list[UnsureCell] = field(default_factory=list)
    later_before: int = 0
    later_after: int = 0
    rollout: RolloutDetail | None = None
    reported: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reader:
    """Gives labels to a second opinion; `name` says whose word that is, `truthful` whether it is what was drawn."""

    name: str
    truthful: bool
    label: Callable[[SecondOpinion], tuple[CellLabel, ...]]


def truthful_reader(fields: Mapping[str, Sequence[Truth]]) -> Reader:
    """A reader who knows what was drawn. `fields`: capture id -> true cells."""
    return Reader("the generator's truth", True, lambda opinion: labels_of(opinion, fields[opinion.capture_id]))


def larger_model_as_reader() -> Reader:
    """For pictures whose truth nobody knows."""
    return Reader("the larger model (stands in for a reader)", False, labels_by_larger_model)


def label_all(client: CloudClient, opinions: Sequence[SecondOpinion], reader: Reader, learned: Learned) -> None:
    """Reads every second opinion to its end, over REST, and notes the cells that the edge was unsure of."""
    for opinion in opinions:
        labels = reader.label(opinion)
        client.add_labels(opinion.id, LabelsCreate(labels=labels, done=True))
        learned.opinions += 1
        learned.taught.add(opinion.id)
        learned.labels += len(labels)
        learned.unsure += unsure_cells(opinion, labels)


def refit(system: LocalSystem, learned: Learned) -> tuple[Path, Path]:
    """Exports the labels and refits the head with them; paths of the new bundle and of its evidence.

    Raises:
        StartError: a command failed, or the gate refused the new model; the message is its own.
    """
    exported = system.folder / "labels"
    run_module("fleet", "labels", "export", "--out", str(exported), *system.cloud_options())
    bundle, evidence = system.folder / "refitted", system.folder / "evidence.json"
    started_s = time.monotonic()
    run_module(
        *("training", "refit", "--bundle", str(system.edge_bundle), "--labels", str(exported)),
        *("--out", str(bundle), "--evidence", str(evidence)),
    )
    learned.refit_s = time.monotonic() - started_s
    before, after = read_bundle(system.edge_bundle), read_bundle(bundle)
    learned.model_before = f"{before.manifest.name} {before.manifest.version}"
    learned.model_after = f"{after.manifest.name} {after.manifest.version}"
    learned.digest = after.digest
    return bundle, evidence


def permuted(system: LocalSystem, learned: Learned) -> Path:
    """A model that must be stopped, as a bundle."""
    before = read_bundle(system.edge_bundle)
    bad = write_permuted(system.edge_bundle, system.folder / "permuted", version="6.6.6")
    learned.model_before = f"{before.manifest.name} {before.manifest.version}"
    learned.model_after = f"{bad.manifest.name} {bad.manifest.version} (classes permuted)"
    learned.digest = bad.digest
    return bad.path


def release(system: LocalSystem, learned: Learned, bundle: Path, *, evidence: Path | None) -> None:
    """Signs and uploads a release; without evidence as a drill, unchecked."""
    proof = ("--unchecked",) if evidence is None else ("--evidence", str(evidence))
    run_module(
        *("fleet", "release", "create", "--bundle", str(bundle), "--keys", str(system.keys)),
        *proof,
        *system.cloud_options(),
    )
    with system.client() as client:
        newest = max(client.list_releases().items, key=lambda row: row.counter)
    if newest.digest != learned.digest:
        raise StartError(f"the newest release is {newest.digest}, not {learned.digest}")
    learned.counter, learned.release_bytes = newest.counter, newest.size_bytes


def roll_out(system: LocalSystem, learned: Learned, devices: Sequence[str], tell: Tell) -> None:
    """Creates the rollout, the first device as its bench wave, and watches it to its end.

    Raises:
        StartError: it did not end in time.
    """
    waves = (WavePlan(devices=(devices[0],)), WavePlan(percent=100.0))
    with system.client() as client:
        made = client.create_rollout(
            RolloutCreate(counter=learned.counter, devices=tuple(devices), waves=waves, thresholds=THRESHOLDS)
        )
        deadline_s, said = time.monotonic() + ROLLOUT_TIMEOUT_S, ""
        while time.monotonic() < deadline_s:
            system.refuse_failures()
            now = _asked(client, made.summary.id)
            if now is not None:
                learned.rollout = now
                if (words := standing(now)) != said:
                    tell(said := words)
                if now.summary.state in ENDED:
                    learned.reported = {member.device: member.active or "" for member in now.members}
                    return
            time.sleep(POLL_S)
    raise StartError(f"the rollout had not ended after {ROLLOUT_TIMEOUT_S:.0f} s; it stands: {said}")


def standing(rollout: RolloutDetail) -> str:
    """Where a rollout stands, in one line."""
    summary = rollout.summary
    members = ", ".join(
        f"{m.device} {m.state.value}{f' ({m.code})' if m.code else ''}" if m.offered else f"{m.device} waits"
        for m in rollout.members
    )
    reason = f": {summary.reason}" if summary.reason else ""
    return f"{summary.state.value}{reason}; wave {summary.wave}; {members}"


def _asked(client: CloudClient, rollout: str) -> RolloutDetail | None:
    try:
        return client.get_rollout(rollout)
    except LinkDown:
        return None


def find_later(opinions: Sequence[SecondOpinion], reader: Reader, learned: Learned) -> None:
    """Notes unsure cells of images that nobody labelled, the oldest first, of so many images at most."""
    untaught = [opinion for opinion in reversed(opinions) if opinion.id not in learned.taught]
    for opinion in untaught[:MAX_LATER_IMAGES]:
        learned.later += unsure_cells(opinion, reader.label(opinion))


def judge_unsure(system: LocalSystem, learned: Learned, bundle: Path) -> None:
    """Reads the images of the unsure cells again with both models, as `ahs-edge infer` does."""
    wanted = sorted({cell.opinion for cell in (*learned.unsure, *learned.later)})
    if not wanted:
        return
    pictures = system.folder / "unsure"
    pictures.mkdir(exist_ok=True)
    with system.client() as client:
        for opinion in wanted:
            (pictures / f"{opinion}.jpg").write_bytes(client.opinion_image(opinion))
    before, after = _words(system, pictures, system.edge_bundle), _words(system, pictures, bundle)
    learned.named_before, learned.named_after = _right(before, learned.unsure), _right(after, learned.unsure)
    learned.later_before, learned.later_after = _right(before, learned.later), _right(after, learned.later)


Words = dict[str, list[tuple[Box, str]]]
"""Opinion -> white cells of its image: box and label."""


def _words(system: LocalSystem, pictures: Path, bundle: Path) -> Words:
    out = system.folder / f"infer-{bundle.name}.json"
    run_module("edge_agent", "infer", "--images", str(pictures), "--bundle", str(bundle), "--out", str(out))
    found: Words = {}
    for image in json.loads(out.read_text(encoding="utf-8"))["images"]:
        found[Path(image["file"]).stem] = [
            (tuple(cell["bbox"]), cell["cell_type"]["label"])
            for cell in image["detections"]
            if cell["counted"] and cell.get("cell_type")
        ]
    return found


def _right(words: Words, cells: Sequence[UnsureCell]) -> int:
    return sum(_word(words.get(cell.opinion, []), cell.box) == cell.label for cell in cells)


def _word(found: Sequence[tuple[Box, str]], box: Box) -> str:
    if not found:
        return UNIDENTIFIED
    overlaps = iou_matrix([corners(box)], [corners(other) for other, _ in found])[0]
    best = int(overlaps.argmax())
    return found[best][1] if overlaps[best] >= MATCH_IOU else UNIDENTIFIED


def all_opinions(client: CloudClient) -> list[SecondOpinion]:
    """Every second opinion of the site, newest first."""
    found: list[SecondOpinion] = []
    cursor = None
    while True:
        page = client.list_opinions(cursor=cursor)
        found += [client.get_opinion(row.id) for row in page.items]
        if (cursor := page.next_cursor) is None:
            return found
