"""How does an answer that takes long go out: piece by piece, as server-sent events, and to nobody who has left?"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

Made = TypeVar("Made")

_GLANCE = 0.5
"""Seconds between two looks whether the client is still there."""


async def while_there(request: Request, work: Awaitable[Made]) -> Made:
    """A client that has gone is not worked for: a place, blocks and a session would be held for nobody.

    The work has ended when this does: only then may its turn be left. Raises ClientDisconnect.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_GLANCE))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class EventStream(StreamingResponse):
    """However it ends, read to the end or not even begun, `stack` is left: it holds what the stream needs."""

    def __init__(self, stack: AsyncExitStack, pieces: AsyncGenerator[str | bytes, None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._stack = stack
        self._stack.push_async_callback(pieces.aclose)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)
