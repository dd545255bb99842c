"""One example of each thing on the wire. `python -m tests.contract.examples` writes those that are not frozen yet.

A golden file is what a released version sent. It is never changed: a change of the contract that cannot read it
breaks devices in the field.
"""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from fleet.contract import base, cells, dataset, http, messages, release
from fleet.contract.codec import encode

GOLDEN = Path(__file__).parent / "golden" / "v1"

NOW = datetime(2026, 1, 31, 12, 0, 0, 125000, tzinfo=UTC)
LATER = datetime(2026, 1, 31, 12, 10, tzinfo=UTC)
DIGEST = "sha256:" + "0123456789abcdef" * 4
SHA256 = "fedcba9876543210" * 4
CAPTURE = "bench-1/3/41"

SOAK = messages.SoakFigures(
    fields=40,
    white_cells=60,
    disagreement_ratio=0.05,
    uncertain_ratio=0.1,
    withheld_ratio=0.02,
    baseline_uncertain_ratio=0.12,
    baseline_withheld_ratio=0.01,
    latency_ratio=1.1,
)

MODEL = cells.ModelRef(name="edge", version="1.0.0", digest=DIGEST)
WHITE_CELL = cells.DetectionWire(
    bbox=(10.5, 20.0, 120.25, 118.0),
    cls=cells.CellClassName.WBC,
    score=0.97,
    counted=True,
    cell_type=cells.CellTypeWire(
        label="neutrophil",
        probabilities={"neutrophil": 0.9, "eosinophil": 0.1},
        prediction_set=("neutrophil",),
        in_domain=True,
        ood_score=0.4,
    ),
)
RED_CELL = cells.DetectionWire(bbox=(0.0, 0.0, 80.0, 81.5), cls=cells.CellClassName.RBC, score=0.3, counted=False)
COUNTS = cells.FieldCounts(rbc=84, wbc=2, platelets=5, white_cells={"neutrophil": 1, "unidentified": 1})


def _envelope(seq: int) -> dict[str, object]:
    return {"message_id": f"message-{seq:04}", "device": "bench-1", "boot": 3, "seq": seq, "sent_at": NOW}


def _event(seq: int) -> dict[str, int]:
    return {"boot": 3, "seq": seq}


