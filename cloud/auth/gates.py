"""Routes that ask who sends, and whether there is room, before a byte of the body is read.

FastAPI reads and keeps a whole form before it runs the first dependency: without this a stranger could fill memory and
disk with what is refused afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from cloud.auth.dependencies import current_principal, parts_of
from cloud.auth.principals import Permission, Principal
from cloud.parts import Parts

Room = Callable[[Parts, Principal], AbstractContextManager[None]]
"""Leave to send a body, held while it is worked on; Busy or Refused when it is not given."""


def gated(permission: Permission, room: Room) -> type[APIRoute]:
    """Route class whose POST is admitted before its body is read; any other method is as it is."""

    class GatedRoute(APIRoute):
        """See the module."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """The handler behind the gate."""
            handle = super().get_route_handler()
            if "POST" not in (self.methods or ()):
                return handle

            async def admitted(request: Request) -> Response:
                principal = await current_principal(request)
                principal.require(permission)
                with room(parts_of(request), principal):
                    return await handle(request)

            return admitted

    return GatedRoute
