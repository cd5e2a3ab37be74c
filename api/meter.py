"""What did a request use, and what is left to its caller? Counted as it comes, charged when it is over."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import rate_limit
from memory.bootstrap import Container
from memory.domain.principals import Principal
from memory.domain.quotas import Resource, Standing


class Spent:
    """Of one request, in its ASGI scope. `principal` None: nobody came in."""

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.standing: Standing | None = None
        self.used = dict.fromkeys((Resource.BYTES, Resource.TOKENS), 0)

    async def enter(self, container: Container, principal: Principal) -> None:
        """Raises RateLimited."""
        self.standing = await container.quotas.admit(principal)
        self.principal = principal

    def tokens(self, count: int) -> None:
        self.used[Resource.TOKENS] += count


class Meter:
    """ASGI middleware: counts the bytes of the body, tells what is left, and charges what was used."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        spent = Spent()
        scope.setdefault("state", {})["spent"] = spent

        async def counted() -> Message:
            message = await receive()
            spent.used[Resource.BYTES] += len(message.get("body", b""))
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and spent.standing is not None:
                MutableHeaders(scope=message).update(rate_limit(spent.standing))
            await send(message)

        try:
            await self._app(scope, counted, told)
        finally:
            if spent.principal is not None:
                await scope["app"].state.container.quotas.charge(spent.principal, spent.used)


async def spent_by(request: Request) -> Spent:
    return request.scope["state"]["spent"]  # type: ignore[no-any-return]  # put there by Meter


Spending = Annotated[Spent, Depends(spent_by)]
