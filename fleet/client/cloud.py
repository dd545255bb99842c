"""The one HTTP client of the cloud: every `/v1` route, typed both ways, without retries of its own.

Whoever calls decides about retries (the edge from its spool, the command line not at all).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from fleet.client.errors import LinkDown, Rejected
from fleet.client.retry_after import parse_retry_after_s
from fleet.contract.base import utc_now_text
from fleet.contract.codec import WireError, decode, encode
from fleet.contract.dataset import MAX_DATASET_BYTES, DatasetExport
from fleet.contract.http import (
    MAX_CONTEXT_BYTES,
    MAX_IMAGE_BYTES,
    DeviceCreate,
    DevicePage,
    DeviceSummary,
    DeviceToken,
    FieldPage,
    Health,
    LabelsCreate,
    OpinionContext,
    OpinionPage,
    Problem,
    ReleaseDetail,
    ReleasePage,
    ReleasesNeeded,
    ReleasesPrune,
    ReviewLabels,
    RolloutCommand,
    RolloutCreate,
    RolloutDetail,
    RolloutPage,
    SecondOpinion,
)
from fleet.contract.messages import OpinionState
from fleet.contract.release import MAX_RELEASE_BYTES, Trust

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Largest JSON answer that is read."""

_NOBODY_DECIDED = frozenset({407, 408, 421, 425, 429})
"""4xx that ask for another try, or that come from something in between."""

_JSON = {"content-type": "application/json"}

M = TypeVar("M", bound=BaseModel)


