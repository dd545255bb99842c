"""From a site's labels to a new head: what it changes, what it leaves, and when it is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fleet.release.evidence import reference
from fleet.release.gate import unlike
from fleet.release.pinned import GATE_FILE
from models.bundle import UNIDENTIFIED, Bundle, CellClass, read_bundle, write_bundle
from models.bundle.manifest import DETECTOR_NAME, HEAD_NAME
from models.runtime import Pipeline, read_image, run_self_test
from models.runtime.head import Head, load_head
from models.zoo import shipped
from tests.unit.training.site_labels import write_document, write_labels
from training.base_set import find_base_set, read_base_set
from training.cli import app
from training.errors import BaseSetError, RefitError
from training.label_folder import read_labels
from training.refit_job import RefitOptions, RefitOutcome, default_evidence, run_refit

pytestmark = pytest.mark.slow

runner = CliRunner()


@pytest.fixture(scope="module")
def current() -> Path:
    return shipped("edge")


@pytest.fixture(scope="module")
def pipeline(current: Path) -> Pipeline:
    return Pipeline(read_bundle(current), threads=2)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    folder = tmp_path_factory.mktemp("site") / "labels"
    write_labels(folder, pipeline, seeds=range(20))
    return folder


def options(current: Path, labels: Path, out: Path, **changed: object) -> RefitOptions:
    return RefitOptions(
        **{  # type: ignore[arg-type]
            "bundle": current,
            "labels": labels,
            "out": out,
            "evidence": default_evidence(out),
            "created": "2026-11-24",
            **changed,
        }
    )


@pytest.fixture(scope="module")
def outcome(current: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> RefitOutcome:
    return run_refit(options(current, labels, tmp_path_factory.mktemp("refit") / "edge-1.0.1"))


@pytest.fixture(scope="module")
def refitted(outcome: RefitOutcome) -> Bundle:
    return outcome.refitted.bundle


def test_cells_of_other_pictures_that_were_unsure_before_are_named_rightly(
    outcome: RefitOutcome, refitted: Bundle, pipeline: Pipeline, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    write_labels(fresh, pipeline, seeds=range(100, 110))
    after = Pipeline(refitted, threads=2)
    unsure = named = right = 0
    for image in read_labels(fresh).images:
        picture = read_image(image.path)
        truth = {cell.box: cell.label for cell in image.cells}
        pairs = zip(
            pipeline.analyse(picture).counted(CellClass.WBC), after.analyse(picture).counted(CellClass.WBC), strict=True
        )
        for before, now in pairs:
            known = [label for box, label in truth.items() if np.allclose(box, before.box, atol=0.5)]
            if not known or before.cell_type is None or now.cell_type is None:
                continue
            if before.cell_type.label == UNIDENTIFIED:
                unsure += 1
                named += now.cell_type.label != UNIDENTIFIED
                right += now.cell_type.label == str(refitted.manifest.head.classes[known[0]])
    assert unsure >= 5
    assert right >= 0.7 * unsure
    assert named - right <= 0.1 * unsure
    assert outcome.refitted.verdict.accepted


def test_only_the_head_the_golden_types_and_the_card_differ(refitted: Bundle, current: Path) -> None:
    before = read_bundle(current)
    assert refitted.files.keys() == before.files.keys()
    changed = {name for name, data in refitted.files.items() if data != before.files[name]}
    assert changed == {HEAD_NAME, "golden/expected.json", "card.md"}
    assert refitted.files[DETECTOR_NAME] == before.files[DETECTOR_NAME]
    assert refitted.manifest.provenance.base_digest == before.digest
    assert (refitted.manifest.name, refitted.manifest.version) == ("edge", "1.0.1")
    assert refitted.manifest.provenance.trained_on[-1].name == "labels of north"


def test_the_card_says_what_it_learned_from(refitted: Bundle, current: Path) -> None:
    card = refitted.files["card.md"].decode()
    assert "`edge` 1.0.1, made 2026-11-24." in card
    assert read_bundle(current).digest in card
    assert "labels of north" in card
    assert "| outsiders | 50 |" in card
    assert "## Limits" in card


def test_it_passes_its_own_self_test_and_says_the_same_when_read_back(outcome: RefitOutcome, refitted: Bundle) -> None:
    assert outcome.written
    assert outcome.refitted.self_test.passed
    figure = outcome.refitted.self_test.figure("types_match_reference")
    assert figure is not None
    assert figure > 0.95


def permuted(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with the classes of its head in another order."""
    head = load_head(bundle.files[HEAD_NAME], bundle.manifest.head, bundle.manifest.embedder.dimensions)
    arrays = {name: getattr(head, name) for name in Head.__slots__}
    arrays |= {name: np.roll(arrays[name], 1, axis=0) for name in ("weights", "bias")}
    turned = Head(**arrays)
    fields = bundle.manifest.model_dump(mode="json", by_alias=True, exclude={"files", "schema_"})
    return write_bundle(folder, fields, {**bundle.files, HEAD_NAME: turned.to_bytes()})


def test_permuted_classes_still_fail_the_self_test_of_a_refitted_bundle(refitted: Bundle, tmp_path: Path) -> None:
    report = run_self_test(Pipeline(permuted(refitted, tmp_path / "bad")))
    assert {"types_match_reference", "types_match_truth"} <= {check.name for check in report.failures}


def test_the_same_labels_give_the_same_bundle(current: Path, labels: Path, refitted: Bundle, tmp_path: Path) -> None:
    again = run_refit(options(current, labels, tmp_path / "again"))
    assert again.refitted.bundle.digest == refitted.digest


