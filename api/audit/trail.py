"""What did this request do, and to what? Noted as it is answered; what can't be undone, and keys, before that.

Entries are made of ids that were checked, route names and statuses: nothing that a client wrote into a body.
"""

from collections.abc import Collection
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory.bootstrap import Container
from memory.domain.ids import CLIENT_ID
from memory.domain.principals import KeyScope, Principal

_FORBIDDEN = 403
_CLIENT_LEFT = 499
_FAILED = 500
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})


class Trail:
    """Of one request, in its ASGI scope. `principal` None: nobody came in, and nothing was done."""

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self._looks = True
        self._sessions: tuple[str, ...] = ()
        self._subject: str | None = None

    def enter(self, principal: Principal, scopes: Collection[KeyScope], method: str) -> None:
        self.principal = principal
        self._looks = KeyScope.READ in scopes or method in _LOOKING

    def about(
        self, *session_ids: str | None, subject: str | None = None, by: Principal | None = None, writes: bool = False
    ) -> None:
        """What the path does not say. `by`: the caller as the agent that the body names."""
        self._sessions = tuple(dict.fromkeys(one for one in session_ids if one is not None))
        self._subject = subject
        self.principal = by or self.principal
        self._looks = self._looks and not writes

    def note(self, scope: Scope, container: Container, status: int) -> bool:
        """Whether something was noted."""
        if self.principal is None or not self._counts(status, reads=container.settings.audit.reads):
            return False
        ids = {name: value for name, value in scope.get("path_params", {}).items() if CLIENT_ID.fullmatch(str(value))}
        session_id = ids.pop("session_id", None)
        named = self._sessions or (() if session_id is None else (session_id,))
        if status == _FORBIDDEN and len(named) > 1:
            named = ()  # which of them it was is not known, and a refusal must not write a thousand rows
        container.audit.note(
            self.principal.tenant_id,
            _action(scope),
            status,
            caller=self.principal.caller_id,
            agent_id=self.principal.agent_id,
            session_ids=named,
            subject=self._subject or next(iter(ids.values()), None),
            request_id=scope["state"].get("request_id"),
        )
        return True

    def _counts(self, status: int, *, reads: bool) -> bool:
        """What was done, what may have been done, and what somebody was not allowed to do."""
        if status == _FORBIDDEN:
            return True
        return (reads or not self._looks) and (status < 400 or status >= _CLIENT_LEFT)


class Audited:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trail = Trail()
        scope.setdefault("state", {})["trail"] = trail
        container: Container = scope["app"].state.container
        answered = False

        async def noted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                if trail.note(scope, container, message["status"]) and _final(scope):
                    await container.audit.settle()
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except BaseException as error:  # answered further out, if anybody is still there
            if not answered:
                failed = isinstance(error, Exception) and not isinstance(error, ClientDisconnect)
                trail.note(scope, container, _FAILED if failed else _CLIENT_LEFT)
            raise


def _final(scope: Scope) -> bool:
    """It can't be undone, or it says who gets in."""
    deletes = scope["method"] == "DELETE" or _action(scope) == "memories.forget"
    return deletes or scope["path"].startswith("/v1/admin/")


def _action(scope: Scope) -> str:
    route = scope["route"]
    return f"{route.tags[0]}.{route.name}"


async def trail_of(request: Request) -> Trail:
    return request.scope["state"]["trail"]  # type: ignore[no-any-return]  # put there by Audited


Trailing = Annotated[Trail, Depends(trail_of)]
