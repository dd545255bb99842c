"""Answers second opinions: checked, admitted, computed off the event loop, stored once."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Permission, Principal
from cloud.config import OpinionSettings
from cloud.errors import Forbidden, ModelMissing, StorageUnavailable, TooLarge, Unprocessable
from cloud.metrics import Metrics
from cloud.opinions import queries
from cloud.opinions.admission import Admission
from cloud.opinions.analyser import Analyser
from cloud.opinions.announcing import announce
from cloud.opinions.rules import Verdict, judge, label_of, labels, to_wire
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.tables import ImageRow, OpinionCellRow, OpinionRow
from cloud.storage.upserts import insert_new
from fleet.contract.base import CaptureId
from fleet.contract.cells import DetectionWire, ModelRef
from fleet.contract.http import OpinionContext, SecondOpinion
from models.runtime import decode_image
from models.runtime.errors import ImageError, ModelRuntimeError
from models.runtime.image_header import read_header

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Computed:
    """What the worker thread brings back; times in milliseconds, sizes in pixels."""

    detections: tuple[DetectionWire, ...]
    verdict: Verdict
    model: ModelRef
    latency_ms: float
    width_px: int
    height_px: int


class OpinionService:
    """One per process.

    Args:
        analyser: the larger model; None answers 503 until there is one.
        now: the wall clock.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        images: ImageStore,
        settings: OpinionSettings,
        metrics: Metrics,
        analyser: Analyser | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._images = images
        self._settings = settings
        self._metrics = metrics
        self._analyser = analyser
        self._now = now
        self.admission = Admission(settings, metrics)
        self._threads = ThreadPoolExecutor(settings.parallel, thread_name_prefix="opinion")
        self._open: dict[tuple[str, str, str, str], asyncio.Future[SecondOpinion]] = {}
        self.model_state = "no bundle is installed" if analyser is None else "not tested yet"

    async def prove(self) -> None:
        """Runs the self-test; a model that fails it gives no answer."""
        if self._analyser is None:
            return
        if self._settings.self_test:
            loop = asyncio.get_running_loop()
            failures = await loop.run_in_executor(self._threads, self._analyser.self_test)
            if failures:
                self.model_state = f"the bundle fails its self-test: {'; '.join(failures)}"[:500]
                return
        self.model_state = "ok"

    async def close(self) -> None:
        """Waits for what computes, then ends the threads."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def ask(self, principal: Principal, context: OpinionContext, image: bytes) -> SecondOpinion:
        """The answer to one uncertain image; the same key again gets the stored answer.

        1. who asks may ask for this device and site;
        2. the image is the one that the context names, and not too large in bytes or pixels;
        3. the same key is not computed twice, neither now nor later;
        4. there is a model and a place;
        5. image stored, then opinion, cells, outbox and audit in one transaction.

        Raises:
            Forbidden, TooLarge, Unprocessable: the asker's fault; do not send the same again.
            Busy, ModelMissing, StorageUnavailable: nobody's decision; send it again later.
        """
        principal.require(Permission.ASK_OPINION)
        _check_identity(principal, context)
        self._check_image(context, image)
        async with self._storage.reading() as session:
            known = await queries.find_by_key(session, context)
        if known is not None:
            self._metrics.opinions_answered.labels("duplicate").inc()
            return known
        key = (context.site, context.device, context.capture_id, context.image_sha256)
        if (running := self._open.get(key)) is not None:
            return (await asyncio.shield(running)).model_copy(update={"duplicate": True})
        future: asyncio.Future[SecondOpinion] = asyncio.get_running_loop().create_future()
        self._open[key] = future
        try:
            opinion = await self._compute_and_store(principal, context, image)
        except BaseException as exc:
            # Those who wait for the same key get the same refusal; a cancelled first asker must not hang them.
            future.set_exception(exc if isinstance(exc, Exception) else StorageUnavailable("the request was ended"))
            future.exception()
            raise
        finally:
            del self._open[key]
        future.set_result(opinion)
        return opinion

    def _check_image(self, context: OpinionContext, image: bytes) -> None:
        limit = self._settings.max_image_bytes
        if len(image) > limit:
            raise TooLarge(
                f"the image has {len(image)} bytes, more than {limit}", code="image_too_large", hint="compress it more"
            )
        if hashlib.sha256(image).hexdigest() != context.image_sha256:
            raise Unprocessable(
                "the image is not the one that context.image_sha256 names",
                code="hash_mismatch",
                hint="send the image as it was hashed, byte for byte",
            )
        try:
            header = read_header(image)
        except ImageError as exc:
            raise _not_an_image(exc) from exc
        pixels = header.width_px * header.height_px
        if pixels > self._settings.max_image_pixels:
            raise TooLarge(
                f"the image has {header.width_px}x{header.height_px} pixels, more than "
                f"{self._settings.max_image_pixels}",
                code="too_many_pixels",
                hint="send a smaller field",
            )

    async def _compute_and_store(self, principal: Principal, context: OpinionContext, image: bytes) -> SecondOpinion:
        analyser = self._analyser
        if analyser is None or self.model_state != "ok":
            raise ModelMissing(f"no second opinion can be given: {self.model_state}")
        async with self.admission.place(context.device):
            async with self.admission.turn():
                started_s = time.perf_counter()
                loop = asyncio.get_running_loop()
                computed = await loop.run_in_executor(self._threads, self._compute, analyser, context, image)
                self.admission.took(time.perf_counter() - started_s)
            await self._images.put(image)
            return await self._store(principal, context, computed, image)

    def _compute(self, analyser: Analyser, context: OpinionContext, image: bytes) -> _Computed:
        started_s = time.perf_counter()
        try:
            rgb = decode_image(image)
        except ImageError as exc:
            raise _not_an_image(exc) from exc
        failed: tuple[str, ...] = ()
        try:
            detections = tuple(to_wire(detection) for detection in analyser.analyse(rgb).detections)
        except (ModelRuntimeError, ValueError) as exc:
            # Sent again it would fail again, be it in the model or in an answer that cannot travel (pydantic's
            # ValidationError is a ValueError): it goes to a person instead, with the device's word alone.
            log.warning(
                "opinion_model_failed", capture_id=context.capture_id, error=str(exc), error_type=type(exc).__name__
            )
            detections, failed = (), ("model_failed",)
        verdict = judge(context.detections, detections, pair_iou=self._settings.pair_iou)
        return _Computed(
            detections=detections,
            verdict=replace(verdict, reasons=failed) if failed else verdict,
            model=analyser.model,
            latency_ms=(time.perf_counter() - started_s) * 1000.0,
            width_px=int(rgb.shape[1]),
            height_px=int(rgb.shape[0]),
        )

    async def _store(
        self, principal: Principal, context: OpinionContext, computed: _Computed, image: bytes
    ) -> SecondOpinion:
        opinion_id, now = uuid.uuid4().hex, self._now()
        async with self._storage.writing() as session:
            await _add_image(session, principal, context, computed, image, now=now)
            row = _opinion_row(opinion_id, principal, context, computed, now=now)
            added = await insert_new(session, OpinionRow, [row], [OpinionRow.id])
            if added:
                await self._add_rest(session, opinion_id, principal, context, computed, now=now)
        async with self._storage.reading() as session:
            if added:
                outcome = computed.verdict.state.value
                opinion = await queries.get_opinion(session, principal, opinion_id)
            else:
                # Another replica was faster with the same key: its answer is the answer.
                outcome = "duplicate"
                found = await queries.find_by_key(session, context)
                if found is None:
                    raise StorageUnavailable("the opinion was refused by the database and is not there")
                opinion = found
        self._metrics.opinions_answered.labels(outcome).inc()
        return opinion

    async def _add_rest(
        self,
        session: AsyncSession,
        opinion_id: str,
        principal: Principal,
        context: OpinionContext,
        computed: _Computed,
        *,
        now: datetime,
    ) -> None:
        for position, cell in enumerate(computed.verdict.cells):
            session.add(
                OpinionCellRow(
                    opinion_id=opinion_id,
                    position=position,
                    site_id=context.site,
                    edge=cell.edge.model_dump(mode="json", by_alias=True) if cell.edge else None,
                    cloud=cell.cloud.model_dump(mode="json", by_alias=True) if cell.cloud else None,
                    edge_label=label_of(cell.edge) if cell.edge else None,
                    cloud_label=label_of(cell.cloud) if cell.cloud else None,
                    agree=cell.agree,
                )
            )
        announce(
            session,
            principal,
            site=context.site,
            device=context.device,
            opinion_id=opinion_id,
            capture_id=context.capture_id,
            state=computed.verdict.state,
            source=computed.model.digest,
            labels=labels(computed.detections),
            now=now,
        )
        after = {
            "state": computed.verdict.state.value,
            "capture_id": context.capture_id,
            "model": computed.model.digest,
        }
        trail.record(session, principal, action="opinion.answered", subject=f"opinion/{opinion_id}", after=after)


def _check_identity(principal: Principal, context: OpinionContext) -> None:
    if context.device != principal.device or context.site != principal.site_id:
        raise Forbidden(
            f"this token belongs to {principal.site_id}/{principal.device}, "
            f"the context names {context.site}/{context.device}",
            code="device_mismatch",
            hint="send the image with the token of the device that took it",
        )
    try:
        capture = CaptureId.parse(context.capture_id)
    except ValueError as exc:
        raise Unprocessable(str(exc).splitlines()[0], code="bad_capture_id", hint="write device/boot/frame") from exc
    if capture.device != context.device:
        raise Unprocessable(
            f"the capture id {context.capture_id!r} is another device's",
            code="bad_capture_id",
            hint="write device/boot/frame with the asking device's id",
        )


def _not_an_image(exc: ImageError) -> Unprocessable:
    return Unprocessable(str(exc), code="not_an_image", hint="send the field as JPEG or PNG, whole")


def _opinion_row(
    opinion_id: str, principal: Principal, context: OpinionContext, computed: _Computed, *, now: datetime
) -> dict[str, Any]:
    return {
        "id": opinion_id,
        "site_id": context.site,
        "device": context.device,
        "capture_id": context.capture_id,
        "image_sha256": context.image_sha256,
        "state": computed.verdict.state.value,
        "created_at": now,
        "created_by": principal.id,
        "answered_at": now,
        "model_name": computed.model.name,
        "model_version": computed.model.version,
        "model_digest": computed.model.digest,
        "latency_ms": round(computed.latency_ms, 3),
        "width_px": computed.width_px,
        "height_px": computed.height_px,
        "context": context.model_dump(mode="json", by_alias=True),
        "detections": [d.model_dump(mode="json", by_alias=True) for d in computed.detections],
        "white_cells": sum(cell.cloud is not None for cell in computed.verdict.cells),
        "agreement_ratio": computed.verdict.agreement_ratio,
        "needs_review": computed.verdict.needs_review,
        "review_reasons": list(computed.verdict.reasons),
    }


async def _add_image(
    session: AsyncSession,
    principal: Principal,
    context: OpinionContext,
    computed: _Computed,
    image: bytes,
    *,
    now: datetime,
) -> None:
    row = {
        "site_id": context.site,
        "sha256": context.image_sha256,
        "size_bytes": len(image),
        "width_px": computed.width_px,
        "height_px": computed.height_px,
        "media_type": f"image/{read_header(image).kind}",
        "created_at": now,
        "created_by": principal.id,
    }
    await insert_new(session, ImageRow, [row], [ImageRow.sha256])