def _messages() -> list[BaseModel]:
    reported = messages.Reported(
        **_envelope(1),
        clock=base.ClockQuality.UNSYNCED,
        active=MODEL,
        previous=DIGEST,
        update_state=messages.UpdateState.FAILED,
        update_code="E_SELFTEST",
        release_counter=5,
        desired_version=7,
        pending=DIGEST,
        rollout="rollout-1",
        soak=SOAK,
        self_test=messages.SelfTestSummary(passed=False, age_s=12.5, failures=("colour order",)),
        degraded=("camera",),
    )
    capabilities = messages.Capabilities(
        agent_version="0.1.0",
        python="3.11.7",
        onnxruntime="1.32.0",
        providers=("CPUExecutionProvider",),
        cpu_cores=2,
        memory_bytes=8_000_000_000,
        source="camera",
        max_packet_bytes=262144,
    )
    field = messages.FieldResult(
        **_event(10),
        capture_id=CAPTURE,
        captured_at=NOW,
        slide="s-1",
        decision=cells.Decision.UNCERTAIN,
        reasons=("low_confidence",),
        counts=COUNTS,
        model=DIGEST,
        latency_ms=48.5,
        focus=0.8,
        rbc_diameter_px=88.0,
        image_sha256=SHA256,
    )
    slide = messages.SlideResult(
        **_event(11),
        slide="s-1",
        opened_at=NOW,
        closed_at=LATER,
        fields=40,
        withheld=1,
        rbc=3300,
        platelets=200,
        white_cells={"neutrophil": 60, "lymphocyte": 40},
        limits={"neutrophil": (0.497, 0.697), "lymphocyte": (0.303, 0.503)},
        model=DIGEST,
        version=2,
        slide_kind=messages.SlideKind.QC,
        closed_by=messages.ClosedBy.TECHNICIAN,
        target=200,
        uncertain=3,
        unidentified_limits=(0.0, 0.037),
        platelet_estimate=231.0,
        platelet_estimate_margin=18.5,
        red_cell_histogram=messages.SizeHistogram(
            edges=(4.0, 6.0, 8.0, 10.0), counts=(210, 2900, 190), unit=messages.LengthUnit.UM
        ),
        quality=messages.SlideQuality(reasons={"out_of_focus": 1}, focus_median=0.71, clock=base.ClockQuality.UNSYNCED),
        corrected=2,
        agent_version="0.1.0",
        models={DIGEST: 39},
        notes=("revisits_not_told",),
    )
    alarm = messages.Alarm(
        **_event(12), raised_at=NOW, severity=messages.Severity.CRITICAL, code="camera_frozen", text="Kamera steht µ"
    )
    dropped = messages.Dropped(**_event(13), dropped_at=NOW, reason="quota", results=2, images=1, aside=1)
    step = messages.UpdateStep(
        **_event(14),
        happened_at=NOW,
        release=DIGEST,
        counter=5,
        rollout="rollout-1",
        before=messages.UpdateState.TRIAL,
        after=messages.UpdateState.FAILED,
        code="E_SELFTEST",
        text="types_match_truth",
    )
    undone = messages.FieldUndone(**_event(15), capture_id=CAPTURE, slide="s-1", undone_at=LATER)
    label = messages.BenchLabel(
        **_event(16),
        capture_id=CAPTURE,
        slide="s-1",
        bbox=(10.5, 20.0, 120.25, 118.0),
        label="monocyte",
        before="lymphocyte",
        labelled_at=LATER,
        clock=base.ClockQuality.STEPPED,
        reader="M. Schäfer",
        model=DIGEST,
        suggestion_shown=False,
        crop_jpeg="/9j/2Q==",
        withdrawn=True,
    )
    return [
        messages.Status(
            device="bench-1",
            session="session-1",
            presence=messages.Presence.OFFLINE,
            agent_version="0.1.0",
            reason="the link broke",
        ),
        reported,
        messages.Birth(
            **_envelope(2),
            site="site-a",
            session="session-1",
            capabilities=capabilities,
            reported=reported,
            open_operations=("operation-1",),
        ),
        messages.EventBatch(**_envelope(3), events=(field, slide, alarm, dropped, step, undone, label)),
        messages.Telemetry(**_envelope(4), not_after=LATER, gauges={"spool_rows": 3, "focus": 0.75}),
        messages.OperationUpdate(
            **_envelope(5),
            operation="operation-1",
            state=messages.OperationState.RUNNING,
            step="self-test",
            percent=40,
            code="E_LATENCY",
            result={"fields": 2, "ok": True, "p95_ms": 50.5, "note": None},
        ),
        messages.Need(**_envelope(6), release=DIGEST, missing=(SHA256,), max_packet_bytes=65536),
        messages.Desired(
            device="bench-1",
            version=7,
            release=DIGEST,
            counter=5,
            rollout="rollout-1",
            activation=messages.Activation.ACTIVATE,
            sampling=messages.SamplingPolicy(per_hour=30, per_day=400, audit_ratio=0.05),
            config={"uplink": "slow"},
            not_before=NOW,
            not_after=LATER,
        ),
        messages.Operation(
            operation="operation-1", kind=messages.OperationKind.SELFTEST, not_after=LATER, arguments={"deep": True}
        ),
        messages.Ack(
            ranges=(messages.SeqRange(boot=3, first=10, last=12),),
            rejected=(messages.SeqRange(boot=3, first=13, last=13),),
        ),
        messages.OpinionReady(
            opinion="opinion-1",
            capture_id=CAPTURE,
            state=messages.OpinionState.PENDING_REVIEW,
            source=DIGEST,
            labels={"neutrophil": 1},
            late=True,
            not_after=LATER,
        ),
        messages.HostState(online=True, epoch=4, since=NOW),
    ]


