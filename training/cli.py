"""`ahs-train`: trains, measures, exports, calibrates and packs the models."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleet.release.errors import EvidenceRefused
from fleet.release.evidence import reference
from models.bundle import read_bundle
from training.base_cells import make_base_set
from training.config import DetectorConfig, load_config
from training.data_cli import data_app
from training.recipe import load_recipe
from training.refit import Refitted
from training.refit_job import GATE_CONFIG, REFIT_CONFIG, RefitOptions, default_evidence, run_refit
from training.settings import CONFIGS
from training.terminal import console, say, told
from training.tracking import Trackers, open_trackers

# What needs torch is imported inside the commands that need it: `refit` runs where torch is not installed.

app = typer.Typer(
    no_args_is_help=True,
    help="Train, measure and pack the models. Data: set AHS_DATA_DIR (training/README.md). Research use only.",
)
app.add_typer(data_app, name="data")

ConfigOption = Annotated[Path, typer.Option("--config", help="training configuration (training/configs/*.yaml)")]
RecipeOption = Annotated[Path, typer.Option("--recipe", help="bundle recipe (training/configs/*-bundle.yaml)")]
FolderOption = Annotated[Path | None, typer.Option("--work", help="work folder; by default runs/bundle-NAME")]
CacheOption = Annotated[Path, typer.Option("--cache", help="folder for rendered generated fields")]
DEFAULT_CACHE = Path("runs/cache")
REFUSED = 3
"""Exit code of a candidate that the gate refused."""


@app.command()
def train(
    config: ConfigOption,
    out: Annotated[Path | None, typer.Option(help="folder of the run; by default runs/NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the folder's last checkpoint")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of torch; 0: torch decides")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the configuration's")] = None,
    use_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="log to the local MLflow store")] = True,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Train a detector or an embedder. Several processes: torchrun --nproc-per-node N -m training train ..."""
    with told():
        import torch

        from training.detector_task import DetectorTask
        from training.distributed import joined
        from training.embedder_task import EmbedderTask
        from training.loop import Trainer

        chosen = load_config(config)
        if seed is not None:
            chosen = chosen.model_copy(update={"seed": seed})
        folder = out or Path("runs") / chosen.name
        if threads:
            torch.set_num_threads(threads)
        with joined(device) as place:
            task: DetectorTask | EmbedderTask
            if isinstance(chosen, DetectorConfig):
                task = DetectorTask(chosen, place, cache)
            else:
                task = EmbedderTask(chosen, place, cache)
            tracker = open_trackers(folder, use_mlflow=use_mlflow, fresh=not resume) if place.leads else Trackers([])
            Trainer(chosen, task, folder, place=place, tracker=tracker).run(resume=resume)
            if place.leads:
                console.print(f"checkpoints are in {folder}")


@app.command()
def export(recipe: RecipeOption, work: FolderOption = None, cache: CacheOption = DEFAULT_CACHE) -> None:
    """Write a recipe's networks as ONNX, int8 where it says so, and compare them with torch."""
    with told():
        chosen = load_recipe(recipe)
        from training.assembly import export_parts

        folder = work or Path("runs") / f"bundle-{chosen.name}"
        table = Table("network", "largest difference", "mean difference", title="against torch fp32")
        for name, said in export_parts(chosen, folder, cache).items():
            table.add_row(name, f"{said.largest:.3g}", f"{said.mean:.3g}")
        console.print(table)


@app.command()
def calibrate(recipe: RecipeOption, work: FolderOption = None, cache: CacheOption = DEFAULT_CACHE) -> None:
    """Choose thresholds and fit the head, with the exported networks."""
    with told():
        chosen = load_recipe(recipe)
        from training.assembly import calibrate_parts

        folder = work or Path("runs") / f"bundle-{chosen.name}"
        console.print_json(data=calibrate_parts(chosen, folder, cache))


