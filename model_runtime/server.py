"""How does a process of its own serve the model to others? A small internal API over HTTP.

It trusts who holds the key: salts, and with them whose KV is shared, are made by the caller. Without a key it answers
only what comes from no web page; who starts it sees to it that it then listens on loopback only.
"""

import asyncio
import hmac
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from model_runtime import wire
from model_runtime.embedders.lanes import EmbeddingFailed, Lanes
from model_runtime.generators.ask import AUTO, Asked, Busy, Question, TooLong, TooMany, ask, warm
from model_runtime.generators.chat import UnfitMessages
from model_runtime.generators.job import Done, Event, Failed, Text
from model_runtime.generators.runtime import POLICIES, Runtime
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv.reports import Described, Dropped, Moved, NotPinned, Prefetched, Suspended

NO_MODEL = "no_model_configured"

_HEARTBEAT = 5.0
"""Seconds of silence after which a blank line says that the answer is still being made."""
_LONGEST_SILENCE = 600.0
_MOST_EMBEDS = 64
_EMBED_SECONDS = 120.0


@dataclass(slots=True)
class Served:
    """What this process serves. `metrics`: Prometheus' text. `key`: what callers must show; None: nothing.

    `clear_others`: removes the KV that ended processes left behind; part of every purge. Raises OSError.
    """

    runtime: Runtime | None
    embedder: Lanes
    tokenizer: str
    key: str | None
    metrics: Callable[[], bytes]
    clear_others: Callable[[], None]
    embeds: int = field(default=0, init=False)
    """Requests to embed that are being answered."""

    @property
    def generating(self) -> Runtime:
        if self.runtime is None:
            raise Refusal(503, NO_MODEL, "this runtime has no model: set STRATAMEM_MODEL where it runs, and restart it")
        return self.runtime


class Refusal(Exception):
    """A problem with a code, for the caller."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


async def _served(request: Request) -> Served:
    return request.app.state.served  # type: ignore[no-any-return]  # put there by create_app


Here = Annotated[Served, Depends(_served)]


async def _trusted(request: Request, served: Here) -> None:
    """Raises Refusal."""
    if served.key is None:
        if "origin" in request.headers or "sec-fetch-site" in request.headers:
            raise Refusal(403, "forbidden", "without a key no web page is answered: set STRATAMEM_RUNTIME_KEY")
        return
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(shown.encode(), served.key.encode()):
        raise Refusal(401, "unauthenticated", "the key is not this runtime's: set STRATAMEM_RUNTIME_KEY alike on both")


health = APIRouter()
api = APIRouter(prefix="/v1", dependencies=[Depends(_trusted)])


@health.get("/health/live")
async def live() -> dict[str, str]:
    return {"state": "ok"}


@health.get("/health/ready")
async def ready(served: Here) -> JSONResponse:
    """503 where what is configured can't be served."""
    if served.runtime is not None and not served.runtime.engine.running:
        return JSONResponse({"state": "down", "reason": "the model's thread has ended: restart the runtime"}, 503)
    try:
        await served.embedder.embed(["ready?"])
    except EmbeddingFailed as error:
        return JSONResponse({"state": "down", "reason": str(error)}, 503)
    return JSONResponse({"state": "ok", "reason": None if served.runtime else "no model: it only embeds"})


@health.get("/metrics")
async def metrics(served: Here) -> Response:
    return Response(served.metrics(), media_type="text/plain; version=1.0.0; charset=utf-8")


@api.get("/facts")
async def facts(served: Here) -> wire.Facts:
    model, embedder = served.runtime, served.embedder.model
    return wire.Facts(
        model=model and wire.ModelFacts(name=model.checkpoint.name, max_tokens=model.max_tokens),
        embedder=wire.EmbedderFacts(space=embedder.space, dimensions=embedder.dimensions, tokenizer=served.tokenizer),
    )


@api.get("/stats")
async def stats(served: Here) -> dict[str, Any]:
    return served.generating.stats()


@api.get("/moment")
async def moment(served: Here) -> wire.MomentAnswer:
    return wire.MomentAnswer(moment=served.generating.moment())


@api.post("/count")
async def count(served: Here, body: wire.CountRequest) -> wire.CountAnswer:
    ids = await asyncio.to_thread(served.generating.chat.ids, [message.model_dump() for message in body.messages])
    return wire.CountAnswer(tokens=len(ids))


@api.post("/generate")
async def generate(served: Here, body: wire.GenerateRequest, request: Request) -> StreamingResponse:
    """Lines of JSON: TextLine, then DoneLine or FailedLine. Leaving the connection cancels the work."""
    runtime = served.generating
    if request.headers.get(wire.MODEL_HEADER, runtime.checkpoint.name) != runtime.checkpoint.name:
        raise Refusal(409, "other_model", f"this runtime serves {runtime.checkpoint.name} now: restart who asks it")
    return _Answer(await ask(runtime, _question(body)))


@api.post("/warm")
async def warm_up(served: Here, body: wire.GenerateRequest) -> wire.WarmAnswer:
    """Computes ahead what a prompt begins with that goes on after these messages. Leaving the connection ends it."""
    return wire.WarmAnswer(computed=await warm(served.generating, _question(body)))


