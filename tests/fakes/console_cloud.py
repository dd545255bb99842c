"""A running cloud with devices and uncertain images of generated slides, for looking at its console."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cloud.app import create_app
from cloud.config import Settings
from cloud.operating import issue_token
from fleet.contract.cells import ModelRef
from fleet.contract.release import Trust
from models.bundle.manifest import CellClass
from models.runtime.results import CellType, Detection, FieldAnalysis, ImageRGB
from models.synthetic import FieldTruth, TruthCell
from tests.fakes.console_agent import UM_PER_PX, encode_jpeg, fields_of_a_slide
from tests.fakes.releases import ReleaseDesk

TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
EDGE_MODEL = {"name": "edge-hema", "version": "1.4.0", "digest": "sha256:" + hashlib.sha256(b"edge").hexdigest()}
CLOUD_MODEL = {"name": "opinion-hema", "version": "1.0.0", "digest": "sha256:" + hashlib.sha256(b"cloud").hexdigest()}
SITE = "north-lab"


def kind(cell: TruthCell, *, sure: bool) -> CellType:
    """A model's word on a white cell, right when it is sure."""
    named = str(cell.cell_type)
    other = "monocyte" if named != "monocyte" else "lymphocyte"
    probabilities = dict.fromkeys(TYPES, 0.01)
    probabilities |= {named: 0.96} if sure else {named: 0.51, other: 0.46}
    possible = (named,) if sure else (named, other)
    return CellType(named if sure else "unidentified", probabilities, possible, sure, 0.4 if sure else 1.6)


class TruthAnalyser:
    """Says the generator's truth; unsure of so many white cells of each field as `unsure` says."""

    def __init__(self) -> None:
        self.truth: FieldTruth | None = None
        self.unsure = 0

    @property
    def model(self) -> ModelRef:
        """See `Analyser`."""
        return ModelRef.model_validate(CLOUD_MODEL)

    def analyse(self, image: ImageRGB) -> FieldAnalysis:
        """See `Analyser`."""
        assert self.truth is not None
        white = 0
        found = []
        for cell in self.truth.cells:
            x1, y1, x2, y2 = (float(v) for v in cell.box)
            word = None
            if cell.cell_type is not None:
                white += 1
                word = kind(cell, sure=white > self.unsure)
            found.append(Detection((x1 + 1, y1 + 1, x2, y2), CellClass(cell.cls), 0.95, True, word))
        height_px, width_px = image.shape[:2]
        return FieldAnalysis(width_px, height_px, tuple(found), 90.0, {"detect": 180.0, "type": 40.0})

    def self_test(self) -> list[str]:
        """See `Analyser`."""
        return []


@dataclass
class CloudForConsole:
    """A cloud on a port; `ask` sends one uncertain image as a device would."""

    base_url: str
    settings: Settings
    analyser: TruthAnalyser
    fields: list[FieldTruth]

    def token(self, *, role: str = "reviewer", site: str = SITE, name: str = "Dr. Weiss") -> str:
        """A person's access token."""

        def issue() -> str:
            lifetime = timedelta(days=1)
            return asyncio.run(issue_token(self.settings, role=role, site=site, name=name, lifetime=lifetime))

        # Playwright keeps a loop of its own running on the test's thread.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(issue).result()

    def add_device(self, device: str, label: str = "", *, site: str = SITE) -> str:
        """Registers a device and returns its token."""
        body = {"device": device, "site": site, "label": label}
        headers = {"Authorization": f"Bearer {self.token(role='operator', site=site)}"}
        answer = httpx.post(self.base_url + "/v1/devices", json=body, headers=headers, timeout=20)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def ask(
        self, token: str, index: int, *, device: str, unsure: int = 0, site: str = SITE, capture: str | None = None
    ) -> dict[str, Any]:
        """One uncertain image; the larger model is unsure of `unsure` of its white cells."""
        field = self.fields[index]
        self.analyser.truth, self.analyser.unsure = field, unsure
        image = encode_jpeg(field.image)
        context = {
            "site": site,
            "device": device,
            "capture_id": capture or f"{device}/3/{1041 + index}",
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "captured_at": datetime.now(UTC).isoformat(),
            "slide": "24-01873",
            "decision": "uncertain",
            "reasons": ["cell_unidentified"],
            "model": EDGE_MODEL,
            "um_per_px": UM_PER_PX,
            "detections": _edge_words(field),
        }
        parts: dict[str, Any] = {
            "image": ("f.jpg", image, "image/jpeg"),
            "context": (None, json.dumps(context), "application/json"),
        }
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(self.base_url + "/v1/second-opinions", files=parts, headers=headers, timeout=30)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    def release(self, desk: ReleaseDesk, *, evidence: bool = False) -> dict[str, Any]:
        """The next release of an operator's desk; before the first one the desk's trust is given."""
        headers = {"Authorization": f"Bearer {self.token(role='operator', name='Ada')}"}
        with httpx.Client(base_url=self.base_url, headers=headers, timeout=30) as http:
            assert http.post("/v1/trust", json=desk.trust.model_dump(mode="json")).status_code == 200
            offered = desk.offer(Trust.model_validate(http.get("/v1/trust").json()), evidence=evidence)
            answer = http.post("/v1/releases", files=offered.parts)
        assert answer.status_code == 201, answer.text
        return dict(answer.json()["summary"])


def _edge_words(field: FieldTruth) -> list[dict[str, Any]]:
    words, white = [], 0
    for cell in field.cells:
        x1, y1, x2, y2 = (float(v) for v in cell.box)
        word: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "class": cell.cls, "score": 0.9, "counted": True}
        if cell.cell_type is not None:
            white += 1
            said = kind(cell, sure=white > 1)
            names = ("label", "probabilities", "prediction_set", "in_domain", "ood_score")
            word["cell_type"] = {name: getattr(said, name) for name in names}
        words.append(word)
    return words


@contextlib.contextmanager
def running_cloud(
    data_dir: Path, *, field_count: int = 3, online_key_file: Path | None = None
) -> Iterator[CloudForConsole]:
    """The web side on a free port of this machine; with an online key it takes releases."""
    settings = Settings(data_dir=data_dir, releases={"online_key_file": online_key_file})
    analyser = TruthAnalyser()
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings, analyser=analyser)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        _wait_ready(base_url)
        yield CloudForConsole(base_url, settings, analyser, fields_of_a_slide(field_count))
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def _wait_ready(base_url: str) -> None:
    ends_s = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(base_url + "/readyz", timeout=2)
            if answer.status_code == 200 and answer.json()["parts"].get("model") == "ok":
                return
        assert time.monotonic() < ends_s, "the cloud did not get ready"
        time.sleep(0.1)
