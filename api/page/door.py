"""Who is let in to the page? Asked before anything of it is loaded, built or sent, for pages and sockets alike.

Where no key is needed, a page of the web must not get in either: it is refused as for the API (`identify`), and
sockets are opened by our own page alone. Where one is needed, a cookie that no other site can send stands for it.
"""

import asyncio
import importlib
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.meter import spent_by
from api.origins import Whence
from api.page import plain
from api.page.headers import Guarded
from api.page.signins import HOURS, SignIns
from api.page.visitor import Visitor
from memory.bootstrap import Container
from memory.domain.errors import Forbidden, StratamemError, Unauthenticated

PATH = "/admin"
SIGN_IN = f"{PATH}/sign-in"
COOKIE = "stratamem_admin"
_FORM_COOKIE = "stratamem_form"
_SOCKET = "/_nicegui_ws/"
_STATIC = "/_nicegui/"
_ASSETS = "/assets/"
_MOST_FORM_BYTES = 16_384
_FOR_EVER = "private, max-age=31536000, immutable"
_POLICY_VIOLATION = 1008
_PAGES, _QUIET = SimpleNamespace(path=PATH), SimpleNamespace(path=f"{PATH}/static")


class Door:
    """`open` is left to the first visitor who is let in; `close` ends what it began."""

    def __init__(self) -> None:
        self._signins = SignIns()
        self._assets = StaticFiles(directory=Path(__file__).with_name("assets"))
        self._site: ASGIApp | None = None
        self._opening = asyncio.Lock()
        self._opened = AsyncExitStack()

    def routes(self) -> list[BaseRoute]:
        async def slash(_: Request) -> Response:
            return RedirectResponse(f"{PATH}/", 308)

        return [Route(PATH, slash, include_in_schema=False), Mount(PATH, GZipMiddleware(Guarded(self._enter)))]

    async def close(self) -> None:
        await self._opened.aclose()

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] == "websocket":
            await self._socket(path, scope, receive, send)
            return
        scope["route"] = _QUIET if path.startswith((_STATIC, _ASSETS)) else _PAGES  # for the log and the metrics
        request = Request(scope, receive)
        match path, request.method:
            case "/sign-in", "GET":
                answer: Response = _form()
            case "/sign-in", "POST":
                answer = await self._sign_in(request)
            case "/sign-out", "POST":
                answer = self._sign_out(request)
            case _, "GET" | "HEAD" if path.startswith(_ASSETS):
                await self._assets({**scope, "root_path": scope["root_path"] + _ASSETS.rstrip("/")}, receive, send)
                return
            case _, "GET" | "HEAD" if not path.startswith(_SOCKET):
                await self._page(path, request, send)
                return
            case _:
                answer = plain.problem(404, "not_found", "there is no such page here")
        await answer(scope, receive, send)

    async def _page(self, path: str, request: Request, send: Send) -> None:
        visitor = self._visitor(request)
        static = path.startswith(_STATIC)
        try:
            who = await visitor.principal()
            if not static:
                await (await spent_by(request)).enter(visitor.container, who)
        except Unauthenticated:
            refused: Response = Response(status_code=401) if static else RedirectResponse(SIGN_IN, 303)
            await refused(request.scope, request.receive, send)
            return
        except StratamemError as error:
            await plain.problem(error.status, error.code, error.detail)(request.scope, request.receive, send)
            return
        await self._show(visitor, request, send, _FOR_EVER if static and "/dynamic_" not in path else "no-store")

    async def _show(self, visitor: Visitor, request: Request, send: Send, caching: str) -> None:
        site = await self._loaded()

        async def cached(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = caching
            await send(message)

        # A scope of its own: what the site writes into it (app, route) is not for the layers around the API.
        await site({**request.scope, "visitor": visitor}, request.receive, cached)

    async def _socket(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        try:
            if not path.startswith(_SOCKET) or not Whence.of(connection.headers).own_page:
                raise Forbidden("only this server's own page may open its socket")
            visitor = self._visitor(connection)
            await visitor.principal()
        except StratamemError:
            await receive()  # the request to connect, which is refused with 403
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        site = await self._loaded()
        await site({**scope, "visitor": visitor}, receive, send)

    def _visitor(self, connection: HTTPConnection) -> Visitor:
        return Visitor(
            container=connection.scope["app"].state.container,
            whence=Whence.of(connection.headers),
            signins=self._signins,
            signed=connection.cookies.get(COOKIE),
            request_id=connection.scope.get("state", {}).get("request_id"),
        )

    async def _loaded(self) -> ASGIApp:
        """NiceGUI is imported in a thread: requests are answered meanwhile."""
        async with self._opening:
            if self._site is not None:
                return self._site
            module = await asyncio.to_thread(importlib.import_module, "api.page.site")
            site: ASGIApp = await self._opened.enter_async_context(module.opened())
            self._site = site
            return site

    async def _sign_in(self, request: Request) -> Response:
        container: Container = request.app.state.container
        fields = await _fields(request)
        token, sent = fields.get("key", "").strip(), fields.get("form", "")
        given = request.cookies.get(_FORM_COOKIE, "")
        if not given or not secrets.compare_digest(sent.encode(), given.encode()):
            return _form(403, "This form is too old. Try again.")
        attempt = SignIns()  # of its own: who fails takes nobody's place
        visitor = Visitor(container, Whence.of(request.headers), attempt, attempt.keep(token))
        try:
            async with visitor.act("page.sign_in") as act:
                if act.who.caller_id is None:
                    raise Unauthenticated("this is no key of this service")
        except StratamemError as error:
            return _form(error.status, f"{error.detail} ({error.code})")
        answer = RedirectResponse(f"{PATH}/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE,
            self._signins.keep(token),
            max_age=HOURS * 3_600,
            path=PATH,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        answer.delete_cookie(_FORM_COOKIE, path=SIGN_IN)
        return answer

    def _sign_out(self, request: Request) -> Response:
        """Other sites can't: they can't send the cookie."""
        self._signins.forget(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(COOKIE, path=PATH)
        return answer


def _form(status: int = 200, complaint: str | None = None) -> Response:
    value = secrets.token_urlsafe(16)
    answer = plain.sign_in(status, value, complaint)
    answer.set_cookie(_FORM_COOKIE, value, max_age=3_600, path=SIGN_IN, httponly=True, samesite="strict")
    return answer


async def _fields(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM_BYTES:
            return {}
    return dict(parse_qsl(body.decode("ascii", "replace")))