def _dataset() -> dataset.DatasetExport:
    image = dataset.DatasetImage(
        id=1,
        file_name="opinion-1.jpg",
        width=1280,
        height=960,
        sha256=SHA256,
        image_url="/v1/second-opinions/opinion-1/image",
        opinion="opinion-1",
        capture_id=CAPTURE,
        device="bench-1",
        captured_at=NOW,
        complete=True,
        um_per_px=0.083,
        rbc_diameter_px=81.5,
    )
    attributes = dataset.DatasetAttributes(
        cell_type="monocyte",
        reader="Dr. Weiss",
        labelled_at=LATER,
        missed=False,
        suggested="unidentified",
        suggested_by=DIGEST,
        edge_label="lymphocyte",
        edge_model=DIGEST,
        suggestion_shown=True,
    )
    annotation = dataset.DatasetAnnotation(
        id=41, image_id=1, category_id=2, bbox=(1.0, 2.0, 3.0, 4.0), area=12.0, iscrowd=0, attributes=attributes
    )
    info = dataset.DatasetInfo(
        schema_=dataset.DATASET_SCHEMA,
        description="White cells labelled by persons. Research use only.",
        site="site-a",
        filters=dataset.DatasetFilters(since=NOW, device="bench-1", reader="Dr. Weiss", partial=True),
        labels={"monocyte": 1},
        manifest_sha256=SHA256,
    )
    return dataset.DatasetExport(
        info=info,
        categories=(dataset.DatasetCategory(id=2, name="WBC"),),
        images=(image,),
        annotations=(annotation,),
    )


def _http() -> list[BaseModel]:
    opinion = http.SecondOpinion(
        id="opinion-1",
        site="site-a",
        device="bench-1",
        capture_id=CAPTURE,
        image_sha256=SHA256,
        state=messages.OpinionState.ANSWERED,
        created_at=NOW,
        answered_at=LATER,
        duplicate=True,
        model=MODEL,
        latency_ms=310.5,
        detections=(WHITE_CELL, RED_CELL),
        cells=(http.CellOpinion(edge=WHITE_CELL, cloud=WHITE_CELL, agree=True, reader="neutrophil"),),
        agreement_ratio=1.0,
        needs_review=False,
        review_reasons=(),
        missed=(http.CellLabel(cell=None, bbox=(9.0, 8.0, 7.0, 6.0), label="basophil"),),
    )
    row = http.OpinionSummary(
        id="opinion-1",
        site="site-a",
        device="bench-1",
        capture_id=CAPTURE,
        state=messages.OpinionState.ANSWERED,
        created_at=NOW,
        white_cells=1,
        agreement_ratio=None,
        needs_review=True,
    )
    device = http.DeviceSummary(
        device="bench-1",
        site="site-a",
        label="Microscope 1",
        presence=messages.Presence.ONLINE,
        last_seen_at=NOW,
        agent_version="0.1.0",
        active_model=DIGEST,
        active_version="1.0.0",
        update_state=messages.UpdateState.CONFIRMED,
        fields=40,
        uncertain=4,
        withheld=1,
        spool_rows=0,
        degraded=("camera",),
    )
    field = http.FieldRow(
        capture_id=CAPTURE,
        captured_at=NOW,
        received_at=LATER,
        decision=cells.Decision.WITHHELD,
        reasons=("out_of_focus",),
        counts=COUNTS,
        model=DIGEST,
    )
    return [
        http.Problem(
            title="Unauthorised", status=401, detail="expired", code="token_expired", hint="ask for a new one"
        ),
        http.OpinionContext(
            site="site-a",
            device="bench-1",
            capture_id=CAPTURE,
            image_sha256=SHA256,
            captured_at=NOW,
            slide="s-1",
            decision=cells.Decision.UNCERTAIN,
            reasons=("low_confidence",),
            audit=True,
            model=MODEL,
            detections=(WHITE_CELL, RED_CELL),
            um_per_px=0.083,
        ),
        opinion,
        http.OpinionPage(items=(row,), next_cursor="c-2"),
        http.DeviceCreate(device="bench-1", site="site-a", label="Microscope 1"),
        http.DeviceToken(device="bench-1", site="site-a", token="not-a-real-token", expires_at=LATER),
        http.DevicePage(items=(device,), next_cursor=None),
        http.FieldPage(items=(field,), next_cursor=None),
        http.Health(status="ok", parts={"database": "ok"}, version="0.1.0"),
    ]


