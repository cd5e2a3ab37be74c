"""How large may a request be, and how long may its client leave the answer unread?

Bytes are counted as they come, so that a missing Content-Length hides nothing.
"""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import TOO_LARGE, problem

MAX_BODY_BYTES = 16 * 1_024 * 1_024
READ_SECONDS = 30.0
_DETAIL = "the request is larger than 16 MiB: send it in parts"


class BodyLimit:
    """ASGI middleware: 413 for a body over `limit` bytes, announced or not."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            # The rest of the body is not read: the connection can't be used again.
            refusal = problem(scope, 413, TOO_LARGE, _DETAIL, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, _DETAIL, headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)


class ReadDeadline:
    """ASGI middleware: a client that takes nothing of its answer for `seconds` counts as gone.

    A stream holds its session's turn and the model's place for as long as it is read: nobody may stop reading for ever.
    """

    def __init__(self, app: ASGIApp, seconds: float = READ_SECONDS) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._seconds):
                    await send(message)  # waits while the connection's buffer is full
            except TimeoutError:
                raise ClientDisconnect from None

        await self._app(scope, receive, in_time if scope["type"] == "http" else send)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
