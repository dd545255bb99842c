"""Examples and common answers of the API's description."""

from __future__ import annotations

from typing import Any

from fleet.contract.http import PROBLEM_TYPE, Problem

_DIGEST = "sha256:" + "5b" * 32
_IMAGE = "9f" * 32

CELL: dict[str, Any] = {
    "bbox": [212.4, 118.0, 61.2, 58.9],
    "class": "WBC",
    "score": 0.91,
    "counted": True,
    "cell_type": {
        "label": "unidentified",
        "probabilities": {
            "neutrophil": 0.02,
            "lymphocyte": 0.51,
            "monocyte": 0.45,
            "eosinophil": 0.01,
            "basophil": 0.01,
        },
        "prediction_set": ["lymphocyte", "monocyte"],
        "in_domain": True,
        "ood_score": 0.62,
    },
}

CONTEXT: dict[str, Any] = {
    "site": "lab-a",
    "device": "bench-1",
    "capture_id": "bench-1/3/1041",
    "image_sha256": _IMAGE,
    "captured_at": "2026-01-31T12:00:00.000Z",
    "slide": "7c1d",
    "decision": "uncertain",
    "reasons": ["cell_unidentified"],
    "audit": False,
    "model": {"name": "edge", "version": "1.0.0", "digest": _DIGEST},
    "detections": [CELL],
    "um_per_px": 0.083,
}

OPINION: dict[str, Any] = {
    "id": "0f6c7a3e9d5b4c1e8a2f1d3b5c7e9f01",
    "site": "lab-a",
    "device": "bench-1",
    "capture_id": "bench-1/3/1041",
    "image_sha256": _IMAGE,
    "state": "pending_review",
    "created_at": "2026-01-31T12:00:02.120Z",
    "answered_at": "2026-01-31T12:00:02.120Z",
    "duplicate": False,
    "model": {"name": "second-opinion", "version": "1.0.0", "digest": _DIGEST},
    "latency_ms": 142.0,
    "detections": [CELL],
    "cells": [{"edge": CELL, "cloud": CELL, "agree": False}],
    "agreement_ratio": 0.0,
    "needs_review": True,
    "review_reasons": ["cloud_several_types", "cloud_unidentified"],
}

LABELS: dict[str, Any] = {"labels": [{"cell": 0, "label": "monocyte"}], "done": True, "suggestion_shown": True}

REVIEW: dict[str, Any] = {
    "opinion": OPINION["id"],
    "state": "reviewed",
    "labels": [
        {
            "id": 41,
            "opinion": OPINION["id"],
            "cell": 0,
            "bbox": CELL["bbox"],
            "label": "monocyte",
            "reader": "Dr. Weiss",
            "labelled_at": "2026-01-31T13:10:41.000Z",
            "suggested": "unidentified",
            "suggested_by": _DIGEST,
            "edge_label": "unidentified",
            "edge_model": _DIGEST,
            "suggestion_shown": True,
        }
    ],
}

DEVICE: dict[str, Any] = {"device": "bench-1", "site": "lab-a", "label": "Microscope at the window"}

DEVICE_TOKEN: dict[str, Any] = {
    "device": "bench-1",
    "site": "lab-a",
    "token": "ahs_<43 characters, shown this once>",
    "expires_at": "2027-01-31T12:00:00.000Z",
}

TRUST: dict[str, Any] = {
    "schema_version": 1,
    "roots": ['{"signatures":[...],"signed":{"_type":"root","version":1,...}}'],
    "timestamp": '{"signatures":[...],"signed":{"_type":"timestamp","version":42,...}}',
    "snapshot": '{"signatures":[...],"signed":{"_type":"snapshot","version":9,...}}',
    "targets": '{"signatures":[...],"signed":{"_type":"targets","version":3,...}}',
}

RELEASE: dict[str, Any] = {
    "summary": {
        "digest": _DIGEST,
        "counter": 2,
        "name": "edge",
        "version": "1.0.1",
        "size_bytes": 61440,
        "created_at": "2026-01-31T12:00:00.000Z",
        "created_by": "Ada",
        "checked": True,
        "evidence_accepted": True,
        "devices_running": 0,
    },
    "target": {
        "schema": "ahs.release/1",
        "digest": _DIGEST,
        "name": "edge",
        "version": "1.0.1",
        "counter": 2,
        "bundle_schema": "ahs.bundle/1",
        "size_bytes": 61440,
        "chunks": [{"sha256": _IMAGE, "size_bytes": 61440}],
        "created_at": "2026-01-31T11:58:00.000Z",
        "checked": True,
        "evidence": {"sha256": _IMAGE, "champion": _DIGEST, "frozen_set": _IMAGE, "accepted": True},
    },
    "evidence": {"schema": "ahs.evidence/2", "candidate": _DIGEST, "accepted": True, "reasons": [], "figures": {}},
}

_PROBLEMS: dict[int, tuple[str, str, str]] = {
    401: ("Not signed in", "token_expired", "the access token expired at 2026-01-31T12:00:00+00:00"),
    403: ("Not allowed", "role_not_allowed", "the role viewer may not do this (manage_devices)"),
    404: ("Not found", "no_opinion", "there is no second opinion '0f6c' in this site"),
    409: ("Conflict", "device_exists", "the device id 'bench-1' is taken"),
    413: ("Too large", "image_too_large", "the image has 13000000 bytes, more than 12582912"),
    422: ("Cannot be processed", "hash_mismatch", "the image is not the one that context.image_sha256 names"),
    429: ("Busy", "busy", "bench-1 has 4 requests open already"),
    503: ("Busy", "busy", "all places for second opinions are taken"),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: each status as a problem document with an example."""
    return {status: _problem(status) for status in statuses}


def answer_example(example: dict[str, Any]) -> dict[str, Any]:
    """`responses[200]` with an example."""
    return {"content": {"application/json": {"example": example}}}


def _problem(status: int) -> dict[str, Any]:
    title, code, detail = _PROBLEMS[status]
    example = Problem(title=title, status=status, code=code, detail=detail).model_dump(mode="json")
    found: dict[str, Any] = {
        "description": title,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }
    if status in {429, 503}:
        found["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found
