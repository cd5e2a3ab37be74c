"""What happened to each request? One id, one line in the log, one count; and no exception leaves without an answer.

The log holds method, route, status and time: no bodies, no queries, no headers.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import INTERNAL_ERROR, problem
from api.logs import describe
from api.metrics import REQUESTS, SECONDS
from memory.domain.ids import new_id

REQUEST_ID_HEADER = b"x-request-id"
_SENT_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/health/live", "/health/ready", "/metrics", "/admin/static"})
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_UNMATCHED = "unmatched"
_CLIENT_LEFT = 499
"""nginx's word for a client that went away before its answer."""

_log = structlog.get_logger("api")


class Observe:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        status = 0
        begun = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request_id)]
            await send(message)

        try:
            # Who only looks, at the progress of an ingest for instance, must not slow it down.
            waited_for = scope["method"] not in _LOOKING
            container = getattr(scope["app"].state, "container", None)  # the model runtime has none
            with container.traffic.request() if waited_for and container else nullcontext():
                await self._app(scope, receive, observed)
        except ClientDisconnect:
            pass  # nobody to answer
        except Exception as error:  # the last one who can answer: logged, counted, and told without internals
            _log_failure(error, request_id.decode())
            if status:
                raise  # half an answer is out: the server must break the connection
            answer = problem(
                scope,
                500,
                INTERNAL_ERROR,
                "something went wrong on our side; the log has it under this request id",
                facts={"request_id": request_id.decode()},
            )
            await answer(scope, receive, observed)
        finally:
            _record(scope, status, time.perf_counter() - begun, request_id)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_HEADER and _SENT_ID.fullmatch(value):
            return bytes(value)
    return new_id().encode()


def _record(scope: Scope, status: int, seconds: float, request_id: bytes) -> None:
    route = getattr(scope.get("route"), "path", _UNMATCHED)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUESTS.labels(method, route, str(status or _CLIENT_LEFT)).inc()
    SECONDS.labels(method, route).observe(seconds)
    with _whatever_becomes_of_the_log():
        (_log.debug if route in _QUIET else _log.info)(
            "request",
            method=method,
            route=route,
            status=status or _CLIENT_LEFT,
            ms=round(seconds * 1_000, 1),
            request_id=request_id.decode(),
        )


def _log_failure(error: Exception, request_id: str) -> None:
    with _whatever_becomes_of_the_log():
        _log.error("request failed", **describe(error), request_id=request_id)
        _log.debug("request failed", message=str(error), request_id=request_id)


@contextmanager
def _whatever_becomes_of_the_log() -> Iterator[None]:
    """A log that can't be written (full disk, closed pipe) must not take answers with it."""
    with suppress(OSError, ValueError):
        yield
