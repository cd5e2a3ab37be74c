"""How large may a request be? Bytes are counted as they come, so that a missing Content-Length hides nothing."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import TOO_LARGE, problem

MAX_BODY_BYTES = 16 * 1_024 * 1_024
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
            refusal = problem(413, TOO_LARGE, _DETAIL, headers={"Connection": "close"})
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


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
