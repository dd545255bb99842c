"""Every figure of the agent for Prometheus, in one place. No label can grow without bound."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Metrics:
    """Declared on an injected registry, so that several agents fit into one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._declare_capture()
        self._declare_slides()
        self._declare_triage()
        self._declare_store()
        self._declare_links()
        self._declare_daemon()
        self._declare_update()

    def _declare_capture(self) -> None:
        """What the source of pictures does."""
        kit = self.registry
        self.frames_skipped = Counter(
            "ahs_edge_frames_skipped", "Live frames passed over, by reason", ["reason"], registry=kit
        )
        self.frames_dropped = Gauge(
            "ahs_edge_frames_dropped", "Frames the source did not deliver", ["reason"], registry=kit
        )
        self.frames_unusable = Counter("ahs_edge_frames_unusable", "Frames that could not be analysed", registry=kit)
        self.camera_up = Gauge(
            "ahs_edge_camera_up", "1 when pictures arrive or none is due, 0 when the source is blind", registry=kit
        )
        self.camera_fps = Gauge("ahs_edge_camera_fps", "Frames a second that arrive", registry=kit)
        self.camera_reconnects = Gauge("ahs_edge_camera_reconnects", "Reconnections of the source", registry=kit)

    def _declare_slides(self) -> None:
        """What was read."""
        kit = self.registry
        self.fields = Counter("ahs_edge_fields", "Fields stored, by decision", ["decision"], registry=kit)
        self.field_reasons = Counter("ahs_edge_field_reasons", "Reasons against a field", ["reason"], registry=kit)
        self.fields_repeated = Counter("ahs_edge_fields_repeated", "Fields read again after a restart", registry=kit)
        self.cells = Counter("ahs_edge_cells", "Cells counted, by class", ["class"], registry=kit)
        self.field_seconds = Histogram(
            "ahs_edge_field_seconds", "Time from frame to stored result", buckets=_SECONDS, registry=kit
        )

    def _declare_triage(self) -> None:
        """What is worth a second opinion."""
        kit = self.registry
        self.sampled = Counter("ahs_edge_images_chosen", "Pictures by choice of the sampling", ["choice"], registry=kit)
        self.opinions = Counter("ahs_edge_opinions", "Second opinions stored, by state", ["state"], registry=kit)

    def _declare_store(self) -> None:
        """What is kept, and what waits."""
        kit = self.registry
        self.spool_rows = Gauge("ahs_edge_spool_rows", "Results not yet acknowledged", registry=kit)
        self.spool_images = Gauge("ahs_edge_spool_images", "Pictures not yet answered", registry=kit)
        self.spool_image_bytes = Gauge("ahs_edge_spool_image_bytes", "Bytes of those pictures", registry=kit)
        self.disk_free_bytes = Gauge("ahs_edge_disk_free_bytes", "Free bytes under the store", registry=kit)
        self.store_retries = Counter("ahs_edge_store_retries", "Attempts to store that found no room", registry=kit)
        self.lasting = Gauge(
            "ahs_edge_lasting_count", "Counters that outlive the process, by name", ["name"], registry=kit
        )
        self.store_repaired = Gauge(
            "ahs_edge_store_repaired", "1 when this start found the store damaged and replaced it", registry=kit
        )
        self.alarms_lost = Counter("ahs_edge_alarms_lost", "Alarms that could not be stored", registry=kit)

    def _declare_links(self) -> None:
        """The ways to broker and cloud."""
        kit = self.registry
        self.link_state = Gauge("ahs_edge_link_state", "1 for the state the broker link is in", ["state"], registry=kit)
        self.ask_state = Gauge(
            "ahs_edge_cloud_state", "1 for the state the way to the cloud is in", ["state"], registry=kit
        )
        self.published = Counter("ahs_edge_published", "MQTT messages handed over, by kind", ["kind"], registry=kit)
        self.notes = Counter("ahs_edge_uplink_notes", "Unusual events of the uplink, by code", ["code"], registry=kit)
        self.inbox_lost = Counter("ahs_edge_uplink_inbox_lost", "Bus events lost to a full inbox", registry=kit)

    def _declare_daemon(self) -> None:
        """The program itself."""
        kit = self.registry
        self.restarts = Counter(
            "ahs_edge_worker_restarts", "Workers restarted after an error", ["worker"], registry=kit
        )
        self.problems = Gauge("ahs_edge_problems", "Problems shown at this moment", registry=kit)
        self.model = Gauge("ahs_edge_model", "1 for the model in use", ["name", "version", "digest"], registry=kit)

    def _declare_update(self) -> None:
        """The model's update."""
        kit = self.registry
        self.update_state = Gauge("ahs_edge_update_state", "1 for the state of the update", ["state"], registry=kit)
        self.update_steps = Counter(
            "ahs_edge_update_steps", "Transitions of the update, by state reached and code", ["state", "code"],
            registry=kit,
        )  # fmt: skip
        self.update_counter = Gauge("ahs_edge_update_counter", "Release counter of the model in use", registry=kit)
        self.update_bytes = Counter("ahs_edge_update_bytes", "Bytes of chunks received", registry=kit)
        self.update_chunks = Counter(
            "ahs_edge_update_chunks", "Chunks received, by what became of them", ["outcome"], registry=kit
        )
        self.update_refused = Counter(
            "ahs_edge_update_refused", "Trust, wishes and archives refused, by code", ["what", "code"], registry=kit
        )
        # From the start: what appears with its first count would not be seen to grow.
        for what in ("trust", "desired", "archive"):
            for code in ("E_SIG", "E_ROLLBACK", "E_HASH", "E_LEN", "E_PATH"):
                self.update_refused.labels(what, code)
        self.update_chunks.labels("false")
        self.update_asked = Counter("ahs_edge_update_asked", "Questions for missing chunks", registry=kit)
        self.update_notes = Counter("ahs_edge_update_notes", "Unusual events of the update", ["code"], registry=kit)
        self.update_notes.labels("chunk_unsigned")
        self.update_inbox_lost = Counter(
            "ahs_edge_update_inbox_lost", "Messages for the update lost to a full inbox", registry=kit
        )
        self.update_soak = Gauge(
            "ahs_edge_update_soak", "Figures of the last soak of a new model", ["figure"], registry=kit
        )

    def text(self) -> bytes:
        """Prometheus exposition text."""
        return generate_latest(self.registry)
