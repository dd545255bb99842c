"""`POST /v1/second-opinions` and what follows, through the real application on both databases."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from typing import Any

import pytest
from sqlalchemy import func, select

from cloud.storage.tables import AuditRow, ImageRow, OpinionCellRow, OpinionRow, OutboxRow
from fleet.contract.codec import decode
from fleet.contract.http import SecondOpinion
from fleet.contract.messages import OpinionReady
from models.runtime.errors import ImageError, InferenceError, ModelRuntimeError

pytestmark = pytest.mark.anyio


async def count(cloud: Any, table: Any) -> int:
    async with cloud.storage.reading() as session:
        return int(await session.scalar(select(func.count()).select_from(table)) or 0)


async def test_an_uncertain_image_is_answered_and_kept_with_its_site_and_principal(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()

    answer = await cloud_app.ask(token, image, tools.context_for(image))

    assert answer.status_code == 200, answer.text
    opinion = SecondOpinion.model_validate(answer.json())
    assert (opinion.state, opinion.agreement_ratio, opinion.needs_review) == ("answered", 1.0, False)
    assert len(opinion.cells) == 1
    assert opinion.cells[0].agree
    async with cloud_app.storage.reading() as session:
        row = await session.get(OpinionRow, opinion.id)
        picture = await session.get(ImageRow, ("lab-a", opinion.image_sha256))
        outbox = await session.scalar(select(OutboxRow))
        audit = await session.scalar(select(AuditRow).where(AuditRow.action == "opinion.answered"))
    assert row is not None
    assert row.site_id == "lab-a"
    assert audit is not None
    assert (audit.principal_id, audit.principal_name) == (row.created_by, "bench-1")
    assert picture is not None
    assert (picture.width_px, picture.height_px, picture.media_type) == (320, 240, "image/jpeg")
    assert outbox is not None
    ready = decode(OpinionReady, outbox.payload)
    assert (ready.opinion, ready.labels) == (opinion.id, {"lymphocyte": 1})
    shown = await cloud_app.http.get(f"/v1/second-opinions/{opinion.id}/image", headers=tools.bearer(token))
    assert shown.content == image


async def test_the_same_key_again_gets_the_stored_answer_without_computing(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    first = await cloud_app.ask(token, image, tools.context_for(image))

    second = await cloud_app.ask(token, image, tools.context_for(image))

    assert second.json() == first.json() | {"duplicate": True}
    assert cloud_app.analyser.calls == 1
    assert await count(cloud_app, OutboxRow) == 1


async def test_posts_of_one_key_at_the_same_time_make_one_row(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    cloud_app.analyser.gate.clear()
    asking = [asyncio.create_task(cloud_app.ask(token, image, tools.context_for(image))) for _ in range(8)]
    await tools.eventually(lambda: cloud_app.analyser.calls == 1)
    cloud_app.analyser.gate.set()

    answers = await asyncio.gather(*asking)

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.json()["duplicate"] for answer in answers) == [False] + [True] * 7
    assert (await count(cloud_app, OpinionRow), await count(cloud_app, OpinionCellRow)) == (1, 1)


async def test_two_replicas_that_compute_one_key_at_once_keep_one_row(settings_for: Any, tools: Any) -> None:
    one, two = tools.StagedAnalyser(), tools.StagedAnalyser()
    one.gate.clear()
    two.gate.clear()
    settings = settings_for()
    async with tools.running(settings, one) as first, tools.running(settings, two) as second:
        token, image = await first.device(), tools.jpeg()
        asking = [asyncio.create_task(cloud.ask(token, image, tools.context_for(image))) for cloud in (first, second)]
        await tools.eventually(lambda: one.calls == 1 and two.calls == 1)
        one.gate.set()
        two.gate.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sorted(answer.json()["duplicate"] for answer in answers) == [False, True]
        assert (await count(first, OpinionRow), await count(first, OutboxRow)) == (1, 1)


async def test_a_doubt_of_the_larger_model_asks_a_person_and_says_why(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    cloud_app.analyser.detections = (tools.white_cell("unidentified", in_domain=False),)

    body = (await cloud_app.ask(token, image, tools.context_for(image))).json()

    assert body["state"] == "pending_review"
    assert body["review_reasons"] == ["cloud_out_of_domain", "cloud_several_types", "cloud_unidentified"]
    listed = await cloud_app.http.get(
        "/v1/second-opinions?state=pending_review", headers=tools.bearer(await cloud_app.token("viewer"))
    )
    assert [item["id"] for item in listed.json()["items"]] == [body["id"]]


@pytest.mark.parametrize(
    "error",
    [InferenceError("not finite"), ModelRuntimeError("something else"), ImageError("too small"), ValueError("a shape")],
    ids=lambda error: type(error).__name__,
)
async def test_an_image_that_the_model_fails_on_goes_to_a_person_instead_of_being_sent_for_ever(
    cloud_app: Any, tools: Any, error: Exception
) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    cloud_app.analyser.error = error

    answer = await cloud_app.ask(token, image, tools.context_for(image))

    assert answer.status_code == 200
    assert answer.json()["review_reasons"] == ["model_failed"]
    assert answer.json()["state"] == "pending_review"


async def test_an_answer_that_cannot_travel_goes_to_a_person_too(sqlite_app: Any, tools: Any) -> None:
    token, image = await sqlite_app.device(), tools.jpeg()
    sqlite_app.analyser.detections = (tools.white_cell("lymphocyte", box=(float("nan"), 0.0, 9.0, 9.0)),)

    answer = await sqlite_app.ask(token, image, tools.context_for(image))

    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["review_reasons"]) == ("pending_review", ["model_failed"])


async def test_a_full_service_sheds_at_once_and_says_when_to_come_back(settings_for: Any, tools: Any) -> None:
    analyser = tools.StagedAnalyser()
    analyser.gate.clear()
    settings = settings_for(opinions={"queue_limit": 1, "per_device_limit": 2})
    async with tools.running(settings, analyser) as cloud:
        tokens = [await cloud.device(name) for name in ("bench-1", "bench-2", "bench-3")]
        asking = []
        for seed, (token, device) in enumerate(zip(tokens[:2], ("bench-1", "bench-2"), strict=True)):
            image = tools.jpeg(seed)
            asking.append(asyncio.create_task(cloud.ask(token, image, tools.context_for(image, device=device))))
        await tools.eventually(lambda: cloud.app.state.parts.opinions.admission._inside == 2)
        image = tools.jpeg(9)
        shed = await cloud.ask(tokens[2], image, tools.context_for(image, device="bench-3"))
        assert (shed.status_code, shed.json()["code"]) == (503, "busy")
        assert int(shed.headers["retry-after"]) >= 1
        analyser.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        again = await cloud.ask(tokens[2], image, tools.context_for(image, device="bench-3"))
        assert again.status_code == 200


async def test_one_device_cannot_take_all_places(settings_for: Any, tools: Any) -> None:
    analyser = tools.StagedAnalyser()
    analyser.gate.clear()
    async with tools.running(settings_for(opinions={"per_device_limit": 1}), analyser) as cloud:
        token = await cloud.device()
        first = tools.jpeg(1)
        asking = asyncio.create_task(cloud.ask(token, first, tools.context_for(first)))
        await tools.eventually(lambda: analyser.calls == 1)
        second = tools.jpeg(2)
        shed = await cloud.ask(token, second, tools.context_for(second, capture_id="bench-1/1/2"))
        assert (shed.status_code, shed.json()["code"]) == (429, "busy")
        assert int(shed.headers["retry-after"]) >= 1
        analyser.gate.set()
        assert (await asking).status_code == 200


async def test_without_a_bundle_the_image_stays_with_the_device(
    settings_for: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.assembly.bundle_path", lambda configured: None)
    async with tools.running(settings_for(), None) as cloud:
        token, image = await cloud.device(), tools.jpeg()
        answer = await cloud.ask(token, image, tools.context_for(image))
        assert (answer.status_code, answer.json()["code"]) == (503, "no_model")
        assert "retry-after" in answer.headers
        ready = (await cloud.http.get("/readyz")).json()
        assert (ready["status"], ready["parts"]["model"]) == ("degraded", "no bundle is installed")


async def test_a_bundle_that_fails_its_self_test_gives_no_answers(settings_for: Any, tools: Any) -> None:
    async with tools.running(settings_for(), tools.StagedAnalyser(failures=["golden_0: swapped channels"])) as cloud:
        token, image = await cloud.device(), tools.jpeg()
        answer = await cloud.ask(token, image, tools.context_for(image))
        assert answer.status_code == 503
        assert "golden_0" in answer.json()["detail"]


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("another site", {"site": "lab-b"}, 403, "device_mismatch"),
    ("another device", {"device": "bench-9", "capture_id": "bench-9/1/1"}, 403, "device_mismatch"),
    ("another device's capture", {"capture_id": "bench-9/1/1"}, 422, "bad_capture_id"),
    ("a capture id that is none", {"capture_id": "field one"}, 422, "bad_capture_id"),
    ("another image's hash", {"image_sha256": "0" * 64}, 422, "hash_mismatch"),
    ("a hash that is none", {"image_sha256": "xyz"}, 422, "invalid_context"),
    ("a time without a zone", {"captured_at": "2026-01-31T12:00:00"}, 422, "invalid_context"),
    ("a context that is too big", {"slide": "s", "extra": "x" * 300_000}, 413, "context_too_large"),
]


@pytest.mark.parametrize(("what", "change", "status", "code"), WRONG, ids=[row[0] for row in WRONG])
async def test_a_wrong_context_is_refused_with_a_stable_code(
    sqlite_app: Any, tools: Any, what: str, change: dict[str, Any], status: int, code: str
) -> None:
    token, image = await sqlite_app.device(), tools.jpeg()

    answer = await sqlite_app.ask(token, image, tools.context_for(image) | change)

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["hint"]
    assert await count(sqlite_app, OpinionRow) == 0


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"GIF89a not a field", 422, "not_an_image"),
        (b"\xff\xd8\xff\xe0 a JPEG that ends here", 422, "not_an_image"),
        (b"", 422, "not_an_image"),
        (bomb(60_000, 60_000), 413, "too_many_pixels"),
        (bomb(640, 480), 422, "not_an_image"),
        (b"\xff\xd8" + b"\0" * (12 * 1024 * 1024), 413, "image_too_large"),
        (b"\xff\xd8" + b"\0" * (14 * 1024 * 1024), 413, "body_too_large"),
    ],
    ids=["GIF", "truncated", "empty", "bomb", "broken PNG", "12 MiB", "14 MiB"],
)
async def test_what_is_no_usable_image_is_refused(
    sqlite_app: Any, tools: Any, image: bytes, status: int, code: str
) -> None:
    token = await sqlite_app.device()

    answer = await sqlite_app.ask(token, image, tools.context_for(image))

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert sqlite_app.analyser.calls == 0


async def test_a_body_without_a_declared_length_is_cut_off_at_the_limit(sqlite_app: Any, tools: Any) -> None:
    async def endless() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
        for _ in range(40):
            yield b"\0" * (512 * 1024)

    headers = tools.bearer(await sqlite_app.device()) | {"content-type": "multipart/form-data; boundary=x"}
    answer = await sqlite_app.http.post("/v1/second-opinions", content=endless(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("nobody", 401, "token_missing"),
        ("a wrong token", 401, "token_unknown"),
        ("a viewer", 403, "role_not_allowed"),
        ("a forged cookie", 401, "session_invalid"),
    ],
)
async def test_of_who_may_not_ask_no_byte_of_the_body_is_read(
    sqlite_app: Any, tools: Any, who: str, status: int, code: str
) -> None:
    read = 0

    async def body() -> Any:
        nonlocal read
        for _ in range(4):
            read += 1
            yield b"\0" * 1024

    headers = {
        "nobody": {},
        "a wrong token": tools.bearer("ahs_wrong"),
        "a viewer": tools.bearer(await sqlite_app.token("viewer")),
        "a forged cookie": {"cookie": "ahs_session=a.b", "origin": "http://cloud"},
    }[who] | {"content-type": "multipart/form-data; boundary=x"}
    answer = await sqlite_app.http.post("/v1/second-opinions", content=body(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert read == 0


async def test_one_device_holds_only_so_many_uploads_open_and_can_send_again_after_them(
    sqlite_settings: Any, tools: Any
) -> None:
    async with tools.running(sqlite_settings(opinions={"per_device_limit": 1}), tools.StagedAnalyser()) as cloud:
        token, image = await cloud.device(), tools.jpeg()
        headers = tools.bearer(token) | {"content-type": "multipart/form-data; boundary=x"}
        go_on, begun = asyncio.Event(), 0

        async def slow() -> Any:
            nonlocal begun
            begun += 1
            yield b"--x\r\n"
            await go_on.wait()

        def send() -> Any:
            return cloud.http.post("/v1/second-opinions", content=slow(), headers=headers)

        sending = [asyncio.create_task(send()) for _ in range(2)]
        await tools.eventually(lambda: begun == 2)
        shed = await send()
        assert (shed.status_code, shed.json()["code"], begun) == (429, "busy", 2)
        assert int(shed.headers["retry-after"]) >= 1
        go_on.set()
        await asyncio.gather(*sending)
        assert (await cloud.ask(token, image, tools.context_for(image))).status_code == 200


async def test_a_post_without_parts_names_what_is_missing(sqlite_app: Any, tools: Any) -> None:
    answer = await sqlite_app.http.post(
        "/v1/second-opinions", data={"other": "x"}, headers=tools.bearer(await sqlite_app.device())
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "image" in answer.json()["detail"]


async def test_a_device_fetches_what_it_has_missed_and_sees_no_other_device(cloud_app: Any, tools: Any) -> None:
    mine, other = await cloud_app.device("bench-1"), await cloud_app.device("bench-2")
    ids = []
    for frame in range(5):
        image = tools.jpeg(frame)
        context = tools.context_for(image, capture_id=f"bench-1/1/{frame}")
        ids.append((await cloud_app.ask(mine, image, context)).json()["id"])

    found: list[str] = []
    cursor: str | None = None
    while True:
        query = {"device": "me", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await cloud_app.http.get("/v1/second-opinions", params=query, headers=tools.bearer(mine))).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert found == ids[::-1]
    empty = await cloud_app.http.get("/v1/second-opinions", headers=tools.bearer(other))
    assert empty.json()["items"] == []
    one = await cloud_app.http.get("/v1/second-opinions?capture_id=bench-1/1/3", headers=tools.bearer(mine))
    assert [item["id"] for item in one.json()["items"]] == [ids[3]]
    hidden = await cloud_app.http.get(f"/v1/second-opinions/{ids[0]}", headers=tools.bearer(other))
    assert hidden.status_code == 404


async def test_another_sites_opinion_and_image_are_not_there(cloud_app: Any, tools: Any) -> None:
    token, image = await cloud_app.device(), tools.jpeg()
    opinion = (await cloud_app.ask(token, image, tools.context_for(image))).json()["id"]
    stranger = tools.bearer(await cloud_app.token("admin", site="lab-b"))

    for path in (f"/v1/second-opinions/{opinion}", f"/v1/second-opinions/{opinion}/image", "/v1/devices/bench-1"):
        answer = await cloud_app.http.get(path, headers=stranger)
        assert answer.status_code == 404, path
    for path in ("/v1/second-opinions", "/v1/devices"):
        assert (await cloud_app.http.get(path, headers=stranger)).json()["items"] == []


CURSORS = [
    *(("/v1/second-opinions", text) for text in ("x", "1.2.3", "-1.ab", "9" * 60 + ".a", "12.\u00e9")),
    *(
        ("/v1/devices/bench-1/fields", text)
        for text in ("x", "1.2.3", "-1.2", "1.", "9" * 60 + ".1", "1." + "9" * 60, f"{2**53}.1", "1\u0661.1")
    ),
]


@pytest.mark.parametrize(("path", "cursor"), CURSORS)
async def test_a_cursor_that_is_not_ours_is_refused(sqlite_app: Any, tools: Any, path: str, cursor: str) -> None:
    await sqlite_app.device()
    headers = tools.bearer(await sqlite_app.token("viewer"))
    answer = await sqlite_app.http.get(path, params={"cursor": cursor}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_cursor")


async def test_an_image_damaged_in_the_store_is_not_shown(sqlite_app: Any, tools: Any) -> None:
    token, image = await sqlite_app.device(), tools.jpeg()
    body = (await sqlite_app.ask(token, image, tools.context_for(image))).json()
    sha = body["image_sha256"]
    path = sqlite_app.settings.data_dir / "images" / sha[:2] / sha[2:4] / sha
    path.write_bytes(io.BytesIO(image).read()[:-10])

    answer = await sqlite_app.http.get(f"/v1/second-opinions/{body['id']}/image", headers=tools.bearer(token))

    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