@app.command()
def pack(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(help="folder of the bundle, e.g. models/zoo/edge-1.0.0")],
    evaluation: Annotated[Path | None, typer.Option(help="of a bundle of the same parts, for the card")] = None,
    work: FolderOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure the parts, write golden inputs and card, and pack the bundle if it passes its own self-test."""
    with told():
        chosen = load_recipe(recipe)
        from training.evaluation.run import read_evaluation
        from training.pack import pack_bundle

        said = None if evaluation is None else read_evaluation(evaluation)
        bundle = pack_bundle(chosen, work or Path("runs") / f"bundle-{chosen.name}", out, cache, said)
        console.print(f"{out}: {bundle.digest}, {sum(len(f) for f in bundle.files.values()) / 1e6:.2f} MB")


@app.command()
def card(
    bundle: Annotated[Path, typer.Option(help="bundle whose card is written")],
    evaluation: Annotated[Path, typer.Option(help="document that `evaluate --all --out` has written of it")],
    out: Annotated[Path, typer.Option(help="folder of the bundle with the new card")],
) -> None:
    """Put an evaluation onto a bundle's card: intervals, slices, shifts. Networks, head and golden inputs stay."""
    with told():
        from training.evaluation.card import write_with_evaluation
        from training.evaluation.run import read_evaluation

        done = write_with_evaluation(read_bundle(bundle), read_evaluation(evaluation), out)
        console.print(f"{out}: {done.digest}", soft_wrap=True)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="bundle to measure")],
    everything: Annotated[bool, typer.Option("--all", help="every set and every check")] = False,
    split: Annotated[list[str] | None, typer.Option(help="val or test of the detection set; may be repeated")] = None,
    dataset: Annotated[str, typer.Option(help="detection set below AHS_DATA_DIR")] = "det_txl",
    generated: Annotated[int, typer.Option(min=0, help="measure on this many generated fields")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="first seed of the generated fields")] = 920_000,
    cells: Annotated[str | None, typer.Option(help="val or test of the white-cell set")] = None,
    site: Annotated[str | None, typer.Option(help="fields of another laboratory, e.g. wbc_site_b")] = None,
    outsiders: Annotated[str | None, typer.Option(help="cells that are none of the types, e.g. wbc_ood_dev")] = None,
    shifts: Annotated[bool, typer.Option("--shifts", help="val under every shift of training/shifts.py")] = False,
    scale: Annotated[bool, typer.Option("--scale", help="val at half and double size, and dense fields")] = False,
    speed: Annotated[bool, typer.Option("--speed", help="where the time of a field goes")] = False,
    resamples: Annotated[int, typer.Option(min=50, help="resamples of the bootstrap")] = 1000,
    limit: Annotated[int | None, typer.Option(min=1, help="so many pictures of a set, for a quick look")] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 2,
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON")] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure a bundle through the one pipeline, each figure with its interval: boxes, types, shifts, scale, speed."""
    with told():
        from training.evaluation.run import Evaluation, Plan, everything_of, progress_stages, write_evaluation
        from training.evaluation.show import show

        plan = Plan(
            dataset=dataset,
            splits=tuple(split or ()),
            generated=generated,
            generated_seed=seed,
            cells=cells,
            site=site,
            outsiders=outsiders,
            shifts=shifts,
            scale=scale,
            speed=speed,
            resamples=resamples,
            limit=limit,
            threads=threads,
        )
        plan = everything_of(plan) if everything else plan
        if plan.empty:
            raise typer.BadParameter(
                "say what to measure: --all, --split, --generated N, --cells, --site, --shifts, ..."
            )
        loaded = read_bundle(bundle)
        with progress_stages(Console(stderr=True)) as stage:
            document = Evaluation(loaded, plan, cache, stage).run()
        show(console, document)
        if out is not None:
            write_evaluation(document, out)
            console.print(f"written: {out}", soft_wrap=True)