class CloudClient:
    """Speaks to one cloud with one token. Not for use by several threads at once: give each its own.

    Args:
        base_url: address of the cloud, `https://host[:port][/prefix]`.
        token: bearer token; None asks only what needs no token (`health`).
        timeout_s: longest wait for a connection, and for the next byte.
        deadline_s: longest time for a whole request; ends what trickles.
        proxy: address of an HTTP proxy; without it the usual environment (`HTTPS_PROXY`, `NO_PROXY`) holds.

    Raises:
        ValueError: an address or a token that can never work (configuration).
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        timeout_s: float = 10.0,
        deadline_s: float = 60.0,
        proxy: str | None = None,
    ) -> None:
        headers = {"accept": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {_checked_token(token)}"
        self._deadline_s = deadline_s
        self._http = httpx.Client(
            base_url=_checked_url(base_url),
            headers=headers,
            timeout=httpx.Timeout(timeout_s),
            proxy=proxy,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def second_opinion(self, image_jpeg: bytes, context: OpinionContext) -> SecondOpinion:
        """Asks the larger model. The same key may be sent again: the stored answer comes back (`duplicate`).

        Args:
            image_jpeg: the field as an encoded picture, of which `context.image_sha256` is the hash.
            context: what the edge saw, and the key.

        Raises:
            LinkDown: not answered; send the same again later.
            Rejected: never acceptable, also when that is known before sending (too large, wrong hash).
        """
        body = encode(context)
        if len(image_jpeg) > MAX_IMAGE_BYTES or len(body) > MAX_CONTEXT_BYTES:
            raise Rejected(_local_problem(413, "too_large", f"image {len(image_jpeg)}, context {len(body)} bytes"))
        if hashlib.sha256(image_jpeg).hexdigest() != context.image_sha256:
            raise Rejected(_local_problem(422, "hash_mismatch", "the image is not the one its context names"))
        files = {
            "image": ("field.jpg", image_jpeg, "image/jpeg"),
            "context": (None, body, "application/json"),
        }
        return self._ask(SecondOpinion, "POST", "/v1/second-opinions", files=files)

    def get_opinion(self, opinion_id: str) -> SecondOpinion:
        """One second opinion in full."""
        return self._ask(SecondOpinion, "GET", f"/v1/second-opinions/{_segment(opinion_id)}")

    def opinion_image(self, opinion_id: str) -> bytes:
        """The encoded picture that a second opinion is about."""
        path = f"/v1/second-opinions/{_segment(opinion_id)}/image"
        return self._request("GET", path, limit_bytes=MAX_IMAGE_BYTES)

    def list_opinions(
        self,
        *,
        state: OpinionState | None = None,
        device: str | None = None,
        capture_id: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> OpinionPage:
        """A page of second opinions of this token's site; `device="me"` are those of the asking device."""
        query = {
            "state": state.value if state else None,
            "device": device,
            "capture_id": capture_id,
            "since": utc_now_text(since) if since else None,
            "cursor": cursor,
            "limit": limit,
        }
        return self._ask(OpinionPage, "GET", "/v1/second-opinions", params=_given(query))

    def add_labels(self, opinion_id: str, labels: LabelsCreate) -> ReviewLabels:
        """Labels white cells; with `done` ends the reading. The same again adds nothing."""
        path = f"/v1/reviews/{_segment(opinion_id)}/labels"
        return self._ask(ReviewLabels, "POST", path, content=encode(labels), headers=_JSON)

    def get_labels(self, opinion_id: str) -> ReviewLabels:
        """The label that counts for each cell of an opinion."""
        return self._ask(ReviewLabels, "GET", f"/v1/reviews/{_segment(opinion_id)}/labels")

    def export_dataset(
        self,
        *,
        since: datetime | None = None,
        device: str | None = None,
        reader: str | None = None,
        partial: bool = False,
    ) -> DatasetExport:
        """Labelled images of this token's site as COCO, without the pictures (`datasets.download_dataset` has them).

        Args:
            since: labelled at or after.
            device, reader: only of these.
            partial: also of images that are not read to their end.
        """
        query = {
            "since": utc_now_text(since) if since else None,
            "device": device,
            "reader": reader,
            "partial": "true" if partial else None,
        }
        path = "/v1/datasets/export"
        return self._ask(DatasetExport, "GET", path, limit_bytes=MAX_DATASET_BYTES, params=_given(query))

    def create_device(self, device: DeviceCreate) -> DeviceToken:
        """Registers a device; its token is in this answer and never again."""
        return self._ask(DeviceToken, "POST", "/v1/devices", content=encode(device), headers=_JSON)

    def list_devices(self, *, cursor: str | None = None, limit: int | None = None) -> DevicePage:
        """A page of the devices of this token's site."""
        return self._ask(DevicePage, "GET", "/v1/devices", params=_given({"cursor": cursor, "limit": limit}))

    def get_device(self, device: str) -> DeviceSummary:
        """One device."""
        return self._ask(DeviceSummary, "GET", f"/v1/devices/{_segment(device)}")

    def list_fields(self, device: str, *, cursor: str | None = None, limit: int | None = None) -> FieldPage:
        """A page of the fields of one device that the cloud has committed, in order of capture."""
        path = f"/v1/devices/{_segment(device)}/fields"
        return self._ask(FieldPage, "GET", path, params=_given({"cursor": cursor, "limit": limit}))

    def revoke_device(self, device: str) -> None:
        """Ends a device's token."""
        self._request("POST", f"/v1/devices/{_segment(device)}/revoke")

    def get_trust(self) -> Trust:
        """The signed trust documents as devices get them; Rejected (404) when the cloud has been given none."""
        return self._ask(Trust, "GET", "/v1/trust")

    def put_trust(self, trust: Trust) -> Trust:
        """Gives the cloud its first trust documents. The same once more changes nothing, another is refused."""
        headers = {"content-type": "application/json"}
        return self._ask(Trust, "POST", "/v1/trust", content=encode(trust), headers=headers)

    def create_release(self, targets: str, archive: bytes, evidence: bytes | None = None) -> ReleaseDetail:
        """Gives a signed release. Devices are told nothing yet: that is a rollout.

        Args:
            targets: the signed targets document that adds it.
            archive: the bundle as one zip.
            evidence: the evaluation that its description names, as it was signed.

        Raises:
            LinkDown: not answered; look at the list before another try.
            Rejected: a check failed; `code` says which.
        """
        if len(archive) > MAX_RELEASE_BYTES:
            raise Rejected(_local_problem(413, "too_large", f"archive {len(archive)} bytes"))
        files: dict[str, tuple[str | None, bytes, str]] = {
            "targets": (None, targets.encode(), "application/json"),
            "archive": ("bundle.zip", archive, "application/zip"),
        }
        if evidence is not None:
            files["evidence"] = ("evidence.json", evidence, "application/json")
        return self._ask(ReleaseDetail, "POST", "/v1/releases", files=files)

    def list_releases(self) -> ReleasePage:
        """All releases, newest first."""
        return self._ask(ReleasePage, "GET", "/v1/releases")

    def get_release(self, counter: int) -> ReleaseDetail:
        """One release with its signed description and its evidence."""
        return self._ask(ReleaseDetail, "GET", f"/v1/releases/{counter}")

    def needed_releases(self) -> ReleasesNeeded:
        """The releases that must stay in the signed list."""
        return self._ask(ReleasesNeeded, "GET", "/v1/releases/needed")

    def prune_releases(self, targets: str) -> ReleasePage:
        """Gives targets that leave old releases out."""
        return self._ask(
            ReleasePage, "POST", "/v1/releases/prune", content=encode(ReleasesPrune(targets=targets)), headers=_JSON
        )

    def create_rollout(self, rollout: RolloutCreate) -> RolloutDetail:
        """Starts to bring a release to devices, wave by wave."""
        headers = {"content-type": "application/json"}
        return self._ask(RolloutDetail, "POST", "/v1/rollouts", content=encode(rollout), headers=headers)

    def list_rollouts(self, *, open_only: bool = False, limit: int | None = None) -> RolloutPage:
        """Rollouts of this token's site, newest first."""
        query = {"open": "true" if open_only else None, "limit": limit}
        return self._ask(RolloutPage, "GET", "/v1/rollouts", params=_given(query))

    def get_rollout(self, rollout: str) -> RolloutDetail:
        """One rollout with its devices, gates and decisions."""
        return self._ask(RolloutDetail, "GET", f"/v1/rollouts/{_segment(rollout)}")

    def pause_rollout(self, rollout: str, reason: str = "") -> RolloutDetail:
        """Holds a rollout: nothing further is offered."""
        return self._command_rollout(rollout, "pause", reason)

    def resume_rollout(self, rollout: str, reason: str = "") -> RolloutDetail:
        """Goes on where the pause began."""
        return self._command_rollout(rollout, "resume", reason)

    def waive_rollout(self, rollout: str, reason: str) -> RolloutDetail:
        """Lets the open wave pass without observations that it lacks, on record."""
        return self._command_rollout(rollout, "waive", reason)

    def abort_rollout(self, rollout: str, reason: str = "") -> RolloutDetail:
        """Ends a rollout; its devices go back to their old model."""
        return self._command_rollout(rollout, "abort", reason)

    def roll_back_rollout(self, rollout: str, reason: str = "") -> RolloutDetail:
        """Like an abort, and also after the end."""
        return self._command_rollout(rollout, "rollback", reason)

    def _command_rollout(self, rollout: str, command: str, reason: str) -> RolloutDetail:
        path = f"/v1/rollouts/{_segment(rollout)}/{command}"
        headers = {"content-type": "application/json"}
        body = encode(RolloutCommand(reason=reason))
        return self._ask(RolloutDetail, "POST", path, content=body, headers=headers)

    def health(self) -> Health:
        """Whether the cloud lives; LinkDown when it does not."""
        return self._ask(Health, "GET", "/healthz")

    def _ask(self, kind: type[M], method: str, path: str, *, limit_bytes: int = MAX_ANSWER_BYTES, **parts: Any) -> M:
        data = self._request(method, path, limit_bytes=limit_bytes, **parts)
        try:
            return decode(kind, data, limit_bytes=limit_bytes)
        except WireError as exc:
            # A 2xx that is not ours is a portal's page or a newer cloud: nothing was promised, nothing is given up.
            raise LinkDown(f"{method} {path}: the answer is not a {kind.__name__} ({exc.detail})") from exc

    def _request(self, method: str, path: str, *, limit_bytes: int = MAX_ANSWER_BYTES, **parts: Any) -> bytes:
        ends_s = time.monotonic() + self._deadline_s
        try:
            with self._http.stream(method, path, **parts) as answer:
                data = _body(answer, limit_bytes=limit_bytes, ends_s=ends_s)
        except (httpx.TransportError, httpx.DecodingError) as exc:
            raise LinkDown(f"{method} {path}: {exc or type(exc).__name__}") from exc
        if answer.is_success:
            return data
        problem = _problem(answer.status_code, data)
        if problem is not None and answer.is_client_error and answer.status_code not in _NOBODY_DECIDED:
            raise Rejected(problem)
        wait_s = parse_retry_after_s(answer.headers.get("retry-after"), answer.headers.get("date"))
        words = f"{problem.title}: {problem.detail}" if problem else "no problem document"
        raise LinkDown(
            f"{method} {path}: HTTP {answer.status_code}, {words}", retry_after_s=wait_s, status=answer.status_code
        )


