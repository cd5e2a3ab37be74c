"""How does an answer go out piece by piece, as server-sent events?"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


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
