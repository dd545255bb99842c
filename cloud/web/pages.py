"""The cloud's console pages."""

from __future__ import annotations

from fastapi import APIRouter

from cloud.web.reads import PageReads


def create_pages(reads: PageReads | None = None) -> APIRouter:
    """Router with every console page, to be included by `cloud.app` without a prefix.

    Args:
        reads: where pages read from; None takes the database behind `request.app.state`.
    """
    return APIRouter(include_in_schema=False)
