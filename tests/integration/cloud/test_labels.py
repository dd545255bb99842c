"""Labels of persons through the real application on both databases, and the data set they become."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from cloud.devices.figures import read_figures
from cloud.storage.tables import AuditRow, LabelRow, OutboxRow
from fleet.contract.codec import decode, encode
from fleet.contract.dataset import DatasetExport
from fleet.contract.http import ReviewLabels, SecondOpinion
from fleet.contract.messages import OpinionReady

pytestmark = pytest.mark.anyio

APART = (200.0, 20.0, 250.0, 70.0)


class Reader:
    """A person who labels."""

    def __init__(self, cloud: Any, tools: Any, token: str) -> None:
        self.cloud, self.headers = cloud, tools.bearer(token)

    async def say(self, opinion: str, *labels: dict[str, Any], **more: Any) -> Any:
        body = {"labels": list(labels)} | more
        return await self.cloud.http.post(f"/v1/reviews/{opinion}/labels", json=body, headers=self.headers)

    async def labels(self, opinion: str) -> ReviewLabels:
        answer = await self.cloud.http.get(f"/v1/reviews/{opinion}/labels", headers=self.headers)
        assert answer.status_code == 200, answer.text
        return ReviewLabels.model_validate(answer.json())

    async def export(self, **query: Any) -> DatasetExport:
        answer = await self.cloud.http.get("/v1/datasets/export", params=query, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return decode(DatasetExport, answer.content)


async def reader(cloud: Any, tools: Any, role: str = "admin", site: str = "lab-a") -> Reader:
    return Reader(cloud, tools, await cloud.token(role, site))


async def asked(cloud: Any, tools: Any, *, device: str = "bench-1", seed: int = 1, token: str | None = None) -> str:
    """The id of an opinion with two white cells: one both see, one the larger model alone sees."""
    cloud.analyser.detections = (tools.white_cell("unidentified"), tools.white_cell("monocyte", APART))
    token, image = token or await cloud.device(device), tools.jpeg(seed)
    context = tools.context_for(image, device=device, capture_id=f"{device}/1/{seed}")
    answer = await cloud.ask(token, image, context)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def count(cloud: Any, table: Any) -> int:
    async with cloud.storage.reading() as session:
        return int(await session.scalar(select(func.count()).select_from(table)) or 0)


async def test_a_label_is_kept_with_its_reader_and_what_both_models_said(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools, "reviewer")

    answer = await person.say(opinion, {"cell": 0, "label": "basophil"}, suggestion_shown=False)

    assert answer.status_code == 200, answer.text
    review = ReviewLabels.model_validate(answer.json())
    assert review.state == "pending_review"
    (label,) = review.labels
    assert (label.cell, label.label, label.reader, label.suggestion_shown) == (0, "basophil", "a reviewer", False)
    assert (label.suggested, label.suggested_by) == ("unidentified", "sha256:" + "b2" * 32)
    assert (label.edge_label, label.edge_model) == ("lymphocyte", tools.EDGE_DIGEST)
    assert label.bbox == (100.0, 80.0, 60.0, 60.0)
    assert await person.labels(opinion) == review
    async with cloud_app.storage.reading() as session:
        audit = await session.scalar(select(AuditRow).where(AuditRow.action == "opinion.labelled"))
    assert (audit.subject, audit.before, audit.after) == (f"opinion/{opinion}", None, {"labels": {"0": "basophil"}})


async def test_what_only_the_larger_model_sees_has_no_word_of_the_device(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    (label,) = (await person.say(opinion, {"cell": 1, "label": "artefact"})).json()["labels"]
    assert (label["suggested"], label["edge_label"], label["edge_model"]) == ("monocyte", None, None)


async def test_the_same_labels_again_add_no_rows(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    labels = ({"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "artefact"})
    first = await person.say(opinion, *labels, done=True)
    rows = [await count(cloud_app, table) for table in (LabelRow, OutboxRow, AuditRow)]

    again = await person.say(opinion, *labels, done=True)

    assert again.json() == first.json()
    assert [await count(cloud_app, table) for table in (LabelRow, OutboxRow, AuditRow)] == rows


async def test_a_cell_read_again_gets_a_new_label_and_the_old_one_stays(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    await person.say(opinion, {"cell": 0, "label": "monocyte"})
    review = (await person.say(opinion, {"cell": 0, "label": "lymphocyte"})).json()
    assert [label["label"] for label in review["labels"]] == ["lymphocyte"]
    assert await count(cloud_app, LabelRow) == 2


async def test_a_label_is_taken_back_and_another_readers_word_stands_again(cloud_app: Any, tools: Any) -> None:
    opinion = await asked(cloud_app, tools)
    one, two = await reader(cloud_app, tools, "admin"), await reader(cloud_app, tools, "reviewer")
    await one.say(opinion, {"cell": 0, "label": "monocyte"})
    await two.say(opinion, {"cell": 0, "label": "lymphocyte"})
    assert [label.reader for label in (await one.labels(opinion)).labels] == ["a reviewer"]

    await two.say(opinion, {"cell": 0, "label": "withdrawn"})
    (label,) = (await one.labels(opinion)).labels
    assert (label.label, label.reader) == ("monocyte", "a admin")
    await one.say(opinion, {"cell": 0, "label": "withdrawn"})
    assert (await one.labels(opinion)).labels == ()
    assert await count(cloud_app, LabelRow) == 4


async def test_an_image_is_not_done_while_a_cell_has_no_label(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)

    answer = await person.say(opinion, {"cell": 0, "label": "monocyte"}, done=True)

    assert (answer.status_code, answer.json()["code"]) == (409, "cells_missing")
    assert "1 cell has no label: 1" in answer.json()["detail"]
    assert (await person.labels(opinion)).labels == ()


async def test_the_end_of_a_reading_reaches_device_and_opinion_in_one_transaction(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    await person.say(opinion, {"cell": 0, "label": "basophil"})

    answer = await person.say(opinion, {"cell": 1, "label": "not_classed"}, done=True)

    assert answer.json()["state"] == "reviewed"
    async with cloud_app.storage.reading() as session:
        rows = list((await session.scalars(select(OutboxRow).order_by(OutboxRow.id))).all())
        audit = await session.scalar(select(AuditRow).where(AuditRow.action == "opinion.reviewed"))
    ready = decode(OpinionReady, rows[-1].payload)
    assert len(rows) == 2
    assert rows[-1].topic == f"ahs/1/d/bench-1/down/opinion/{opinion}"
    assert (ready.state, ready.source, ready.labels) == ("reviewed", "reader", {"basophil": 1, "not_classed": 1})
    assert audit.before == {"state": "pending_review"}
    assert audit.after == {"state": "reviewed", "labels": {"basophil": 1, "not_classed": 1}}


async def test_a_reviewed_opinion_says_what_the_reader_said_and_stays_reviewed_when_asked_again(
    cloud_app: Any, tools: Any
) -> None:
    token, person = await cloud_app.device(), await reader(cloud_app, tools)
    opinion = await asked(cloud_app, tools, token=token)
    before = (await cloud_app.http.get(f"/v1/second-opinions/{opinion}", headers=tools.bearer(token))).json()
    assert [cell["reader"] for cell in before["cells"]] == [None, None]
    missed = {"bbox": [20, 30, 40, 40], "label": "eosinophil"}
    await person.say(opinion, {"cell": 0, "label": "basophil"}, {"cell": 1, "label": "artefact"}, missed, done=True)

    image = tools.jpeg(1)
    again = await cloud_app.ask(token, image, tools.context_for(image, capture_id="bench-1/1/1"))

    found = SecondOpinion.model_validate(again.json())
    assert (found.state, found.duplicate) == ("reviewed", True)
    assert [cell.reader for cell in found.cells] == ["basophil", "artefact"]
    assert [(label.bbox, label.label) for label in found.missed] == [((20.0, 30.0, 40.0, 40.0), "eosinophil")]


async def test_a_label_changed_after_the_end_is_told_to_the_device_again(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    await person.say(opinion, {"cell": 0, "label": "basophil"}, {"cell": 1, "label": "artefact"}, done=True)
    answer = await person.say(opinion, {"cell": 0, "label": "monocyte"})
    assert answer.json()["state"] == "reviewed"
    async with cloud_app.storage.reading() as session:
        last = await session.scalar(select(OutboxRow).order_by(OutboxRow.id.desc()).limit(1))
    assert decode(OpinionReady, last.payload).labels == {"artefact": 1, "monocyte": 1}
    refused = await person.say(opinion, {"cell": 0, "label": "withdrawn"})
    assert (refused.status_code, refused.json()["code"]) == (409, "review_ended")


async def test_a_cell_both_models_missed_is_added_by_its_box_and_read_again_by_nearly_the_same(
    cloud_app: Any, tools: Any
) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    await person.say(opinion, {"bbox": [20, 30, 40, 40], "label": "eosinophil"})
    review = (await person.say(opinion, {"bbox": [22, 31, 40, 40], "label": "neutrophil"})).json()
    (label,) = review["labels"]
    assert (label["cell"], label["bbox"], label["label"]) == (None, [20.0, 30.0, 40.0, 40.0], "neutrophil")
    assert (label["suggested"], label["edge_label"]) == (None, None)


@pytest.mark.parametrize(
    ("label", "status", "code"),
    [
        ({"cell": 0, "label": "blast"}, 422, "unknown_label"),
        ({"cell": 2, "label": "monocyte"}, 422, "no_cell"),
        ({"label": "monocyte"}, 422, "no_cell"),
        ({"bbox": [300, 10, 40, 40], "label": "monocyte"}, 422, "bad_box"),
        ({"bbox": [10, 10, 3, 40], "label": "monocyte"}, 422, "bad_box"),
        ({"bbox": [102, 81, 58, 60], "label": "monocyte"}, 422, "cell_is_known"),
    ],
)
async def test_what_is_no_label_of_a_cell_is_refused_whole(
    sqlite_app: Any, tools: Any, label: dict[str, Any], status: int, code: str
) -> None:
    opinion, person = await asked(sqlite_app, tools), await reader(sqlite_app, tools)
    answer = await person.say(opinion, {"cell": 0, "label": "monocyte"}, label)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await count(sqlite_app, LabelRow) == 0


async def test_another_sites_image_is_not_there_and_not_every_role_may_label(cloud_app: Any, tools: Any) -> None:
    opinion = await asked(cloud_app, tools)
    stranger = await reader(cloud_app, tools, "reviewer", "lab-b")
    assert (await stranger.say(opinion, {"cell": 0, "label": "monocyte"})).status_code == 404
    answer = await cloud_app.http.get(f"/v1/reviews/{opinion}/labels", headers=stranger.headers)
    assert answer.status_code == 404
    viewer = await reader(cloud_app, tools, "viewer")
    assert (await viewer.say(opinion, {"cell": 0, "label": "monocyte"})).status_code == 403
    assert (await viewer.labels(opinion)).labels == ()
    refused = await cloud_app.http.get("/v1/datasets/export", headers=viewer.headers)
    assert refused.status_code == 403


async def test_two_readers_at_once_both_have_their_word_and_the_device_hears_of_the_end_once(
    cloud_app: Any, tools: Any
) -> None:
    opinion = await asked(cloud_app, tools)
    persons = [await reader(cloud_app, tools, role) for role in ("admin", "reviewer")]
    labels = ({"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "monocyte"})

    answers = await asyncio.gather(*(person.say(opinion, *labels, done=True) for person in persons * 3))

    assert {answer.status_code for answer in answers} == {200}
    async with cloud_app.storage.reading() as session:
        rows = Counter((row.reader, row.cell) for row in await session.scalars(select(LabelRow)))
        ended = await session.scalar(
            select(func.count()).select_from(AuditRow).where(AuditRow.action == "opinion.reviewed")
        )
    assert set(rows) == {(name, cell) for name in ("a admin", "a reviewer") for cell in (0, 1)}
    assert ended == 1
    assert await count(cloud_app, OutboxRow) == 2


async def test_the_figures_say_how_long_the_oldest_image_waits_and_what_was_labelled(
    cloud_app: Any, tools: Any
) -> None:
    token, person = await cloud_app.device(), await reader(cloud_app, tools)
    first, second = [await asked(cloud_app, tools, token=token, seed=seed) for seed in (1, 2)]
    later = datetime.now(UTC) + timedelta(hours=5)
    await person.say(first, {"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "artefact"}, done=True)
    async with cloud_app.storage.reading() as session:
        figures = await read_figures(session, now=later)
    assert figures.labels == {"artefact": 1, "monocyte": 1}
    assert figures.opinions == {"pending_review": 1, "reviewed": 1}
    assert 17_900 < figures.oldest_review_s < 18_100
    await person.say(second, {"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "monocyte"}, done=True)
    async with cloud_app.storage.reading() as session:
        assert (await read_figures(session, now=later)).oldest_review_s == 0.0


async def test_an_image_without_white_cells_is_done_by_saying_so(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    cloud_app.analyser.error = ValueError("a shape")
    body = (await cloud_app.ask(token, image, tools.context_for(image, detections=[]))).json()
    answer = await (await reader(cloud_app, tools)).say(body["id"], done=True)
    assert answer.json()["state"] == "reviewed"


async def test_the_export_is_coco_with_the_labels_that_count(cloud_app: Any, tools: Any) -> None:
    token, person = await cloud_app.device(), await reader(cloud_app, tools)
    first = await asked(cloud_app, tools, token=token, seed=1)
    second = await asked(cloud_app, tools, token=token, seed=2)
    unfinished = await asked(cloud_app, tools, token=token, seed=3)
    await person.say(second, {"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "not_classed"}, done=True)
    await person.say(first, {"cell": 0, "label": "basophil"}, {"cell": 1, "label": "artefact"}, done=True)
    await person.say(first, {"cell": 0, "label": "eosinophil"}, {"bbox": [20, 30, 40, 40], "label": "neutrophil"})
    await person.say(unfinished, {"cell": 0, "label": "lymphocyte"})

    export = await person.export()

    assert [image.opinion for image in export.images] == [first, second]
    assert [category.name for category in export.categories] == ["RBC", "WBC", "Platelets"]
    by_image = {image.id: image.opinion for image in export.images}
    said = [(by_image[a.image_id], a.attributes.cell_type, a.attributes.missed) for a in export.annotations]
    assert said == [
        (first, "eosinophil", False),
        (first, "artefact", False),
        (first, "neutrophil", True),
        (second, "monocyte", False),
        (second, "not_classed", False),
    ]
    assert export.info.labels == {"artefact": 1, "eosinophil": 1, "monocyte": 1, "neutrophil": 1, "not_classed": 1}
    image = export.images[0]
    assert (image.file_name, image.width, image.height, image.complete) == (f"{first}.jpg", 320, 240, True)
    picture = await cloud_app.http.get(image.image_url, headers=person.headers)
    assert hashlib.sha256(picture.content).hexdigest() == image.sha256
    assert [i.opinion for i in (await person.export(partial=True)).images] == [first, second, unfinished]


async def test_the_same_labels_are_the_same_bytes_under_one_hash(cloud_app: Any, tools: Any) -> None:
    opinion, person = await asked(cloud_app, tools), await reader(cloud_app, tools)
    await person.say(opinion, {"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "artefact"}, done=True)
    asks = [await cloud_app.http.get("/v1/datasets/export", headers=person.headers) for _ in range(2)]
    assert asks[0].content == asks[1].content
    document = asks[0].json()
    named = document["info"]["manifest_sha256"]
    document["info"]["manifest_sha256"] = "0" * 64
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hashlib.sha256(plain).hexdigest() == named
    assert asks[0].headers["etag"] == f'"{named}"'
    assert encode(decode(DatasetExport, asks[0].content)) == asks[0].content


async def test_the_export_is_filtered_by_time_device_and_reader(cloud_app: Any, tools: Any) -> None:
    one = await asked(cloud_app, tools, device="bench-1")
    two = await asked(cloud_app, tools, device="bench-2", seed=2)
    admin, other = await reader(cloud_app, tools, "admin"), await reader(cloud_app, tools, "reviewer")
    both = ({"cell": 0, "label": "monocyte"}, {"cell": 1, "label": "artefact"})
    await admin.say(one, *both, done=True)
    await other.say(two, *both, done=True)
    assert [i.device for i in (await admin.export()).images] == ["bench-1", "bench-2"]
    assert [i.device for i in (await admin.export(device="bench-2")).images] == ["bench-2"]
    assert [i.device for i in (await admin.export(reader="a admin")).images] == ["bench-1"]
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert (await admin.export(since=later)).images == ()
    assert len((await admin.export(since="2026-01-01T00:00:00Z")).annotations) == 4
    elsewhere = await reader(cloud_app, tools, "engineer", "lab-b")
    assert (await elsewhere.export()).images == ()


async def test_the_scale_of_an_image_is_that_of_its_whole_red_cells(sqlite_app: Any, tools: Any) -> None:
    person = await reader(sqlite_app, tools)
    red = [tools.red_cell((x, 150.0, x + 40.0 + x / 100, 186.0)) for x in (10.0, 60.0, 110.0)]
    cut = tools.red_cell((0.0, 100.0, 12.0, 140.0))
    token, image = await sqlite_app.device(), tools.jpeg()
    sqlite_app.analyser.detections = (tools.white_cell("unidentified"), *red, cut)
    opinion = (await sqlite_app.ask(token, image, tools.context_for(image))).json()["id"]
    await person.say(opinion, {"cell": 0, "label": "monocyte"}, done=True)
    (found,) = (await person.export()).images
    assert found.rbc_diameter_px == 40.6