@app.command()
def report(
    evaluation: Annotated[Path, typer.Option(help="document that `evaluate --out` has written")],
    bundle: Annotated[Path, typer.Option(help="the bundle that it speaks of")],
    out: Annotated[Path, typer.Option(help="HTML page to write, e.g. report.html")],
    run: Annotated[list[Path] | None, typer.Option(help="folder of a training run; may be repeated")] = None,
) -> None:
    """One HTML page of an evaluation: curves, calibration, confusion, shifts, worst errors as pictures, speed."""
    with told():
        from training.evaluation.run import read_evaluation
        from training.report.write import write_report

        said = write_report(read_evaluation(evaluation), read_bundle(bundle), run or [], out)
        console.print(f"{out}: {said.size_bytes / 1e6:.1f} MB, {said.pictures}", soft_wrap=True)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="bundle")],
    second: Annotated[Path, typer.Argument(metavar="B", help="bundle that is compared with it")],
    split: Annotated[list[str] | None, typer.Option(help="of the detection set; by default val")] = None,
    dataset: Annotated[str, typer.Option(help="detection set below AHS_DATA_DIR")] = "det_txl",
    generated: Annotated[int, typer.Option(min=0, help="this many generated fields too")] = 0,
    cells: Annotated[str | None, typer.Option(help="val or test of the white-cell set")] = None,
    site: Annotated[str | None, typer.Option(help="fields of another laboratory, e.g. wbc_site_b")] = None,
    everything: Annotated[bool, typer.Option("--all", help="val, test, white cells at home and at wbc_site_b")] = False,
    resamples: Annotated[int, typer.Option(min=50, help="resamples of the bootstrap")] = 1000,
    limit: Annotated[int | None, typer.Option(min=1, help="so many pictures of a set, for a quick look")] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 2,
    out: Annotated[Path | None, typer.Option(help="write the differences as JSON")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="write them as an HTML page")] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Two bundles over the same sets: every difference with its interval, from a paired bootstrap."""
    with told():
        from training.evaluation.compare import Comparison
        from training.evaluation.run import Plan, progress_stages, write_evaluation
        from training.evaluation.show import show_rows
        from training.report.comparison import comparison_page, comparison_rows
        from training.report.write import write_page

        asked = tuple(split or ())
        if everything:
            asked, cells, site = ("val", "test"), cells or "test", site or "wbc_site_b"
        elif not asked and not generated and cells is None and site is None:
            asked = ("val",)
        plan = Plan(
            dataset=dataset,
            splits=asked,
            generated=generated,
            cells=cells,
            site=site,
            resamples=resamples,
            limit=limit,
            threads=threads,
        )
        with progress_stages(Console(stderr=True)) as stage:
            document = Comparison(read_bundle(first), read_bundle(second), plan, cache, stage).run()
        show_rows(console, comparison_rows(document))
        if out is not None:
            write_evaluation(document, out)
        if page is not None:
            write_page(comparison_page(document).encode(), page)


@app.command()
def seeds(
    evaluations: Annotated[list[Path], typer.Argument(metavar="E1 E2 ...", help="of `evaluate --out`, a seed each")],
    resamples: Annotated[int, typer.Option(min=50, help="resamples of the joint bootstrap")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of the joint bootstrap")] = 0,
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON")] = None,
) -> None:
    """Bundles that differ by seed: mean, deviation, range of each figure; intervals over seeds and slides together."""
    with told():
        from training.evaluation.run import write_evaluation
        from training.evaluation.seeds import over_seeds, read_documents, seed_tables
        from training.evaluation.show import show_rows

        document = over_seeds(read_documents(evaluations), resamples=resamples, seed=seed)
        for rows in seed_tables(document):
            show_rows(console, rows)
        if document["left_out"]:
            words = f"left out, as not every document holds them: {', '.join(document['left_out'])}"
            console.print(words, style="yellow", highlight=False, markup=False)
        if out is not None:
            write_evaluation(document, out)
            console.print(f"written: {out}", soft_wrap=True)


@app.command("base-set")
def base_set(
    recipe: RecipeOption,
    bundle: Annotated[Path, typer.Option(help="bundle whose networks embed the cells")],
    out: Annotated[Path, typer.Option(help="new folder, e.g. training/base_sets/edge-1.0.0")],
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Embed the cells that a head is refitted from, and the frozen cells that it is judged on."""
    with told():
        said = make_base_set(load_recipe(recipe), read_bundle(bundle), out, cache)
        console.print_json(data=said.model_dump(mode="json", by_alias=True))


