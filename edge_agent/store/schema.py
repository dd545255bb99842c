"""Tables of the agent's one database. Version 1; a later version adds a step to MIGRATIONS."""

from __future__ import annotations

SCHEMA_VERSION = 1

_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE slides (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    pseudonym TEXT NOT NULL UNIQUE,
    opened_at TEXT NOT NULL,
    closed_at TEXT,
    target_white_cells INTEGER NOT NULL,
    fields INTEGER NOT NULL DEFAULT 0,
    withheld INTEGER NOT NULL DEFAULT 0,
    uncertain INTEGER NOT NULL DEFAULT 0,
    rbc INTEGER NOT NULL DEFAULT 0,
    platelets INTEGER NOT NULL DEFAULT 0,
    platelets_squared INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX slides_one_open ON slides (closed_at IS NULL) WHERE closed_at IS NULL;

CREATE TABLE slide_white_cells (
    slide_id INTEGER NOT NULL REFERENCES slides (id),
    label TEXT NOT NULL,
    cells INTEGER NOT NULL,
    PRIMARY KEY (slide_id, label)
) WITHOUT ROWID;

CREATE TABLE fields (
    id INTEGER PRIMARY KEY,
    capture_id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    source_ref TEXT NOT NULL,
    replayable INTEGER NOT NULL,
    slide_id INTEGER NOT NULL REFERENCES slides (id),
    captured_at TEXT NOT NULL,
    decision TEXT NOT NULL,
    reasons TEXT NOT NULL,
    sampled TEXT NOT NULL,
    latency_ms REAL NOT NULL,
    focus REAL,
    rbc_diameter_px REAL,
    um_per_px REAL,
    width_px INTEGER NOT NULL,
    height_px INTEGER NOT NULL,
    counts TEXT NOT NULL,
    model TEXT NOT NULL,
    image_sha256 TEXT
);
CREATE UNIQUE INDEX fields_once ON fields (slide_id, source, source_ref) WHERE replayable = 1;

CREATE TABLE detections (
    id INTEGER PRIMARY KEY,
    field_id INTEGER NOT NULL REFERENCES fields (id),
    x REAL NOT NULL, y REAL NOT NULL, width REAL NOT NULL, height REAL NOT NULL,
    cls TEXT NOT NULL,
    score REAL NOT NULL,
    counted INTEGER NOT NULL,
    cell_type TEXT,
    label TEXT,
    probability REAL,
    crop BLOB,
    second_label TEXT,
    second_source TEXT
);
CREATE INDEX detections_of_field ON detections (field_id);
CREATE INDEX detections_named ON detections (field_id) WHERE label IS NOT NULL;

CREATE TABLE spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('event', 'image')),
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    event_kind TEXT,
    capture_id TEXT,
    payload TEXT NOT NULL,
    image BLOB,
    size_bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    UNIQUE (boot, seq)
);
-- Covers the quota's sums, so that they never walk through the pictures.
CREATE INDEX spool_by_kind ON spool (kind, id, size_bytes);
CREATE UNIQUE INDEX spool_images ON spool (capture_id) WHERE kind = 'image';

CREATE TABLE opinions (
    id TEXT PRIMARY KEY,
    capture_id TEXT NOT NULL,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    labels TEXT NOT NULL,
    whole INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX opinions_of_capture ON opinions (capture_id);

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

MIGRATIONS = (_VERSION_1,)
"""Step n brings a database of version n to n + 1."""