def test_a_refit_of_a_refit_starts_from_the_same_base(
    outcome: RefitOutcome, refitted: Bundle, labels: Path, tmp_path: Path
) -> None:
    current = tmp_path / "current"
    fields = refitted.manifest.model_dump(mode="json", by_alias=True, exclude={"files", "schema_"})
    write_bundle(current, fields, refitted.files)
    second = run_refit(options(current, labels, tmp_path / "second"))
    assert second.refitted.verdict.accepted
    bundle = second.refitted.bundle
    assert bundle.manifest.version == "1.0.2"
    assert bundle.files[HEAD_NAME] == refitted.files[HEAD_NAME]
    assert unlike(second.refitted.champion, outcome.refitted.candidate) == [], "its figures are those it was taken with"
    assert [s.name for s in bundle.manifest.provenance.trained_on].count("labels of north") == 1
    assert bundle.files["card.md"].decode().count("## Refitted head") == 1
    assert bundle.manifest.provenance.recipe == refitted.manifest.provenance.recipe


def test_the_evidence_names_both_models_the_frozen_set_and_the_figures(outcome: RefitOutcome, current: Path) -> None:
    bundle = read_bundle(current)
    evidence = json.loads(default_evidence(outcome.refitted.bundle.path.parent.parent / "edge-1.0.1").read_text())
    assert evidence["schema"] == "ahs.evidence/2"
    assert evidence["candidate"] == outcome.refitted.bundle.digest
    assert evidence["champion"] == bundle.digest
    assert evidence["frozen_set"] == read_base_set(find_base_set(bundle), bundle).frozen.cells_sha256
    assert evidence["accepted"] is True
    assert evidence["reasons"] == []
    assert set(evidence["figures"]["candidate"]) >= {"home", "generated", "outsiders"}
    assert evidence["labels"]["cells"] == outcome.labels.cells
    assert evidence["plan"]["outsiders_named"] == 0.04


def test_a_release_takes_the_evidence_as_it_was_written(outcome: RefitOutcome) -> None:
    path = default_evidence(outcome.refitted.bundle.path.parent.parent / "edge-1.0.1")
    assert reference(path.read_bytes(), outcome.refitted.bundle.digest).champion == outcome.champion.digest


CARELESS = {
    "neutrophil": "lymphocyte",
    "lymphocyte": "monocyte",
    "monocyte": "eosinophil",
    "eosinophil": "basophil",
    "basophil": "neutrophil",
}


def test_wrong_labels_are_refused_with_the_reason_and_exit_code_3(current: Path, labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    document = json.loads((labels / "annotations.json").read_text())
    for annotation in document["annotations"]:
        annotation["attributes"]["cell_type"] = CARELESS[annotation["attributes"]["cell_type"]]
    write_document(tmp_path / "labels", document)
    command = ["refit", "--bundle", str(current), "--labels", str(tmp_path / "labels"), "--out", str(tmp_path / "new")]
    said = runner.invoke(app, command)
    assert said.exit_code == 3, said.output
    assert "refused" in said.output
    assert "is worse by" in said.output
    assert not (tmp_path / "new").exists()
    evidence = json.loads((tmp_path / "new.evidence.json").read_text())
    assert evidence["accepted"] is False
    assert evidence["reasons"]


def test_a_refused_bundle_is_kept_only_when_asked(current: Path, labels: Path, tmp_path: Path) -> None:
    text = GATE_FILE.read_text(encoding="utf-8").replace("in_domain: 0.02", "in_domain: 0.0")
    strict = text.replace("outsiders_named: 0.04", "outsiders_named: 0.0").replace("nll: 0.03", "nll: 0.0")
    (tmp_path / "gate.yaml").write_text(strict, encoding="utf-8")
    outcome = run_refit(options(current, labels, tmp_path / "new", gate=tmp_path / "gate.yaml", keep_refused=True))
    assert not outcome.refitted.verdict.accepted
    assert read_bundle(tmp_path / "new").digest == outcome.refitted.bundle.digest


@pytest.mark.parametrize("version", ["1.0.0", "0.9.9", "next"])
def test_a_version_that_is_not_above_the_current_one_is_refused(
    current: Path, labels: Path, tmp_path: Path, version: str
) -> None:
    with pytest.raises(RefitError, match="is not above"):
        run_refit(options(current, labels, tmp_path / "new", version=version))
    assert list(tmp_path.iterdir()) == []


def test_the_current_bundle_is_never_overwritten(current: Path, labels: Path) -> None:
    before = read_bundle(current).digest
    with pytest.raises(RefitError, match="holds the current bundle"):
        run_refit(options(current, labels, current))
    assert read_bundle(current).digest == before


def test_evidence_inside_the_bundle_is_refused(current: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(RefitError, match="inside the bundle"):
        run_refit(options(current, labels, tmp_path / "new", evidence=tmp_path / "new" / "evidence.json"))


def test_a_bundle_of_another_embedder_has_no_base_set(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseSetError, match="no base set"):
        run_refit(options(shipped("second-opinion"), labels, tmp_path / "new"))


def test_a_refit_runs_where_torch_cannot_be_imported(current: Path, labels: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "blocked = ('torch', 'albumentations', 'mlflow', 'onnx', 'scipy', 'faster_coco_eval')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "from training.cli import app; app(sys.argv[1:])\n"
    )
    command = ["refit", "--bundle", str(current), "--labels", str(labels), "--out", str(tmp_path / "new"), "--mlflow"]
    said = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "MLflow is not installed" in said.stderr
    assert (tmp_path / "runs" / "refit-new" / "metrics.jsonl").is_file()
    assert read_bundle(tmp_path / "new").manifest.version == "1.0.1"