@app.command()
def refit(
    bundle: Annotated[Path, typer.Option(help="current bundle, folder or zip")],
    labels: Annotated[Path, typer.Option(help="folder of an exported data set: annotations.json and its pictures")],
    out: Annotated[Path, typer.Option(help="folder of the new bundle")],
    version: Annotated[str | None, typer.Option(help="of the new bundle; by default the next one")] = None,
    evidence: Annotated[Path | None, typer.Option(help="where the evidence goes; by default OUT.evidence.json")] = None,
    base: Annotated[Path | None, typer.Option(help="folder of the base set; by default the embedder's own")] = None,
    config: Annotated[Path, typer.Option(help="how labels count")] = REFIT_CONFIG,
    gate: Annotated[Path, typer.Option(help="what the gate tolerates")] = GATE_CONFIG,
    keep_refused: Annotated[bool, typer.Option("--keep-refused", help="write a refused bundle too")] = False,
    seed: Annotated[int, typer.Option(min=0, help="decides which pictures are held out")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 2,
    use_mlflow: Annotated[
        bool, typer.Option("--mlflow/--no-mlflow", help="record it in the local MLflow store")
    ] = False,
) -> None:
    """Fit the head of a bundle again with a site's labels: seconds, no torch. Exit code 3: refused as worse."""
    with told():
        options = RefitOptions(
            bundle=bundle,
            labels=labels,
            out=out,
            evidence=evidence or default_evidence(out),
            created=datetime.now(UTC).date().isoformat(),
            version=version,
            base=base,
            config=config,
            gate=gate,
            keep_refused=keep_refused,
            seed=seed,
            threads=threads,
        )
        tracker = open_trackers(Path("runs") / f"refit-{out.name}") if use_mlflow else None
        outcome = run_refit(options, tracker)
        _show_refit(outcome.refitted, written=outcome.written, out=out, evidence=options.evidence)
    if not outcome.refitted.verdict.accepted:
        raise typer.Exit(REFUSED)


@app.command()
def retrain(
    labels: Annotated[Path, typer.Option(help="folder of an exported data set: annotations.json and images/")],
    out: Annotated[Path, typer.Option(help="folder of the new bundle; its base set lies beside it")],
    config: Annotated[Path, typer.Option(help="what is trained, from what")] = CONFIGS / "retrain.yaml",
    version: Annotated[str | None, typer.Option(help="of the new bundle; by default the next one")] = None,
    evidence: Annotated[Path | None, typer.Option(help="where the evidence goes; by default OUT.evidence.json")] = None,
    work: Annotated[Path | None, typer.Option(help="work folder; by default runs/retrain-NAME")] = None,
    keep_refused: Annotated[bool, typer.Option("--keep-refused", help="write a refused bundle too")] = False,
    seed: Annotated[int, typer.Option(min=0, help="decides which pictures are held out")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 2,
    use_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="log to the local MLflow store")] = True,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Train a new embedder with a site's labels mixed in, and judge it. Goes on where it broke off. Needs torch."""
    with told():
        from training.distributed import Place, pick_device
        from training.retrain import RetrainOptions, run_retrain

        options = RetrainOptions(
            config=config,
            labels=labels,
            out=out,
            evidence=evidence or default_evidence(out),
            work=work or Path("runs") / f"retrain-{out.name}",
            cache=cache,
            created=datetime.now(UTC).date().isoformat(),
            version=version,
            keep_refused=keep_refused,
            seed=seed,
            threads=threads,
        )
        outcome = run_retrain(
            options, Place(pick_device(device)), functools.partial(open_trackers, use_mlflow=use_mlflow)
        )
        _show_refit(outcome.refitted, written=outcome.written, out=out, evidence=options.evidence)
    if not outcome.refitted.verdict.accepted:
        raise typer.Exit(REFUSED)


def _show_refit(done: Refitted, *, written: bool, out: Path, evidence: Path) -> None:
    table = Table(
        "cells of", "cells", "balanced accuracy", "named", "wrong among them", "in domain", title="before / after"
    )
    for name, after in done.candidate.items():
        before = done.champion[name]
        pairs = (
            (before.balanced_accuracy, after.balanced_accuracy),
            (before.named, after.named),
            (before.named_error, after.named_error),
            (before.in_domain, after.in_domain),
        )
        shown = [" / ".join("-" if v is None else f"{v:.3f}" for v in pair) for pair in pairs]
        table.add_row(name, str(after.cells), *shown)
    console.print(table)
    console.print(f"evidence: {evidence}", soft_wrap=True)
    if done.verdict.accepted:
        try:
            reference(evidence.read_bytes(), done.bundle.digest)
        except EvidenceRefused as exc:
            say("note", f"no release can rest on this evaluation: {exc}")
    if written:
        console.print(f"{out}: {done.bundle.digest}", soft_wrap=True)
    if not done.verdict.accepted:
        say("refused", "the candidate is worse than the current model")
        for reason in done.verdict.reasons:
            Console(stderr=True).print(f"- {reason}", soft_wrap=True, highlight=False, markup=False)
