"""Tables of the agent's one database. A version is a step of MIGRATIONS; one that was released is never changed."""

from __future__ import annotations

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

_VERSION_2 = """
-- `specimen` is what was typed or scanned, `number` its n-th slide; `name` stays what no two slides share. Which old
-- names were numbered by us cannot be told from names that were typed so: each is taken as a specimen of its own.
ALTER TABLE slides ADD COLUMN specimen TEXT;
ALTER TABLE slides ADD COLUMN number INTEGER NOT NULL DEFAULT 1;
ALTER TABLE slides ADD COLUMN kind TEXT NOT NULL DEFAULT 'specimen';
ALTER TABLE slides ADD COLUMN operator TEXT;
ALTER TABLE slides ADD COLUMN closed_by TEXT;
UPDATE slides SET specimen = name, closed_by = CASE WHEN closed_at IS NOT NULL THEN 'run' END;
CREATE INDEX slides_of_specimen ON slides (specimen, number);

-- The result as it was at closing; a correction afterwards makes the next version, the first stays.
CREATE TABLE slide_results (
    slide_id INTEGER NOT NULL REFERENCES slides (id),
    version INTEGER NOT NULL,
    made_at TEXT NOT NULL,
    result TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (slide_id, version)
) WITHOUT ROWID;

ALTER TABLE fields ADD COLUMN undone_at TEXT;
ALTER TABLE fields ADD COLUMN quality TEXT;
ALTER TABLE fields ADD COLUMN boot INTEGER;
-- A capture is named device/boot/frame, a device's id holds no slash, and a cast reads as far as the digits go.
UPDATE fields SET boot = CAST(substr(capture_id, instr(capture_id, '/') + 1) AS INTEGER);
CREATE INDEX fields_of_slide ON fields (slide_id, id);

CREATE TABLE corrections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    detection_id INTEGER NOT NULL REFERENCES detections (id),
    label TEXT NOT NULL,
    before TEXT NOT NULL,
    corrected_at TEXT NOT NULL,
    operator TEXT,
    withdrawn_at TEXT
);
CREATE INDEX corrections_of_detection ON corrections (detection_id);

-- 0 results, 1 other events, 2 pictures in doubt, 3 pictures of the audit stream: see `value.py`.
ALTER TABLE spool ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spool ADD COLUMN set_aside TEXT;
ALTER TABLE spool ADD COLUMN set_aside_at TEXT;
UPDATE spool SET priority = 1 WHERE kind = 'event' AND event_kind IN ('alarm', 'dropped', 'update');
-- The stored JSON has no spaces, and within a text a quotation mark has a backslash before it.
UPDATE spool SET priority = CASE WHEN instr(payload, '"audit":true') > 0 THEN 3 ELSE 2 END WHERE kind = 'image';
UPDATE spool SET set_aside = (SELECT value FROM meta WHERE key = 'aside.' || spool.id)
    WHERE id IN (SELECT CAST(substr(key, 7) AS INTEGER) FROM meta WHERE key >= 'aside.' AND key < 'aside/');
DELETE FROM meta WHERE key >= 'aside.' AND key < 'aside/';
CREATE INDEX spool_by_priority ON spool (kind, priority, id, size_bytes) WHERE set_aside IS NULL;
CREATE INDEX spool_aside ON spool (id) WHERE set_aside IS NOT NULL;

CREATE TABLE spool_totals (
    kind TEXT NOT NULL,
    priority INTEGER NOT NULL,
    aside INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, priority, aside)
) WITHOUT ROWID;
INSERT INTO spool_totals
    SELECT kind, priority, set_aside IS NOT NULL, COUNT(*), SUM(size_bytes) FROM spool GROUP BY 1, 2, 3;
CREATE TRIGGER spool_row_came AFTER INSERT ON spool BEGIN
    INSERT INTO spool_totals VALUES (new.kind, new.priority, new.set_aside IS NOT NULL, 1, new.size_bytes)
        ON CONFLICT (kind, priority, aside) DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER spool_row_went AFTER DELETE ON spool BEGIN
    UPDATE spool_totals SET rows = rows - 1, bytes = bytes - old.size_bytes
        WHERE kind = old.kind AND priority = old.priority AND aside = (old.set_aside IS NOT NULL);
END;
CREATE TRIGGER spool_row_moved AFTER UPDATE OF kind, priority, set_aside, size_bytes ON spool BEGIN
    UPDATE spool_totals SET rows = rows - 1, bytes = bytes - old.size_bytes
        WHERE kind = old.kind AND priority = old.priority AND aside = (old.set_aside IS NOT NULL);
    INSERT INTO spool_totals VALUES (new.kind, new.priority, new.set_aside IS NOT NULL, 1, new.size_bytes)
        ON CONFLICT (kind, priority, aside) DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;
END;

CREATE TABLE seen_files (
    source TEXT NOT NULL,
    source_ref TEXT NOT NULL,
    outcome TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    PRIMARY KEY (source, source_ref)
) WITHOUT ROWID;

CREATE TABLE calibrations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    made_at TEXT NOT NULL,
    made_by TEXT,
    limits TEXT NOT NULL,
    measured TEXT NOT NULL,
    active INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX calibrations_one_active ON calibrations (active) WHERE active = 1;
"""

MIGRATIONS = (_VERSION_1, _VERSION_2)
"""Step n brings a database of version n to n + 1."""

SCHEMA_VERSION = len(MIGRATIONS)
