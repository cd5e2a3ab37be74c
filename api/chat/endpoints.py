"""OpenAI's API: an unmodified client works, and with a `memory_key` it talks to a session."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response

from api.chat.answers import ChatAnswer, EmbeddingsAnswer, ModelAnswer, ModelsAnswer, Reply, UsageAnswer
from api.chat.schemas import ChatRequest, EmbeddingsRequest
from api.deps import App, Reader, Spending, Trailing
from api.errors import OpenAIProblem, openai_error, problems
from api.meter import Spent
from api.streaming import EventStream, while_there
from memory.domain.errors import StratamemError, UnknownModel
from memory.domain.generation import Chunk, Delta, Finished
from memory.domain.ids import new_id
from memory.services import access
from memory.services.generation import Turn

router = APIRouter(prefix="/v1", tags=["generation"])

_STARTED = int(time.time())


@router.get("/models", summary="Models that are served", responses=problems(model=OpenAIProblem))
async def models(app: App, caller: Reader) -> ModelsAnswer:
    served = [name for name in (app.generation.model, app.embeddings.model) if name is not None]
    return ModelsAnswer(data=[ModelAnswer(id=name, created=_STARTED) for name in served])


@router.get(  # a hub's model has a slash in its name
    "/models/{model:path}", summary="One model that is served", responses=problems(404, model=OpenAIProblem)
)
async def model(app: App, caller: Reader, model: str) -> ModelAnswer:
    served = (await models(app, caller)).data
    for one in served:
        if one.id == model:
            return one
    names = ", ".join(one.id for one in served) or "none"
    raise UnknownModel(f"there is no model of that name here; served: {names}")


@router.post("/embeddings", summary="Vectors of texts", responses=problems(400, 404, model=OpenAIProblem))
async def embeddings(app: App, caller: Reader, body: EmbeddingsRequest, spent: Spending) -> EmbeddingsAnswer:
    body.check_dimensions(app.embedder.dimensions)
    if body.model not in (app.embeddings.model, app.settings.embedder):
        raise UnknownModel(f"there is no embedder '{body.model}' here, only '{app.embeddings.model}'")
    vectors, tokens = await app.embeddings.embed(body.input)
    spent.tokens(tokens)
    return EmbeddingsAnswer.of(vectors, body, model=app.embeddings.model, tokens=tokens)


@router.post(
    "/chat/completions",
    summary="Answer a conversation; with `memory_key`, one that goes on",
    response_model=ChatAnswer,
    responses={
        **problems(400, 404, 409, 429, 503, model=OpenAIProblem),
        200: {"content": {"text/event-stream": {}}, "description": "The answer, or with `stream` its pieces"},
    },
)
async def complete(
    app: App, caller: Reader, body: ChatRequest, request: Request, spent: Spending, trail: Trailing
) -> Response | ChatAnswer:
    principal = access.act_as(caller, body.agent_id)
    trail.about(body.memory_key, by=principal, writes=body.memory_key is not None and body.memory.store)
    if body.model == app.generation.model:
        body.check_length(app.generation.max_tokens)
    reply = Reply(f"chatcmpl-{new_id()}", int(time.time()), body.model)
    async with AsyncExitStack() as stack:
        opened = stack.enter_async_context(app.generation.turn(principal, body.to_turn()))
        turn = await while_there(request, opened)  # it may wait for earlier turns of its session
        if not body.stream:
            return await while_there(request, _whole(turn, reply, spent))
        first = await while_there(
            request, anext(turn.chunks)
        )  # what can't be begun is answered with a status, not inside a stream
        kept = stack.pop_all()
    return EventStream(kept, _pieces(turn, first, reply, body, spent))


async def _whole(turn: Turn, reply: Reply, spent: Spent) -> ChatAnswer:
    texts: list[str] = []
    async for chunk in turn.chunks:
        if isinstance(chunk, Finished):
            _charge(spent, chunk)
            return reply.whole("".join(texts), chunk.reason, _usage(turn, chunk))
        texts.append(chunk.text)
    raise AssertionError("an answer without an end")


async def _pieces(
    turn: Turn, first: Chunk, reply: Reply, body: ChatRequest, spent: Spent
) -> AsyncGenerator[str | bytes, None]:
    yield _event(reply.opening().model_dump_json())
    try:
        async for piece in _with_first(first, turn):
            if isinstance(piece, Delta):
                yield _event(reply.text(piece.text).model_dump_json())
                continue
            _charge(spent, piece)
            yield _event(reply.ending(piece.reason).model_dump_json())
            if body.include_usage:
                yield _event(reply.usage(_usage(turn, piece)).model_dump_json())
    except StratamemError as error:  # the status is out: OpenAI's clients raise for an event like this
        failure = openai_error(error.status, error.code, error.detail, error.facts.get("param"))
        yield _event(json.dumps({"error": failure}))
        return
    yield _event("[DONE]")


async def _with_first(first: Chunk, turn: Turn) -> AsyncIterator[Chunk]:
    yield first
    async for chunk in turn.chunks:
        yield chunk


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _charge(spent: Spent, finished: Finished) -> None:
    spent.tokens(finished.usage.prompt_tokens + finished.usage.completion_tokens)


def _usage(turn: Turn, finished: Finished) -> UsageAnswer:
    return UsageAnswer.of(finished.usage, session_tokens=turn.session_tokens, recalled=turn.recalled)
