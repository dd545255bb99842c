"""Trains a new embedder with a site's labels mixed in, and takes it through every step to a judged bundle.

1. `check`: each frozen picture has the hash that was locked, before hours are spent on training;
2. `train`: the embedder, from its configuration, on the base cells, generated cells and the site's labels;
3. `export`: ONNX, compared with torch, and int8;
4. `base-set`: base cells and the frozen cells, embedded anew;
5. `pack`: head, golden inputs, card, self-test;
6. `judge`: the gate, evidence, and the bundle at its place.

Each step leaves its result in the work folder and is not done twice: a run that was broken off, or that failed in one
step, goes on there. The detector is the current bundle's: labels name white cells, not every cell of a field, so they
cannot teach it. A new detector is trained by `train` and packed by `pack`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from fleet.release.gate import GatePlan
from models.bundle import Bundle, BundleError, read_bundle, write_bundle
from models.bundle.manifest import DETECTOR_NAME, EMBEDDER_NAME, HEAD_NAME, EmbedderSpec
from models.nets.embedder import CellEmbedder
from models.runtime import ModelRuntimeError, Networks, Pipeline, Session
from models.runtime.head import Head
from models.runtime.imaging import window_for
from training.base_cells import (
    FrozenCell,
    cut,
    embed_cells,
    frozen_cells,
    frozen_set,
    learned_cells,
    same_frozen_cells,
    sources_of,
)
from training.base_set import (
    MANIFEST_NAME,
    beside_bundle,
    find_base_set,
    read_base_set,
    sha256_of,
    write_base_set,
)
from training.checkpoint import load_checkpoint
from training.config import EmbedderConfig, load_config
from training.data.generated import generator_fingerprint
from training.data.white_cells import SITE, CellExample, CellFinder, window_spec
from training.detector_task import TorchNetwork
from training.distributed import Place
from training.embedder_task import EmbedderTask, load_embedder
from training.errors import ConfigError, RetrainError, TrainingError
from training.evidence import evidence_document, write_evidence
from training.export import Parity, export_onnx, fused_embedder, parity, quantise
from training.label_folder import LabelFolder, read_labels
from training.loop import BEST_NAME, LAST_NAME, Trainer
from training.recipe import BundleRecipe, load_recipe
from training.refit import Judged, NewEmbedder, Refitted, checked_version, conclude, refitted_head
from training.refit_job import labels_said, place_bundle, record_refit
from training.retrain_settings import RetrainSettings
from training.settings import load_settings
from training.site_cells import RefitSettings, embed_labels, held_out_images, locate_labels
from training.tracking import TrackerOpener

log = logging.getLogger(__name__)

STATE_NAME = "state.json"
BASE_FOLDER, RUN_FOLDER, CANDIDATE_FOLDER = "base_set", "embedder", "candidate"
KEEP_FLOAT = ("normalise",)
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """What a person asked for; see `RefitOptions`."""

    config: Path
    labels: Path
    out: Path
    evidence: Path
    work: Path
    cache: Path
    created: str
    version: str | None = None
    keep_refused: bool = False
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class RetrainOutcome:
    """What became of it."""

    champion: Bundle
    refitted: Refitted
    written: bool


def run_retrain(options: RetrainOptions, place: Place, tracker_of: TrackerOpener) -> RetrainOutcome:
    """Do every step that is not done yet.

    Args:
        options: what a person asked for.
        place: device to train on; one process.
        tracker_of: opens the trackers of a run's folder.

    Raises:
        RetrainError: a step failed; the message names it, and what was done before it is kept.
        TrainingError, BundleError: the inputs cannot be read.
    """
    job = _Job(options, place, tracker_of)
    done = job.state()
    steps = (("check", job.check), ("train", job.train), ("export", job.export), ("base-set", job.base_set))
    for name, step in steps:
        if name in done:
            log.info("step %s: done before", name)
            continue
        log.info("step %s", name)
        _doing(name, step)
        done.append(name)
        job.remember(done)
    refitted = _doing("pack", job.pack)
    return _doing("judge", lambda: job.judge(refitted))


def _doing(name: str, step: Callable[[], Done]) -> Done:
    try:
        return step()
    except (TrainingError, BundleError, ModelRuntimeError) as exc:
        raise RetrainError(
            f"step {name} failed: {exc}; the steps before it are kept, the same command goes on here"
        ) from exc


class _Job:
    """Inputs of a retraining and its steps; everything that a step needs of an earlier one is on disk."""

    def __init__(self, options: RetrainOptions, place: Place, tracker_of: TrackerOpener) -> None:
        self.options, self.place, self.tracker_of = options, place, tracker_of
        self.settings = load_settings(options.config, RetrainSettings)
        self.recipe: BundleRecipe = load_recipe(self.settings.recipe)
        self.refit = load_settings(self.settings.refit, RefitSettings)
        self.rules = load_settings(self.settings.gate, GatePlan)
        config = load_config(self.settings.embedder)
        if not isinstance(config, EmbedderConfig):
            raise ConfigError(f"{self.settings.embedder}: trains a detector; name an embedder's configuration")
        self.config = config
        self.current = read_bundle(self.settings.bundle)
        self.version = checked_version(self.current, options.version)
        self.base = read_base_set(self.settings.base or find_base_set(self.current), self.current)
        self.labels: LabelFolder = read_labels(options.labels)
        self.spec: EmbedderSpec = window_spec(config.data, config.net.dimensions)
        if options.out.exists() and options.out.resolve() == self.settings.bundle.resolve():
            raise RetrainError(f"{options.out} holds the current bundle; write the new one elsewhere")

    # -- what was done -------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Hash of everything that decides the steps' results."""
        parts = [
            self.settings.model_dump_json(exclude={"gate", "refit"}),
            self.recipe.model_dump_json(),
            self.config.model_dump_json(),
            self.refit.model_dump_json(),
            self.labels.sha256,
            self.current.digest,
            str(self.options.seed),
            generator_fingerprint(),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def state(self) -> list[str]:
        """Steps that were done before.

        Raises:
            RetrainError: the work folder belongs to other inputs.
        """
        path = self.options.work / STATE_NAME
        if not path.is_file():
            return []
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["inputs"] != self.fingerprint():
            raise RetrainError(f"{self.options.work} belongs to other inputs; give another --work or remove it")
        return list(said["done"])

    def remember(self, done: list[str]) -> None:
        """Write down the steps that are done."""
        self.options.work.mkdir(parents=True, exist_ok=True)
        path = self.options.work / STATE_NAME
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"inputs": self.fingerprint(), "done": done}) + "\n", encoding="utf-8")
        partial.replace(path)

    # -- steps ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The frozen cells can be rebuilt, each from the picture that was locked."""
        same_frozen_cells(self.base.frozen, self._frozen_cells())

    def train(self) -> None:
        """Train the embedder, or go on where it was broken off."""
        folder = self.options.work / RUN_FOLDER
        last = folder / LAST_NAME
        resume = last.is_file()
        if resume and load_checkpoint(last)["next_epoch"] >= self.config.epochs:
            return
        task = EmbedderTask(
            self.config,
            self.place,
            self.options.cache,
            finder=self.finder,
            site=self._site_examples(),
            site_ratio=self.settings.site_ratio,
        )
        tracker = self.tracker_of(folder, fresh=not resume)
        Trainer(self.config, task, folder, place=self.place, tracker=tracker).run(resume=resume)

    def export(self) -> None:
        """ONNX, int8 where the settings say so; how far it is from torch stands beside it."""
        cells, _ = learned_cells(self.recipe, self.finder, self.spec, self.options.cache)
        chosen = np.random.default_rng(self.options.seed).permutation(len(cells))[: self.settings.range_cells]
        ranged = [cells[i] for i in chosen]
        crops = [cut(ranged[i : i + 8], self.spec) for i in range(0, len(ranged), 8)]
        side = self.spec.input_px
        data = export_onnx(self.fp32, (2, 3, side, side), outputs=["embedding"], dynamic=True)
        if self.settings.int8:
            data = quantise(data, crops, keep_float=KEEP_FLOAT)
        said: Parity = parity(self.fp32, data, crops[:4])
        log.info("embedder against torch: largest difference %.3g, mean %.3g", said.largest, said.mean)
        (self.options.work / EMBEDDER_NAME).write_bytes(data)

    def base_set(self) -> None:
        """Base cells and frozen cells as the new embedder sees them."""
        cache = self.options.cache
        frozen = self._frozen_cells()
        same_frozen_cells(self.base.frozen, frozen)
        train, held_out = learned_cells(self.recipe, self.finder, self.spec, cache)
        network = Session(self.embedder, name=EMBEDDER_NAME, threads=self.options.threads)
        with tempfile.TemporaryDirectory(dir=self.options.work) as scratch:
            fresh = Path(scratch) / BASE_FOLDER
            write_base_set(
                fresh,
                train=embed_cells(network, train, self.spec),
                held_out=embed_cells(network, held_out, self.spec),
                frozen=frozen_set(network, frozen, self.spec),
                said={
                    "bundle": f"{self.current.manifest.name} {self.version}",
                    "bundle_digest": None,
                    "embedder_sha256": sha256_of(self.embedder),
                    "embedder": self.spec,
                    "created": self.options.created,
                    "generator": generator_fingerprint(),
                    "sources": sources_of(self.recipe),
                },
            )
            fresh.rename(self.options.work / BASE_FOLDER)

    def pack(self) -> Refitted:
        """Head, golden inputs, card, self-test."""
        draft = self._draft()
        base = read_base_set(self.options.work / BASE_FOLDER, draft)
        own = Pipeline(draft, threads=self.options.threads)
        champion = Pipeline(self.current, threads=self.options.threads)
        seed = self.options.seed
        before = Judged(self.base.frozen, embed_labels(champion, self.labels, self.refit, seed=seed))
        after = Judged(base.frozen, embed_labels(own, self.labels, self.refit, seed=seed))
        reference = Pipeline(
            draft,
            networks=Networks(
                detector=Session(self.current.files[DETECTOR_NAME], name=DETECTOR_NAME),
                embedder=TorchNetwork(self.fp32),
            ),
        )
        return conclude(
            self.current,
            before,
            after,
            refitted_head(base, after.site, self.refit),
            self.labels,
            self.options.work / CANDIDATE_FOLDER,
            rules=self.rules,
            created=self.options.created,
            version=self.version,
            threads=self.options.threads,
            embedder=NewEmbedder(
                self.embedder, self.spec, reference.embed, f"{self.settings.name}, {self.config.name}"
            ),
        )

    def judge(self, refitted: Refitted) -> RetrainOutcome:
        """Evidence, and the bundle with its base set at its place where it was accepted."""
        document = evidence_document(
            candidate=refitted.bundle,
            champion=self.current,
            frozen_sha256=self.base.frozen.cells_sha256,
            verdict=refitted.verdict,
            plan=self.rules,
            figures=(refitted.champion, refitted.candidate),
            labels=labels_said(self.labels),
            made={
                "command": "retrain",
                "seed": self.options.seed,
                "settings": self.settings.model_dump(mode="json"),
            },
        )
        record_refit(self.tracker_of(self.options.work / "gate", fresh=True), document, refitted)
        write_evidence(self.options.evidence, document)
        written = refitted.verdict.accepted or self.options.keep_refused
        if written:
            base = beside_bundle(self.options.out)
            base.mkdir(parents=True, exist_ok=True)
            for path in sorted((self.options.work / BASE_FOLDER).iterdir(), key=lambda p: p.name == MANIFEST_NAME):
                (base / path.name).write_bytes(path.read_bytes())
            place_bundle(refitted.bundle, self.options.out)
        return RetrainOutcome(self.current, refitted, written)

    # -- what the steps share ------------------------------------------------------------------------------------

    @cached_property
    def finder(self) -> CellFinder:
        """The current bundle's detector."""
        network = Session(self.current.files[DETECTOR_NAME], name=DETECTOR_NAME, threads=self.options.threads)
        return CellFinder(network, self.current.manifest.detector, self.spec)

    @cached_property
    def fp32(self) -> CellEmbedder:
        """The trained embedder in torch, for inference."""
        folder = self.options.work / RUN_FOLDER
        best = folder / BEST_NAME
        model, _ = load_embedder(best if best.is_file() else folder / LAST_NAME)
        fused = fused_embedder([model])
        assert isinstance(fused, CellEmbedder)
        return fused

    @cached_property
    def embedder(self) -> bytes:
        """The exported embedder."""
        return (self.options.work / EMBEDDER_NAME).read_bytes()

    def _frozen_cells(self) -> list[FrozenCell]:
        return frozen_cells(self.recipe, self.finder, self.spec, self.options.cache)

    def _site_examples(self) -> list[CellExample]:
        """The labelled cells that may be learned from; those held out are the very ones that the head does not see."""
        pipeline = Pipeline(self.current, threads=self.options.threads)
        held_out = held_out_images(self.labels, self.refit, seed=self.options.seed)
        cells = []
        for number, image in enumerate(self.labels.images):
            if number in held_out:
                continue
            found = locate_labels(pipeline, image)
            for box, cell in zip(found.boxes.tolist(), image.cells, strict=True):
                window_px = window_for(box, found.rbc_diameter_px, self.spec)
                cells.append(CellExample(found.picture, tuple(box), window_px, cell.label, SITE, image.sha256))
        return cells

    def _draft(self) -> Bundle:
        """The current bundle with the new embedder and a head that says nothing: enough to embed with."""
        width, classes = self.spec.dimensions, len(self.current.manifest.head.classes)
        blank = Head(
            weights=np.zeros((classes, width), np.float32),
            bias=np.zeros(classes, np.float32),
            temperature=np.array(1.0, np.float32),
            conformal_quantiles=np.ones(classes, np.float32),
            domain_means=np.zeros((1, width), np.float32),
            domain_precision=np.eye(width, dtype=np.float32),
            domain_threshold=np.array(1.0, np.float32),
        )
        fields = self.current.manifest.model_dump(mode="json", by_alias=True, exclude={"files", "schema_"})
        fields["embedder"] = self.spec.model_dump(mode="json")
        files = {**self.current.files, EMBEDDER_NAME: self.embedder, HEAD_NAME: blank.to_bytes()}
        return write_bundle(self.options.work / "draft", fields, files)