def _body(answer: httpx.Response, *, limit_bytes: int, ends_s: float) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    for part in answer.iter_bytes():
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise LinkDown(f"the answer is larger than {limit_bytes} bytes", status=answer.status_code)
        if time.monotonic() > ends_s:
            raise LinkDown("the answer came too slowly", status=answer.status_code)
        parts.append(part)
    return b"".join(parts)


def _problem(status: int, data: bytes) -> Problem | None:
    try:
        problem = decode(Problem, data)
    except WireError:
        return None
    return problem if problem.status == status else None


def _local_problem(status: int, code: str, detail: str) -> Problem:
    return Problem(title="Not sent", status=status, code=code, detail=detail)


def _given(query: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {key: value for key, value in query.items() if value is not None}


def _segment(text: str) -> str:
    if text in {"", ".", ".."}:
        raise ValueError(f"{text!r} names nothing on the cloud; give an id")
    return quote(text, safe="")


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as exc:
        raise ValueError(f"cloud address {text!r} cannot be read: write https://host[:port]") from exc
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"cloud address {text!r}: write https://host[:port] (or http:// on this machine)")
    if url.userinfo:
        raise ValueError("cloud address carries a user or password: take it out, the token is given apart")
    return str(url)


def _checked_token(text: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            "the access token is empty or holds characters no token has: give the one line that was issued"
        )
    return token
