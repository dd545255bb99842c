"""`ahs-train`: trains, measures, exports, calibrates and packs the models."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from models.bundle import BundleError, read_bundle
from models.runtime import ModelRuntimeError, Pipeline
from training.assembly import calibrate_parts, export_parts
from training.config import DetectorConfig, GeneratedFields, load_config
from training.data.generated import generated_examples
from training.detector_task import DetectorTask
from training.distributed import joined
from training.embedder_task import EmbedderTask
from training.errors import TrainingError
from training.evaluate import as_json, evaluate_cells, evaluate_generated
from training.loop import Trainer
from training.pack import evaluate_split, pack_bundle, single_cells
from training.recipe import load_recipe
from training.tracking import Trackers, open_trackers

app = typer.Typer(
    no_args_is_help=True,
    help="Train, measure and pack the models. Data: set AHS_DATA_DIR (training/README.md). Research use only.",
)
console = Console()

ConfigOption = Annotated[Path, typer.Option("--config", help="training configuration (training/configs/*.yaml)")]
RecipeOption = Annotated[Path, typer.Option("--recipe", help="bundle recipe (training/configs/*-bundle.yaml)")]
FolderOption = Annotated[Path | None, typer.Option("--work", help="work folder; by default runs/bundle-NAME")]
CacheOption = Annotated[Path, typer.Option("--cache", help="folder for rendered generated fields")]
DEFAULT_CACHE = Path("runs/cache")


@contextmanager
def told() -> Iterator[None]:
    """An expected error becomes one clear message and exit code 1; a bug keeps its traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except (TrainingError, BundleError, ModelRuntimeError) as exc:
        Console(stderr=True).print(f"[red]{type(exc).__name__}[/red]: {exc}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from exc


@app.command()
def train(
    config: ConfigOption,
    out: Annotated[Path | None, typer.Option(help="folder of the run; by default runs/NAME")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the folder's last checkpoint")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of torch; 0: torch decides")] = 0,
    use_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="log to the local MLflow store")] = True,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Train a detector or an embedder. Several processes: torchrun --nproc-per-node N -m training train ..."""
    with told():
        chosen = load_config(config)
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
        folder = work or Path("runs") / f"bundle-{chosen.name}"
        console.print_json(data=calibrate_parts(chosen, folder, cache))


@app.command()
def pack(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option(help="folder of the bundle, e.g. models/zoo/edge-1.0.0")],
    work: FolderOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure the parts, write golden inputs and card, and pack the bundle if it passes its own self-test."""
    with told():
        chosen = load_recipe(recipe)
        bundle = pack_bundle(chosen, work or Path("runs") / f"bundle-{chosen.name}", out, cache)
        console.print(f"{out}: {bundle.digest}, {sum(len(f) for f in bundle.files.values()) / 1e6:.2f} MB")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="bundle to measure")],
    split: Annotated[str | None, typer.Option(help="val, val_clean, test or test_clean of the detection set")] = None,
    dataset: Annotated[str, typer.Option(help="detection set below AHS_DATA_DIR")] = "det_txl",
    generated: Annotated[int, typer.Option(min=0, help="measure on this many generated fields")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="first seed of the generated fields")] = 920_000,
    cells: Annotated[str | None, typer.Option(help="train, val or test of the white-cell set")] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")] = 2,
    out: Annotated[Path | None, typer.Option(help="write the figures as JSON")] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure a bundle through the one pipeline: mAP, F1, counts, white-cell types."""
    with told():
        if split is None and not generated and cells is None:
            raise typer.BadParameter("say what to measure: --split, --generated N or --cells")
        loaded = read_bundle(bundle)
        pipeline = Pipeline(loaded, threads=threads)
        pipeline.warm_up()
        report: dict[str, Any] = {"bundle": loaded.manifest.name, "digest": loaded.digest, "sets": {}, "types": {}}
        if split is not None:
            names = [split] if split.endswith("_clean") else [split, f"{split}_clean"]
            for name in names:
                report["sets"][name] = as_json(evaluate_split(pipeline, dataset, name))
        if generated:
            fields = generated_examples(GeneratedFields(count=generated, first_seed=seed), cache)
            figures, report["types"]["generated"] = evaluate_generated(pipeline, fields)
            report["sets"]["generated"] = as_json(figures)
        if cells is not None:
            report["types"][f"cells {cells}"] = evaluate_cells(pipeline, single_cells("wbc_pbc", cells))
        _show(report)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _show(report: dict[str, Any]) -> None:
    for name, figures in report["sets"].items():
        table = Table("", "AP50", "AP50-95", "F1", "mean count error", "error of the sum", title=name)
        title = f"all ({figures['fields']} fields)"
        table.add_row(title, f"{figures['map50']:.3f}", f"{figures['map']:.3f}", "", "", "")
        for cls, f1 in figures["f1"].items():
            error = figures["count_error"][cls]
            shown = [f"{figures[k]:.3f}" if k in figures else "-" for k in (f"map50_{cls}", f"map_{cls}")]
            table.add_row(
                cls, *shown, f"{f1:.3f}", f"{error['mean_absolute']:.2f}", f"{100 * error['sum_ratio']:+.1f} %"
            )
        console.print(table)
    for name, figures in report["types"].items():
        table = Table("figure", "value", title=f"white cells: {name}")
        for key, value in figures.items():
            table.add_row(key.replace("_", " "), f"{value:.3f}")
        console.print(table)
