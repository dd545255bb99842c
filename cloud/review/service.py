"""Stores what a reader says: labels, the end of an image, the word to the device and the audit, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from cloud.audit import trail
from cloud.auth.principals import Permission, Principal
from cloud.opinions.announcing import READER, announce
from cloud.opinions.queries import cells_of, get_row
from cloud.opinions.rules import label_of
from cloud.review.queries import labels_of
from cloud.review.rules import Word, counts, labels_by_place, left, news, require_complete, standing
from cloud.review.stored import rows_of, words_of
from cloud.storage.tables import LabelRow, OpinionRow
from fleet.contract.http import CellOpinion, LabelsCreate, ReviewLabels
from fleet.contract.messages import OpinionState


async def add_labels(
    session: AsyncSession, principal: Principal, opinion_id: str, asked: LabelsCreate, *, now: datetime
) -> ReviewLabels:
    """Adds labels in the open transaction. The same again adds nothing: a retry is safe.

    1. who asks may label, and the opinion is of that site;
    2. the row is held, so that of two readers at once each sees what the other has said;
    3. words that are new become rows;
    4. `done` needs a label on each cell; so does an opinion that is read to its end already;
    5. the device is told when the reading ends, and again when it changes afterwards.

    Raises:
        Forbidden, NotFound, Unprocessable, Conflict: nothing of the request is stored.
    """
    principal.require(Permission.LABEL)
    opinion = await get_row(session, principal, opinion_id, to_change=True)
    cells = await cells_of(session, opinion_id)
    words = words_of(await rows_of(session, opinion_id))
    said = news(
        asked.labels,
        cells=cells,
        words=words,
        reader=principal.id,
        width_px=opinion.width_px,
        height_px=opinion.height_px,
    )
    was_reviewed = opinion.state == OpinionState.REVIEWED
    if asked.done or was_reviewed:
        require_complete(left(cells, [*words, *said]), reviewed=was_reviewed)
    for word in said:
        session.add(_row(word, opinion, cells, principal, shown=asked.suggestion_shown, now=now))
    if said:
        _record_labels(session, principal, opinion, before=words, said=said)
    changed = labels_by_place(words) != labels_by_place([*words, *said])
    if (was_reviewed and changed) or (asked.done and not was_reviewed):
        _end(session, principal, opinion, counts([*words, *said]), now=now)
    await session.flush()
    return await labels_of(session, opinion)


def _row(
    word: Word,
    opinion: OpinionRow,
    cells: Sequence[CellOpinion],
    principal: Principal,
    *,
    shown: bool,
    now: datetime,
) -> LabelRow:
    seen = None if word.cell is None else cells[word.cell]
    return LabelRow(
        site_id=opinion.site_id,
        opinion_id=opinion.id,
        cell=word.cell,
        bbox=list(word.bbox),
        label=word.label,
        labelled_at=now,
        labelled_by=principal.id,
        reader=principal.name,
        suggested=label_of(seen.cloud) if seen and seen.cloud else None,
        suggested_by=opinion.model_digest if seen and seen.cloud else None,
        edge_label=label_of(seen.edge) if seen and seen.edge else None,
        edge_model=opinion.context["model"]["digest"] if seen and seen.edge else None,
        suggestion_shown=shown,
    )


def _record_labels(
    session: AsyncSession, principal: Principal, opinion: OpinionRow, *, before: Sequence[Word], said: Sequence[Word]
) -> None:
    subject = f"opinion/{opinion.id}"
    changed = {word.place for word in said}
    old = {_name(word): word.label for word in standing(before) if word.place in changed}
    new = {_name(word): word.label for word in said}
    trail.record(
        session,
        principal,
        action="opinion.labelled",
        subject=subject,
        before={"labels": old} if old else None,
        after={"labels": new},
    )


def _end(
    session: AsyncSession, principal: Principal, opinion: OpinionRow, labels: Mapping[str, int], *, now: datetime
) -> None:
    before = opinion.state
    opinion.state = OpinionState.REVIEWED.value
    announce(
        session,
        principal,
        site=opinion.site_id,
        device=opinion.device,
        opinion_id=opinion.id,
        capture_id=opinion.capture_id,
        state=OpinionState.REVIEWED,
        source=READER,
        labels=labels,
        now=now,
    )
    trail.record(
        session,
        principal,
        action="opinion.reviewed",
        subject=f"opinion/{opinion.id}",
        before={"state": before},
        after={"state": OpinionState.REVIEWED.value, "labels": dict(labels)},
    )


def _name(word: Word) -> str:
    return str(word.cell) if word.cell is not None else ",".join(f"{value:g}" for value in word.bbox)
