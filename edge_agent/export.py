"""The store as `fleet.contract.report.AgentReport`: what the demo, the tests and anybody's script read."""

from __future__ import annotations

from pathlib import Path

from edge_agent.composition import MODEL_KEY
from edge_agent.config import Settings
from edge_agent.errors import DeviceFault
from edge_agent.slides.differential import differential
from edge_agent.store.database_sqlite import Database
from edge_agent.store.reads_sqlite import Reads
from edge_agent.store.records import Counter, SlideTotals
from edge_agent.store.spool_sqlite import waiting
from edge_agent.store.store_sqlite import FILE_NAME
from edge_agent.version import agent_version
from fleet.contract.cells import ModelRef
from fleet.contract.codec import encode
from fleet.contract.messages import OpinionState
from fleet.contract.report import AgentReport, FieldReport, OpinionReport, SentBytes, SlideReport


def export(settings: Settings, target: Path) -> AgentReport:
    """Writes the report beside a running or a stopped agent, in one piece.

    Raises:
        DeviceFault: no store in the data folder, or no room for the report.
    """
    report = read_report(settings)
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(encode(report) + b"\n")
        scratch.replace(target)
    except OSError as exc:
        raise DeviceFault(f"the report {target} cannot be written: {exc.strerror}") from exc
    return report


def read_report(settings: Settings) -> AgentReport:
    """Everything the store holds."""
    database = Database(settings.data_dir / FILE_NAME, read_only=True)
    try:
        reads = Reads(database)
        model = reads.recall(MODEL_KEY)
        if model is None:
            raise DeviceFault(f"the store in {settings.data_dir} is empty: the agent has not read anything yet")
        with database.reading() as connection:
            held = waiting(connection)
        counters = reads.counters()
        return AgentReport(
            schema_="ahs.agent-report/1",
            device=settings.device.id,
            site=settings.device.site,
            agent_version=agent_version(),
            model=ModelRef.model_validate_json(model),
            fields=tuple(
                FieldReport(
                    capture_id=field.capture_id,
                    source_ref=field.source_ref,
                    captured_at=field.captured_at,
                    slide=field.slide,
                    decision=field.decision,
                    reasons=field.reasons,
                    latency_ms=field.latency_ms,
                    counts=field.counts,
                    detections=field.detections,
                )
                for field in reads.fields()
            ),
            slides=tuple(_slide(totals) for totals in reads.slides()),
            uncertain_sent=counters[Counter.IMAGES_SENT],
            uncertain_waiting=held.images,
            results_waiting=held.events,
            dropped=counters[Counter.RESULTS_DROPPED] + counters[Counter.IMAGES_DROPPED],
            opinions=tuple(
                OpinionReport(
                    opinion=opinion.opinion,
                    capture_id=opinion.capture_id,
                    state=OpinionState(opinion.state),
                    labels=opinion.labels,
                )
                for opinion in reads.opinions()
            ),
            sent_bytes=SentBytes(mqtt=counters[Counter.MQTT_BYTES], https=counters[Counter.HTTPS_BYTES]),
        )
    finally:
        database.close()


def _slide(totals: SlideTotals) -> SlideReport:
    return SlideReport(
        slide=totals.name,
        closed=totals.closed_at is not None,
        fields=totals.fields,
        withheld=totals.withheld,
        rbc=totals.rbc,
        platelets=totals.platelets,
        white_cells=totals.white_cells,
        shares={
            share.label: (share.share_ratio, share.low_ratio, share.high_ratio)
            for share in differential(totals.white_cells).shares
        },
    )
