"""Collects labelled images of one site, in an order that does not depend on the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Permission, Principal
from cloud.dataset.rules import CATEGORIES, NO_HASH, WHITE_CELL_ID, hashed, rbc_diameter_px
from cloud.errors import TooLarge
from cloud.review.rules import standing
from cloud.review.stored import word_of
from cloud.storage.tables import ImageRow, LabelRow, OpinionRow
from fleet.contract.cells import DetectionWire
from fleet.contract.dataset import (
    DatasetAnnotation,
    DatasetAttributes,
    DatasetExport,
    DatasetFilters,
    DatasetImage,
    DatasetInfo,
)
from fleet.contract.http import OpinionContext
from fleet.contract.messages import OpinionState

MAX_LABELS = 100_000
"""More are exported in parts."""
_TOGETHER = 200
"""Opinions read at a time: each carries all its detections."""


async def export(session: AsyncSession, principal: Principal, filters: DatasetFilters) -> DatasetExport:
    """The labels that count, with their images.

    Args:
        filters: what to leave out.

    Raises:
        Forbidden: the role may not export.
        TooLarge: more than MAX_LABELS rows.
    """
    principal.require(Permission.EXPORT_DATASET)
    chosen = _chosen(await _label_rows(session, principal, filters), filters)
    images: list[DatasetImage] = []
    annotations: list[DatasetAnnotation] = []
    async for opinion, media_type in _opinions(session, list(chosen)):
        image = _image(len(images) + 1, opinion, media_type)
        images.append(image)
        annotations += [_annotation(image, row) for row in chosen[opinion.id]]
    tally = Counter(annotation.attributes.cell_type for annotation in annotations)
    info = DatasetInfo(
        site=principal.site_id, filters=filters, labels=dict(sorted(tally.items())), manifest_sha256=NO_HASH
    )
    return hashed(DatasetExport(info=info, categories=CATEGORIES, images=tuple(images), annotations=tuple(annotations)))


async def _label_rows(session: AsyncSession, principal: Principal, filters: DatasetFilters) -> list[LabelRow]:
    # Filters that speak of single labels come later: which label counts is only known from all of them.
    query = select(LabelRow).join(OpinionRow, OpinionRow.id == LabelRow.opinion_id)
    query = query.where(LabelRow.site_id == principal.site_id, OpinionRow.site_id == principal.site_id)
    if filters.device is not None:
        query = query.where(OpinionRow.device == filters.device)
    if not filters.partial:
        query = query.where(OpinionRow.state == OpinionState.REVIEWED.value)
    if filters.since is not None:
        touched = select(LabelRow.opinion_id).where(
            LabelRow.site_id == principal.site_id, LabelRow.labelled_at >= filters.since
        )
        query = query.where(LabelRow.opinion_id.in_(touched))
    rows = list((await session.scalars(query.order_by(LabelRow.id).limit(MAX_LABELS + 1))).all())
    if len(rows) > MAX_LABELS:
        raise TooLarge(
            f"there are more than {MAX_LABELS} labels", code="too_many_labels", hint="ask in parts: since, device"
        )
    return rows


def _chosen(rows: Iterable[LabelRow], filters: DatasetFilters) -> dict[str, list[LabelRow]]:
    """Opinion -> the rows that count and pass the filters, by cell."""
    by_opinion: dict[str, list[LabelRow]] = defaultdict(list)
    for row in rows:
        by_opinion[row.opinion_id].append(row)
    chosen: dict[str, list[LabelRow]] = {}
    for opinion_id, said in by_opinion.items():
        by_id = {row.id: row for row in said}
        counting = [by_id[word.row] for word in standing(word_of(row) for row in said)]
        if kept := [row for row in counting if _passes(row, filters)]:
            chosen[opinion_id] = kept
    return chosen


def _passes(row: LabelRow, filters: DatasetFilters) -> bool:
    new_enough = filters.since is None or row.labelled_at >= filters.since
    return new_enough and (filters.reader is None or row.reader == filters.reader)


async def _opinions(session: AsyncSession, ids: Sequence[str]) -> AsyncIterator[tuple[OpinionRow, str]]:
    """(opinion, media type of its image), oldest first. The ids were looked up under the asker's site."""
    ages: list[tuple[datetime, str]] = []
    for part in _parts(ids):
        found = await session.execute(select(OpinionRow.created_at, OpinionRow.id).where(OpinionRow.id.in_(part)))
        ages += [(row[0], row[1]) for row in found.all()]
    for part in _parts([opinion_id for _, opinion_id in sorted(ages)]):
        pairs = await session.execute(
            select(OpinionRow, ImageRow.media_type)
            .join(ImageRow, (ImageRow.site_id == OpinionRow.site_id) & (ImageRow.sha256 == OpinionRow.image_sha256))
            .where(OpinionRow.id.in_(part))
            .order_by(OpinionRow.created_at, OpinionRow.id)
        )
        for row in pairs.all():
            yield row[0], row[1]
        session.expunge_all()


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _TOGETHER):
        yield ids[start : start + _TOGETHER]


def _image(number: int, opinion: OpinionRow, media_type: str) -> DatasetImage:
    context = OpinionContext.model_validate(opinion.context)
    detections = [DetectionWire.model_validate(found) for found in opinion.detections]
    return DatasetImage(
        id=number,
        file_name=f"{opinion.id}.{'png' if media_type == 'image/png' else 'jpg'}",
        width=opinion.width_px,
        height=opinion.height_px,
        sha256=opinion.image_sha256,
        image_url=f"/v1/second-opinions/{opinion.id}/image",
        opinion=opinion.id,
        capture_id=opinion.capture_id,
        device=opinion.device,
        captured_at=context.captured_at,
        complete=opinion.state == OpinionState.REVIEWED,
        um_per_px=context.um_per_px,
        rbc_diameter_px=rbc_diameter_px(detections, width_px=opinion.width_px, height_px=opinion.height_px),
    )


def _annotation(image: DatasetImage, row: LabelRow) -> DatasetAnnotation:
    x, y, width, height = row.bbox
    return DatasetAnnotation(
        id=row.id,
        image_id=image.id,
        category_id=WHITE_CELL_ID,
        bbox=(x, y, width, height),
        area=round(width * height, 2),
        attributes=DatasetAttributes(
            cell_type=row.label,
            reader=row.reader,
            labelled_at=row.labelled_at,
            missed=row.cell is None,
            suggested=row.suggested,
            suggested_by=row.suggested_by,
            edge_label=row.edge_label,
            edge_model=row.edge_model,
            suggestion_shown=row.suggestion_shown,
        ),
    )
