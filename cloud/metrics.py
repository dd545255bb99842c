"""All metrics of the cloud, on a registry that is handed in.

Request figures belong to each web process. The fleet's figures are read from the database by the one worker that
leads, so that adding replicas does not multiply them. No label comes from a device, a site or a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one process.

    Args:
        registry: where they are registered; a new one by default, so that tests do not share.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        put = self.registry
        self.requests = Counter(
            "ahs_cloud_requests",
            "HTTP requests by route, method and status",
            ["route", "method", "status"],
            registry=put,
        )
        self.request_seconds = Histogram(
            "ahs_cloud_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=put
        )
        self.opinion_seconds = Histogram(
            "ahs_cloud_opinion_inference_seconds", "Time of the larger model", buckets=_SECONDS, registry=put
        )
        self.opinions_waiting = Gauge("ahs_cloud_opinion_queue", "Second opinions running or waiting", registry=put)
        self.opinions_shed = Counter(
            "ahs_cloud_opinions_shed", "Requests turned away (503, 429)", ["reason"], registry=put
        )
        self.opinions_answered = Counter(
            "ahs_cloud_opinions_answered", "Second opinions given here", ["outcome"], registry=put
        )
        self.ingest_messages = Counter(
            "ahs_cloud_ingest_messages", "Messages taken from the broker", ["kind", "outcome"], registry=put
        )
        self.ingest_rows = Counter("ahs_cloud_ingest_events", "Events committed", ["kind", "outcome"], registry=put)
        self.ingest_commit_seconds = Histogram(
            "ahs_cloud_ingest_commit_seconds", "Time of one ingest transaction", buckets=_SECONDS, registry=put
        )
        self.outbox_published = Counter(
            "ahs_cloud_outbox_messages", "Messages towards devices", ["outcome"], registry=put
        )
        self.release_messages = Counter(
            "ahs_cloud_release_messages", "Retained messages published: trust, desired", ["kind"], registry=put
        )
        self.chunks = Counter(
            "ahs_cloud_release_chunks",
            "Chunks of releases by outcome: published, or unreadable in the image store",
            ["outcome"],
            registry=put,
        )
        self.chunk_bytes = Counter("ahs_cloud_release_chunk_bytes", "Bytes of chunks published", registry=put)
        self.chunks_asked = Counter(
            "ahs_cloud_release_chunks_asked",
            "Chunks that served devices had asked for: known, or of no release",
            ["kind"],
            registry=put,
        )
        self.wants = Counter(
            "ahs_cloud_release_wants",
            "Devices' wants served: alone, merged with another device's, or unknown",
            ["outcome"],
            registry=put,
        )
        self.signings = Counter(
            "ahs_cloud_trust_signings", "Snapshot and timestamp signed again, or not", ["outcome"], registry=put
        )
        self.broker_connected = Gauge("ahs_cloud_broker_connected", "1 while the broker answers", registry=put)
        self.leader = Gauge("ahs_cloud_worker_leader", "1 while this worker holds the lease", registry=put)
        self.restarts = Counter(
            "ahs_cloud_supervised_restarts",
            "Loops of the worker that failed and were started again",
            ["loop"],
            registry=put,
        )
        self.fleet = FleetCollector()
        self.registry.register(self.fleet)


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """The fleet as the database has it. Dictionaries go from a stored constant to a number."""

    devices: dict[str, int] = field(default_factory=dict)
    fields: dict[str, int] = field(default_factory=dict)
    opinions: dict[str, int] = field(default_factory=dict)
    oldest_review_s: float = 0.0
    labels: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    dropped_results: int = 0
    dropped_images: int = 0
    outbox_waiting: int = 0
    ingest_lag_s: float = 0.0
    images: int = 0
    image_bytes: int = 0
    trust_left_s: dict[str, float] = field(default_factory=dict)
    trust_full_ratio: float = 0.0
    desired_waiting: int = 0
    want_age_s: float = 0.0
    rollouts: dict[str, int] = field(default_factory=dict)
    rollout_stops: dict[str, int] = field(default_factory=dict)
    rollout_still_s: float = 0.0
    read_at_s: float = 0.0


class FleetCollector(Collector):
    """Shows the figures last read; nothing at all where this process does not lead."""

    def __init__(self) -> None:
        self.figures: FleetFigures | None = None

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client at each scrape, from any thread."""
        figures = self.figures
        if figures is None:
            return
        yield _gauge("ahs_fleet_devices", "Registered devices by presence", "presence", figures.devices)
        yield _counter("ahs_fleet_fields", "Fields committed, by decision", "decision", figures.fields)
        yield _gauge("ahs_fleet_opinions", "Second opinions by state", "state", figures.opinions)
        yield GaugeMetricFamily(
            "ahs_fleet_review_oldest_seconds", "How long the oldest image waits for a person", figures.oldest_review_s
        )
        yield _counter("ahs_fleet_labels", "Labels that persons gave, by label", "label", figures.labels)
        yield _counter("ahs_fleet_dead_letters", "Messages that could not be taken", "code", figures.dead_letters)
        yield _counter("ahs_fleet_alarms", "Alarms by severity", "severity", figures.alarms)
        dropped = {"results": figures.dropped_results, "images": figures.dropped_images}
        yield _counter("ahs_fleet_dropped", "Rows that devices gave up for want of space", "kind", dropped)
        yield GaugeMetricFamily("ahs_fleet_outbox_waiting", "Messages to devices not yet sent", figures.outbox_waiting)
        yield GaugeMetricFamily(
            "ahs_fleet_ingest_lag_seconds",
            "Longest way of an online device's last events, sent to committed",
            figures.ingest_lag_s,
        )
        yield GaugeMetricFamily("ahs_fleet_images", "Images kept", figures.images)
        yield GaugeMetricFamily("ahs_fleet_image_bytes", "Bytes of the images kept", figures.image_bytes)
        yield _gauge(
            "ahs_fleet_trust_expiry_seconds", "Until a trust document expires, by role", "role", figures.trust_left_s
        )
        yield GaugeMetricFamily(
            "ahs_fleet_trust_full_ratio",
            "How much of the room for releases in the trust message is taken; at 1 none is added",
            figures.trust_full_ratio,
        )
        yield GaugeMetricFamily(
            "ahs_fleet_desired_waiting",
            "Devices whose desired state is not yet published",
            figures.desired_waiting,
        )
        yield GaugeMetricFamily(
            "ahs_fleet_chunk_want_age_seconds",
            "Longest wait of a device for chunks",
            figures.want_age_s,
        )
        yield _gauge("ahs_fleet_rollouts", "Rollouts by state", "state", figures.rollouts)
        yield _counter(
            "ahs_fleet_rollout_stops", "Rollouts that stopped by themselves, by how", "action", figures.rollout_stops
        )
        yield GaugeMetricFamily(
            "ahs_fleet_rollout_still_seconds",
            "Longest time in which a rollout that should move has not",
            figures.rollout_still_s,
        )
        yield GaugeMetricFamily("ahs_fleet_read_timestamp_seconds", "When these were read", figures.read_at_s)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
