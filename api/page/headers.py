"""What may a browser load, run and frame of the page? As little as it needs; decision 52 says why."""

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMMON = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SHUT = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
PLAIN = f"{_SHUT}; style-src 'self'"
"""For pages without a script."""
_LIVE = (
    f"{_SHUT}; script-src 'self' 'nonce-{{nonce}}' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " font-src 'self'; img-src 'self' data:; connect-src 'self'"
)
_SCRIPT = re.compile(rb"<script(?=[\s>])")


class Guarded:
    """ASGI middleware: the headers on every answer, and on those scripts that the server wrote the nonce that lets them
    run. A script or handler that came in any other way has none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        nonce = secrets.token_urlsafe(16)
        start: Message | None = None
        parts: list[bytes] = []

        async def guarded(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_COMMON)
                if "content-security-policy" not in headers:
                    headers["Content-Security-Policy"] = _LIVE.format(nonce=nonce)
                if headers.get("content-type", "").startswith("text/html"):
                    start = message  # sent with its body, whose length changes
                    return
            elif start is not None:
                parts.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), b"".join(parts))
                MutableHeaders(scope=start)["Content-Length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)