@api.post("/kv")
async def kv(served: Here, body: wire.KVRequest) -> wire.KVAnswer:
    try:
        report = await asyncio.wrap_future(
            served.generating.kv(body.what, body.tenant, body.memory_key, body.until),
        )
    except OSError as error:
        raise Refusal(503, "not_done", f"the disk does not do it: {error.strerror or error}") from error
    except RuntimeError as error:
        raise Refusal(503, "busy", str(error)) from error
    match report:
        case Described():
            return wire.KVAnswer(described=report)
        case NotPinned():
            return wire.KVAnswer(not_pinned=report)
        case Prefetched():
            return wire.KVAnswer(prefetched=report)
        case Suspended():
            return wire.KVAnswer(suspended=report)
        case Dropped():
            return wire.KVAnswer(dropped=report)
        case Moved():
            return wire.KVAnswer(moved=report)
        case None:
            return wire.KVAnswer()


def _question(body: wire.GenerateRequest) -> Question:
    """Raises Refusal."""
    if body.policy not in (*POLICIES, AUTO):
        raise Refusal(422, "invalid_input", f"policy is one of {', '.join((*POLICIES, AUTO))}")
    return Question(
        messages=[message.model_dump() for message in body.messages],
        options=SamplingOptions(body.temperature, body.top_p, body.max_tokens, tuple(body.stop), body.seed),
        salt=body.salt,
        policy=body.policy,
        moment=body.moment,
        tenant=body.tenant,
        memory_key=body.memory_key,
    )


@api.post("/forget")
async def forget(served: Here, body: wire.ForgetRequest) -> wire.ForgetAnswer:
    """Drops all KV of these salts and of the tenant, on every tier, and what ended processes left behind.

    Without a model there is none of our own: who starts this sees to that.
    """
    runtime = served.runtime
    try:
        await asyncio.to_thread(served.clear_others)
        if runtime is None:
            return wire.ForgetAnswer(blocks=0)
        namespaces = frozenset().union(*(runtime.namespaces(salt) for salt in body.salts))
        return wire.ForgetAnswer(blocks=await asyncio.wrap_future(runtime.forget(namespaces, body.tenant)))
    except OSError as error:
        raise Refusal(503, "not_forgotten", f"KV could not be deleted: {error.strerror or error}") from error


@api.post("/embed")
async def embed(served: Here, body: wire.EmbedRequest) -> Response:
    """Little-endian float32 [texts, dimensions], unit length."""
    if served.embeds >= _MOST_EMBEDS:
        raise Refusal(503, "busy", "too many texts are waiting to be embedded: try again later")
    served.embeds += 1
    try:
        async with asyncio.timeout(_EMBED_SECONDS):
            vectors = await served.embedder.embed(body.texts)
    except TimeoutError:
        raise Refusal(503, "busy", f"not embedded within {_EMBED_SECONDS:g} s: try again later") from None
    finally:
        served.embeds -= 1
    headers = {wire.SPACE_HEADER: served.embedder.model.space}
    return Response(np.asarray(vectors, "<f4").tobytes(), media_type="application/octet-stream", headers=headers)


class _Answer(StreamingResponse):
    """However it ends, read to the end or not even begun, the work behind it ends as well."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(_lines(asked), media_type="application/x-ndjson")
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._asked.cancel()


async def _lines(asked: Asked) -> AsyncGenerator[str, None]:
    silent = 0.0
    while True:
        try:
            async with asyncio.timeout(_HEARTBEAT):
                event = await asked.next()
        except TimeoutError:
            silent += _HEARTBEAT
            if silent < _LONGEST_SILENCE:
                yield "\n"
                continue
            event = Failed(f"nothing was written for {_LONGEST_SILENCE:g} s")
        silent = 0.0
        yield _line(event)
        if not isinstance(event, Text):
            return


def _line(event: Event) -> str:
    match event:
        case Text(text):
            line: wire.TextLine | wire.DoneLine | wire.FailedLine = wire.TextLine(text=text)
        case Done():
            line = wire.DoneLine(**asdict(event))
        case Failed(message):
            line = wire.FailedLine(failed=message)
    return line.model_dump_json() + "\n"


def create_app(served: Served, middleware: Sequence[Middleware] = ()) -> FastAPI:
    """`served` stays its owner's. `middleware`: limits and observation, the outermost first."""
    app = FastAPI(title="Stratamem's model runtime", openapi_url=None, middleware=list(middleware))
    app.state.served = served
    app.include_router(api)
    app.include_router(health)
    for error, status, code in _PROBLEMS:
        app.add_exception_handler(error, _answering(status, code))
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


_PROBLEMS: tuple[tuple[type[Exception], int, str], ...] = (
    (TooLong, 400, "context_length_exceeded"),
    (TooMany, 429, "too_many_answers"),
    (UnfitMessages, 422, "invalid_input"),
    (Busy, 503, "busy"),
    (EmbeddingFailed, 503, "embedder_unavailable"),
)


def _problem(status: int, code: str, detail: str) -> JSONResponse:
    body = {"type": f"urn:stratamem:problem:{code}", "status": status, "detail": detail, "code": code}
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse(body, status, headers, "application/problem+json")


def _answering(status: int, code: str) -> Callable[[Request, Exception], Response]:
    return lambda _request, error: _problem(status, code, str(error))


def _on_refusal(_request: Request, raised: Exception) -> Response:
    error = cast(Refusal, raised)
    return _problem(error.status, error.code, error.detail)


def _on_invalid(_request: Request, raised: Exception) -> Response:
    """Places and kinds; the input itself is somebody's conversation."""
    found = cast(RequestValidationError, raised).errors()[:20]
    places = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['type']}" for error in found)
    return _problem(422, "invalid_input", f"the request has invalid fields: {places}")


def _on_http_error(_request: Request, raised: Exception) -> Response:
    error = cast(HTTPException, raised)
    return _problem(error.status_code, "too_large" if error.status_code == 413 else "http_error", str(error.detail))
