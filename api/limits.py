"""How large may a request be, and how long may its client leave the answer unread?

Bytes are counted as they come, so that a missing Content-Length hides nothing.
"""

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import TOO_LARGE, problem

MAX_BODY_BYTES = 16 * 1_024 * 1_024
READ_SECONDS = 30.0
_DROPPED_LIMITS = 4
_CLOSE = {"Connection": "close"}
_DETAIL = "the request is larger than 16 MiB: send it in parts"


class BodyLimit:
    """ASGI middleware: 413 for a body over `limit` bytes, announced or not.

    Many clients read nothing before they have sent all, and would see a broken connection instead of the answer. So the
    rest is read and dropped once the answer is sent: up to four times the limit, for at most `seconds`.
    """

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES, seconds: float = READ_SECONDS) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            refusal = problem(scope, 413, TOO_LARGE, _DETAIL, headers=_CLOSE)
            await refusal(scope, receive, self._draining(receive, send))
            return
        received = 0
        reply = send

        async def counted() -> Message:
            nonlocal received, reply
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                if message.get("more_body"):
                    reply = self._draining(receive, send)
                raise HTTPException(413, _DETAIL, headers=_CLOSE)
            return message

        async def answered(message: Message) -> None:
            await reply(message)

        await self._app(scope, counted, answered)

    def _draining(self, receive: Receive, send: Send) -> Send:
        """The answer is whole before the rest is read; only its end, which closes the connection, waits."""

        async def answered(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body"):
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await _drop(receive, _DROPPED_LIMITS * self._limit)
            await send({"type": "http.response.body"})

        return answered


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


async def _drop(receive: Receive, most: int) -> None:
    dropped = 0
    while dropped < most:
        message = await receive()
        dropped += len(message.get("body", b""))
        if not message.get("more_body"):  # all of it, or the client has left
            return