def _releases() -> list[BaseModel]:
    evidence = release.EvidenceRef(sha256=SHA256, champion=DIGEST, frozen_set=SHA256, accepted=True)
    target = release.ReleaseTarget(
        digest=DIGEST,
        name="edge",
        version="1.1.0",
        counter=5,
        bundle_schema="ahs.bundle/1",
        size_bytes=70_000,
        chunks=(release.ChunkRef(sha256=SHA256, size_bytes=65_536), release.ChunkRef(sha256=SHA256, size_bytes=4464)),
        created_at=NOW,
        checked=True,
        evidence=evidence,
    )
    summary = http.ReleaseSummary(
        digest=DIGEST,
        counter=5,
        name="edge",
        version="1.1.0",
        size_bytes=70_000,
        created_at=NOW,
        created_by="op",
        checked=True,
        evidence_accepted=True,
        devices_running=2,
        withdrawn=True,
    )
    thresholds = release.Thresholds(
        p_ok=0.9,
        p_error=0.05,
        min_errors=2,
        soak_s=60,
        step_deadline_s=600,
        wave_deadline_s=3600,
        min_fields=20,
        max_disagreement=0.1,
        max_uncertain_rise=0.15,
        max_withheld_rise=0.2,
        max_latency_ratio=2.5,
    )
    label = http.LabelRow(
        id=3,
        opinion="opinion-1",
        cell=0,
        bbox=(10.5, 20.0, 120.25, 118.0),
        label="monocyte",
        reader="Dr. Ä",
        labelled_at=NOW,
        suggested="neutrophil",
        suggested_by=DIGEST,
        edge_label="unidentified",
        edge_model=DIGEST,
        suggestion_shown=False,
    )
    gate = http.GateFigure(name="confirmed", figure=1, limit=2, passed=False, text="1 of 2 devices")
    rollout = http.RolloutSummary(
        id="rollout-1",
        site="site-a",
        counter=5,
        digest=DIGEST,
        version="1.1.0",
        state=release.RolloutState.PAUSED,
        reason="bench-1: E_SELFTEST",
        wave=0,
        waves=2,
        devices=2,
        confirmed=0,
        bad=1,
        created_at=NOW,
        created_by="op",
    )
    member = http.MemberRow(
        device="bench-1",
        wave=0,
        presence=messages.Presence.ONLINE,
        offered=True,
        state=messages.UpdateState.FAILED,
        code="E_SELFTEST",
        active=DIGEST,
        straggler=True,
        since=NOW,
        soak=SOAK,
    )
    return [
        release.Trust(roots=("{}",), timestamp="{}", snapshot="{}", targets="{}"),
        release.SignedDesired(signed="{}", keyid="ab", signature="0" * 128),
        target,
        http.LabelsCreate(
            labels=(http.CellLabel(cell=0, label="monocyte", bbox=(1.0, 2.0, 3.0, 4.0)),),
            done=True,
            suggestion_shown=False,
        ),
        http.ReviewLabels(opinion="opinion-1", state=messages.OpinionState.REVIEWED, labels=(label,)),
        _dataset(),
        http.ReleasePage(items=(summary,)),
        http.ReleaseDetail(summary=summary, target=target, evidence={"schema": "ahs.evidence/1"}),
        http.ReleasesNeeded(counters=(1, 4, 5)),
        http.ReleasesPrune(targets='{"signed": "..."}'),
        http.RolloutCreate(
            counter=5,
            devices=("bench-1", "bench-2"),
            waves=(release.WavePlan(devices=("bench-1",)), release.WavePlan(percent=100, least=1)),
            thresholds=thresholds,
            supersede=True,
        ),
        http.RolloutCommand(reason="looks wrong"),
        http.RolloutPage(items=(rollout,)),
        http.RolloutDetail(
            summary=rollout,
            thresholds=thresholds,
            members=(member,),
            gates=(gate,),
            decisions=(http.DecisionRow(at=NOW, by="controller", action="pause", reason="bad", gates=(gate,)),),
        ),
    ]


EXAMPLES: dict[str, BaseModel] = {type(example).__name__: example for example in (*_messages(), *_http(), *_releases())}
"""Name of the class -> an example of it that fills every field."""


def wire_classes() -> set[type[BaseModel]]:
    """Every class of the wire, also those that only travel inside another."""
    return {
        item
        for module in (base, cells, messages, release, http, dataset)
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, base.WireModel) and item is not base.WireModel
    }


def pretty(message: BaseModel) -> str:
    """The text of a golden file."""
    return json.dumps(json.loads(encode(message)), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, example in EXAMPLES.items():
        if not (GOLDEN / f"{name}.json").exists():
            (GOLDEN / f"{name}.json").write_text(pretty(example), encoding="utf-8")
