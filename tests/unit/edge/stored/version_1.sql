BEGIN TRANSACTION;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counters" VALUES('images_refused',1);
INSERT INTO "counters" VALUES('images_set_aside',1);
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
INSERT INTO "detections" VALUES(1,1,10.0,10.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(2,1,50.0,50.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(3,1,90.0,90.0,20.0,20.0,'Platelets',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(4,1,120.0,120.0,20.0,20.0,'WBC',0.9,1,'{"label":"neutrophil","probabilities":{"neutrophil":0.9,"lymphocyte":0.025,"monocyte":0.025,"eosinophil":0.025,"basophil":0.025},"prediction_set":["neutrophil"],"in_domain":true,"ood_score":0.4}','neutrophil',0.9,X'6A706567',NULL,NULL);
INSERT INTO "detections" VALUES(5,2,10.0,10.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(6,2,50.0,50.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(7,2,90.0,90.0,20.0,20.0,'Platelets',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(8,2,120.0,120.0,20.0,20.0,'WBC',0.9,1,'{"label":"neutrophil","probabilities":{"neutrophil":0.9,"lymphocyte":0.025,"monocyte":0.025,"eosinophil":0.025,"basophil":0.025},"prediction_set":["neutrophil"],"in_domain":true,"ood_score":0.4}','neutrophil',0.9,X'6A706567',NULL,NULL);
INSERT INTO "detections" VALUES(9,3,10.0,10.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(10,3,50.0,50.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(11,3,90.0,90.0,20.0,20.0,'Platelets',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(12,3,120.0,120.0,20.0,20.0,'WBC',0.9,1,'{"label":"neutrophil","probabilities":{"neutrophil":0.9,"lymphocyte":0.025,"monocyte":0.025,"eosinophil":0.025,"basophil":0.025},"prediction_set":["neutrophil"],"in_domain":true,"ood_score":0.4}','neutrophil',0.9,X'6A706567','monocyte','larger model');
INSERT INTO "detections" VALUES(13,4,10.0,10.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(14,4,50.0,50.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(15,4,90.0,90.0,20.0,20.0,'Platelets',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(16,4,120.0,120.0,20.0,20.0,'WBC',0.9,1,'{"label":"neutrophil","probabilities":{"neutrophil":0.9,"lymphocyte":0.025,"monocyte":0.025,"eosinophil":0.025,"basophil":0.025},"prediction_set":["neutrophil"],"in_domain":true,"ood_score":0.4}','neutrophil',0.9,X'6A706567',NULL,NULL);
INSERT INTO "detections" VALUES(17,5,10.0,10.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(18,5,50.0,50.0,20.0,20.0,'RBC',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(19,5,90.0,90.0,20.0,20.0,'Platelets',0.9,1,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "detections" VALUES(20,5,120.0,120.0,20.0,20.0,'WBC',0.9,1,'{"label":"neutrophil","probabilities":{"neutrophil":0.9,"lymphocyte":0.025,"monocyte":0.025,"eosinophil":0.025,"basophil":0.025},"prediction_set":["neutrophil"],"in_domain":true,"ood_score":0.4}','neutrophil',0.9,X'6A706567',NULL,NULL);
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
INSERT INTO "fields" VALUES(1,'bench-1/1790000000/1','folder','set/001.png',1,1,'2026-03-01T08:00:01.000Z','accept','[]','keep',10.0,NULL,NULL,NULL,640,480,'{"rbc":2,"wbc":1,"platelets":1,"white_cells":{"neutrophil":1}}','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',NULL);
INSERT INTO "fields" VALUES(2,'bench-1/1790000000/2','folder','set/002.png',1,1,'2026-03-01T08:00:02.000Z','withheld','[]','keep',10.0,NULL,NULL,NULL,640,480,'{"rbc":2,"wbc":1,"platelets":1,"white_cells":{"neutrophil":1}}','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',NULL);
INSERT INTO "fields" VALUES(3,'bench-1/1790000001/1','folder','set/001.png',1,2,'2026-03-01T08:00:01.000Z','uncertain','[]','send',10.0,NULL,NULL,NULL,640,480,'{"rbc":2,"wbc":1,"platelets":1,"white_cells":{"neutrophil":1}}','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
INSERT INTO "fields" VALUES(4,'bench-1/1790000001/2','folder','set/002.png',1,2,'2026-03-01T08:00:02.000Z','uncertain','[]','send',10.0,NULL,NULL,NULL,640,480,'{"rbc":2,"wbc":1,"platelets":1,"white_cells":{"neutrophil":1}}','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
INSERT INTO "fields" VALUES(5,'bench-1/1790000001/3','folder','set/003.png',0,2,'2026-03-01T08:00:03.000Z','uncertain','[]','send',10.0,NULL,NULL,NULL,640,480,'{"rbc":2,"wbc":1,"platelets":1,"white_cells":{"neutrophil":1}}','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('aside.5','refused:invalid');
INSERT INTO "meta" VALUES('boot','1790000001');
INSERT INTO "meta" VALUES('instance','0123456789abcdef');
INSERT INTO "meta" VALUES('kept.note','kept');
INSERT INTO "meta" VALUES('open','1');
INSERT INTO "meta" VALUES('salt','0123456789abcdef0123456789abcdef');
INSERT INTO "meta" VALUES('update_step','j:1');
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
INSERT INTO "opinions" VALUES('op-bench-1-1790000001-1','bench-1/1790000001/1','answered','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"monocyte": 1}',1,'2026-03-01T08:00:00.000Z','2026-03-01T08:00:00.000Z');
CREATE TABLE slide_white_cells (
    slide_id INTEGER NOT NULL REFERENCES slides (id),
    label TEXT NOT NULL,
    cells INTEGER NOT NULL,
    PRIMARY KEY (slide_id, label)
) WITHOUT ROWID;
INSERT INTO "slide_white_cells" VALUES(1,'neutrophil',1);
INSERT INTO "slide_white_cells" VALUES(2,'neutrophil',3);
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
INSERT INTO "slides" VALUES(1,'24-0187','s-a359d4774735c6ef','2026-03-01T08:00:00.000Z','2026-03-01T08:00:00.000Z',100,2,1,0,2,1,1);
INSERT INTO "slides" VALUES(2,'24-0187-2','s-de661beb32f6845c','2026-03-01T08:00:00.000Z',NULL,200,3,0,3,6,3,3);
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
INSERT INTO "spool" VALUES(1,'event',1790000000,0,'field',NULL,'{"boot":1790000000,"capture_id":"bench-1/1790000000/1","captured_at":"2026-03-01T08:00:01Z","clock":"ok","counts":{"platelets":1,"rbc":2,"wbc":1,"white_cells":{"neutrophil":1}},"decision":"accept","focus":null,"image_sha256":null,"kind":"field","latency_ms":10.0,"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","rbc_diameter_px":null,"reasons":[],"seq":0,"slide":"s-1"}',NULL,403,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(2,'event',1790000000,1,'field',NULL,'{"boot":1790000000,"capture_id":"bench-1/1790000000/2","captured_at":"2026-03-01T08:00:02Z","clock":"ok","counts":{"platelets":1,"rbc":2,"wbc":1,"white_cells":{"neutrophil":1}},"decision":"withheld","focus":null,"image_sha256":null,"kind":"field","latency_ms":10.0,"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","rbc_diameter_px":null,"reasons":[],"seq":1,"slide":"s-1"}',NULL,405,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(3,'event',1790000000,2,'slide',NULL,'{"boot":1790000000,"closed_at":"2026-03-01T08:00:00Z","fields":2,"kind":"slide","limits":{"neutrophil":[0.025,1.0]},"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","opened_at":"2026-03-01T08:00:00Z","platelets":1,"rbc":2,"seq":2,"slide":"s-a359d4774735c6ef","white_cells":{"neutrophil":1},"withheld":1}',NULL,336,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(4,'event',1790000001,0,'field',NULL,'{"boot":1790000001,"capture_id":"bench-1/1790000001/1","captured_at":"2026-03-01T08:00:01Z","clock":"ok","counts":{"platelets":1,"rbc":2,"wbc":1,"white_cells":{"neutrophil":1}},"decision":"uncertain","focus":null,"image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","kind":"field","latency_ms":10.0,"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","rbc_diameter_px":null,"reasons":[],"seq":0,"slide":"s-1"}',NULL,468,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(5,'image',1790000001,1,NULL,'bench-1/1790000001/1','{"audit":false,"capture_id":"bench-1/1790000001/1","captured_at":"2026-03-01T08:00:00Z","decision":"uncertain","detections":[{"bbox":[10.0,10.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[50.0,50.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[90.0,90.0,20.0,20.0],"cell_type":null,"class":"Platelets","counted":true,"score":0.9},{"bbox":[120.0,120.0,20.0,20.0],"cell_type":{"in_domain":true,"label":"neutrophil","ood_score":0.4,"prediction_set":["neutrophil"],"probabilities":{"basophil":0.025,"eosinophil":0.025,"lymphocyte":0.025,"monocyte":0.025,"neutrophil":0.9}},"class":"WBC","counted":true,"score":0.9}],"device":"bench-1","image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","model":{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"blobs","version":"1.0.0"},"reasons":[],"site":"lab-1","slide":null,"um_per_px":null}',X'FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF',40,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(6,'event',1790000001,2,'field',NULL,'{"boot":1790000001,"capture_id":"bench-1/1790000001/2","captured_at":"2026-03-01T08:00:02Z","clock":"ok","counts":{"platelets":1,"rbc":2,"wbc":1,"white_cells":{"neutrophil":1}},"decision":"uncertain","focus":null,"image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","kind":"field","latency_ms":10.0,"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","rbc_diameter_px":null,"reasons":[],"seq":2,"slide":"s-1"}',NULL,468,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(7,'image',1790000001,3,NULL,'bench-1/1790000001/2','{"audit":true,"capture_id":"bench-1/1790000001/2","captured_at":"2026-03-01T08:00:00Z","decision":"uncertain","detections":[{"bbox":[10.0,10.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[50.0,50.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[90.0,90.0,20.0,20.0],"cell_type":null,"class":"Platelets","counted":true,"score":0.9},{"bbox":[120.0,120.0,20.0,20.0],"cell_type":{"in_domain":true,"label":"neutrophil","ood_score":0.4,"prediction_set":["neutrophil"],"probabilities":{"basophil":0.025,"eosinophil":0.025,"lymphocyte":0.025,"monocyte":0.025,"neutrophil":0.9}},"class":"WBC","counted":true,"score":0.9}],"device":"bench-1","image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","model":{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"blobs","version":"1.0.0"},"reasons":[],"site":"lab-1","slide":null,"um_per_px":null}',X'FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF',60,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(8,'event',1790000001,4,'field',NULL,'{"boot":1790000001,"capture_id":"bench-1/1790000001/3","captured_at":"2026-03-01T08:00:03Z","clock":"ok","counts":{"platelets":1,"rbc":2,"wbc":1,"white_cells":{"neutrophil":1}},"decision":"uncertain","focus":null,"image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","kind":"field","latency_ms":10.0,"model":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","rbc_diameter_px":null,"reasons":[],"seq":4,"slide":"s-1"}',NULL,468,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(9,'image',1790000001,5,NULL,'bench-1/1790000001/3','{"audit":false,"capture_id":"bench-1/1790000001/3","captured_at":"2026-03-01T08:00:00Z","decision":"uncertain","detections":[{"bbox":[10.0,10.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[50.0,50.0,20.0,20.0],"cell_type":null,"class":"RBC","counted":true,"score":0.9},{"bbox":[90.0,90.0,20.0,20.0],"cell_type":null,"class":"Platelets","counted":true,"score":0.9},{"bbox":[120.0,120.0,20.0,20.0],"cell_type":{"in_domain":true,"label":"neutrophil","ood_score":0.4,"prediction_set":["neutrophil"],"probabilities":{"basophil":0.025,"eosinophil":0.025,"lymphocyte":0.025,"monocyte":0.025,"neutrophil":0.9}},"class":"WBC","counted":true,"score":0.9}],"device":"bench-1","image_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","model":{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"blobs","version":"1.0.0"},"reasons":[],"site":"lab-1","slide":null,"um_per_px":null}',X'FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF',80,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(10,'event',1790000001,6,'dropped',NULL,'{"boot":1790000001,"dropped_at":"2026-03-01T08:00:00Z","images":1,"kind":"dropped","reason":"refused:invalid","results":0,"seq":6}',NULL,130,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(11,'event',1790000001,7,'alarm',NULL,'{"boot":1790000001,"code":"camera_frozen","kind":"alarm","raised_at":"2026-03-01T08:00:00Z","seq":7,"severity":"warning","text":"not \"audit\":true"}',NULL,149,0,'2026-03-01T08:00:00.000Z');
INSERT INTO "spool" VALUES(12,'event',1790000001,8,'update',NULL,'{"after":"downloading","before":"idle","boot":1790000001,"code":null,"counter":0,"happened_at":"2026-03-01T08:00:00Z","kind":"update","release":null,"rollout":null,"seq":8,"text":""}',NULL,182,0,'2026-03-01T08:00:00.000Z');
CREATE UNIQUE INDEX slides_one_open ON slides (closed_at IS NULL) WHERE closed_at IS NULL;
CREATE UNIQUE INDEX fields_once ON fields (slide_id, source, source_ref) WHERE replayable = 1;
CREATE INDEX detections_of_field ON detections (field_id);
CREATE INDEX detections_named ON detections (field_id) WHERE label IS NOT NULL;
CREATE INDEX spool_by_kind ON spool (kind, id, size_bytes);
CREATE UNIQUE INDEX spool_images ON spool (capture_id) WHERE kind = 'image';
CREATE INDEX opinions_of_capture ON opinions (capture_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('spool',12);
COMMIT;
