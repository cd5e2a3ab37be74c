"""What an engine behind HTTP may do to its adapter."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from fastapi.responses import JSONResponse

from memory.adapters.models import openai_http
from memory.adapters.models.openai_http import OpenAIGenerator
from memory.domain.errors import GeneratorUnavailable, PromptTooLong, UnsupportedParameter
from memory.domain.generation import CachedTokens, ChatMessage, Chunk, Delta, Finish, Finished, Prompt, Sampling
from memory.ports.generation import Generator
from tests.engines import COUNTED, DONE, HELLO, KEY, Engine, piece, scripted, sse, usage

PROMPT = Prompt(
    messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "Where is it? 漢字", "ann")),
    sampling=Sampling(),
    memory_key="secret-project",
    tenant_id="acme",
    share_group="team",
)


class Words:
    """A tokenizer whose tokens are words."""

    fingerprint = "words"

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def served() -> Iterator[Engine]:
    with scripted() as engine:
        yield engine


@pytest.fixture
def engine(served: Engine) -> Engine:
    served.plays = [*HELLO, COUNTED, DONE]
    served.bodies, served.headers, served.models_status = [], [], 200
    served.left.clear()
    return served


def opened(url: str, **options: Any) -> OpenAIGenerator:
    known: dict[str, Any] = {"tokenizer": Words(), "max_tokens": 8_192, "salt": lambda *of: "salt-" + "/".join(of)}
    return OpenAIGenerator(url, "tiny", KEY, **{**known, **options})


@pytest.fixture
async def generator(engine: Engine) -> AsyncIterator[OpenAIGenerator]:
    generator = opened(engine.url)
    yield generator
    await generator.close()


async def answer(generator: Generator, prompt: Prompt = PROMPT) -> tuple[str, list[Chunk]]:
    chunks = [chunk async for chunk in generator.generate(prompt)]
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta)), chunks


def ended(chunks: Sequence[Chunk]) -> Finished:
    assert isinstance(chunks[-1], Finished)
    return chunks[-1]


async def test_nothing_runs_before_the_first_step(generator: Generator, engine: Engine) -> None:
    await generator.generate(PROMPT).aclose()

    assert engine.bodies == []


async def test_the_name_and_the_context_length_are_known_without_asking(generator: Generator) -> None:
    assert (generator.model, generator.max_tokens) == ("tiny", 8_192)


async def test_messages_are_counted_with_names_and_what_a_template_adds(generator: Generator) -> None:
    assert await generator.count(PROMPT.messages) == 2 + 4 + 1 + 2 * 4
    assert await generator.count([]) == 0


async def test_the_engine_s_usage_is_read_back(generator: Generator) -> None:
    used = ended((await answer(generator))[1]).usage

    assert (used.prompt_tokens, used.completion_tokens) == (100, 7)
    assert used.cached == CachedTokens(device=64)
    assert used.prefill_ms > 0
    assert used.restore_ms == 0


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}}])
async def test_nothing_is_cached_where_the_engine_does_not_say_so(
    generator: Generator, engine: Engine, details: dict[str, Any]
) -> None:
    engine.plays = [*HELLO, usage(100, 7, **details), DONE]

    assert ended((await answer(generator))[1]).usage.cached.total == 0


async def test_more_cached_than_prompt_is_not_believed(generator: Generator, engine: Engine) -> None:
    engine.plays = [*HELLO, usage(10, 7, prompt_tokens_details={"cached_tokens": 64}), DONE]

    assert ended((await answer(generator))[1]).usage.cached.total == 10


async def test_an_engine_without_usage_is_counted_by_us(generator: Generator, engine: Engine) -> None:
    engine.plays = [*HELLO, DONE]

    used = ended((await answer(generator))[1]).usage
    assert (used.prompt_tokens, used.completion_tokens, used.cached.total) == (15, 4, 0)


async def test_an_answer_cut_by_max_tokens_says_length(generator: Generator, engine: Engine) -> None:
    engine.plays = [piece("Under"), piece(finish="length"), COUNTED, DONE]

    assert ended((await answer(generator))[1]).reason is Finish.LENGTH


async def test_an_empty_answer_is_one(generator: Generator, engine: Engine) -> None:
    engine.plays = [piece(finish="stop"), COUNTED, DONE]

    assert [type(chunk) for chunk in (await answer(generator))[1]] == [Finished]


async def test_a_stream_may_be_cut_anywhere_and_hold_comments(generator: Generator, engine: Engine) -> None:
    whole = b": keep-alive\n\nevent: message\r\n" + b"".join([*HELLO, COUNTED, DONE]).replace(b"\n", b"\r\n")
    engine.plays = [whole[at : at + 7] for at in range(0, len(whole), 7)]

    assert (await answer(generator))[0] == "Under the pot 漢字."


async def test_what_is_sent(generator: Generator, engine: Engine) -> None:
    await answer(generator, replace(PROMPT, sampling=Sampling(0.0, 0.9, 12, ("\n\n",), 7)))

    assert engine.bodies[0] == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is it? 漢字", "name": "ann"},
        ],
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 12,
        "stop": ["\n\n"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": "salt-acme/team",
    }
    assert engine.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_a_session_is_routed_by_a_name_that_tells_nothing(generator: Generator, engine: Engine) -> None:
    same, others = [PROMPT, PROMPT], [replace(PROMPT, memory_key="s2"), replace(PROMPT, tenant_id="evil")]
    for prompt in [*same, *others, replace(PROMPT, memory_key=None)]:
        await answer(generator, prompt)

    routes = [headers.get("x-session-id") for headers in engine.headers]
    assert routes[0] == routes[1]
    assert len(set(routes)) == 4
    assert routes[-1] is None
    assert not any("secret" in str(headers) or "acme" in str(headers) for headers in engine.headers)


CONTEXT = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens: my secret prompt"
TOO_LONG = {
    "openai": {"error": {"message": "…", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    "vllm": {"error": {"message": CONTEXT, "type": "BadRequestError", "param": None, "code": 400}},
    "sglang": {"object": "error", "message": "The input (9 tokens) is longer than the model's context length (8)."},
    "llama.cpp": {"error": {"code": 400, "message": "…", "type": "exceed_context_size_error"}},
}


@pytest.mark.parametrize("body", TOO_LONG.values(), ids=TOO_LONG)
async def test_a_prompt_that_is_too_long_is_told_apart(
    generator: Generator, engine: Engine, body: dict[str, Any]
) -> None:
    engine.plays = JSONResponse(body, 400)
    with pytest.raises(PromptTooLong) as raised:
        await answer(generator)
    assert "secret" not in str(raised.value)

    engine.plays = [sse({"error": body}), DONE]
    with pytest.raises(PromptTooLong):
        await answer(generator)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422, 429, 500, 502, 503])
async def test_a_refusal_is_unavailable_and_does_not_repeat_what_the_engine_said(
    generator: Generator, engine: Engine, status: int
) -> None:
    engine.plays = JSONResponse({"error": {"message": "cannot take: my secret prompt"}}, status)
    with pytest.raises(GeneratorUnavailable) as raised:
        await answer(generator)

    assert raised.value.facts == {"engine_status": status}
    assert str(status) in raised.value.detail
    assert "secret" not in raised.value.detail


async def raises_after_a_piece() -> AsyncIterator[bytes]:
    yield piece("Under ")
    await asyncio.sleep(0.05)
    raise ConnectionResetError  # uvicorn closes the connection without the last chunk


BROKEN: dict[str, Any] = {
    "nothing": [b""],
    "no end": [piece("Under ")],
    "no DONE": [*HELLO, COUNTED],
    "half a last line": [*HELLO, COUNTED, b"data: [DO"],
    "no finish reason": [piece("Under "), DONE],
    "abort": [piece("Under "), piece(finish="abort"), DONE],
    "content filter": [piece("Under "), piece(finish="content_filter"), DONE],
    "not JSON": [piece("Under "), sse("{oops"), *HELLO, DONE],
    "not an object": [sse("[]"), *HELLO, DONE],
    "not a chunk": [sse({"choices": "none"}), *HELLO, DONE],
    "not numbers": [*HELLO, sse({"choices": [], "usage": {"prompt_tokens": -1}}), DONE],
    "an error inside": [piece("Under "), sse({"error": {"message": "out of memory"}}), DONE],
    "an endless line": [b"data: " + b"x" * (openai_http.MAX_LINE_BYTES + 1)],
    "a plain answer": [json.dumps({"choices": [{"message": {"content": "Under"}}]}).encode()],
    "cut": raises_after_a_piece,
}


@pytest.mark.parametrize("plays", BROKEN.values(), ids=BROKEN)
async def test_a_stream_that_is_not_whole_is_never_an_answer(generator: Generator, engine: Engine, plays: Any) -> None:
    engine.plays = plays
    chunks: list[Chunk] = []

    async def read() -> None:
        async for chunk in generator.generate(PROMPT):
            chunks.append(chunk)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(GeneratorUnavailable):
        await read()
    assert all(isinstance(chunk, Delta) for chunk in chunks)


async def test_the_engine_is_usable_again_after_a_failure(generator: Generator, engine: Engine) -> None:
    whole, engine.plays = engine.plays, raises_after_a_piece
    with pytest.raises(GeneratorUnavailable):
        await answer(generator)

    engine.plays = whole
    assert (await answer(generator))[0] == "Under the pot 漢字."


async def waits() -> AsyncIterator[bytes]:
    yield piece("Under ")
    await asyncio.sleep(30)
    yield piece("never read")


async def test_a_slow_engine_is_given_up(engine: Engine) -> None:
    engine.plays = waits
    generator = opened(engine.url, timeout=0.2)
    with pytest.raises(GeneratorUnavailable, match="ReadTimeout"):
        await answer(generator)

    await generator.close()


async def test_closing_the_iterator_ends_the_engine_s_work(generator: Generator, engine: Engine) -> None:
    engine.plays = waits
    async with aclosing(generator.generate(PROMPT)) as chunks:
        assert await anext(chunks) == Delta("Under ")

    assert await asyncio.to_thread(engine.left.wait, 5)


async def test_cancelling_the_reader_ends_the_engine_s_work(generator: Generator, engine: Engine) -> None:
    engine.plays = waits
    reader = asyncio.create_task(answer(generator))
    while not engine.bodies:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert await asyncio.to_thread(engine.left.wait, 5)


@pytest.mark.parametrize("status", [401, 500])
async def test_a_check_says_what_the_engine_said(generator: Generator, engine: Engine, status: int) -> None:
    engine.models_status = status
    with pytest.raises(GeneratorUnavailable, match=str(status)):
        await generator.check()


async def test_logprobs_are_refused_and_not_dropped(generator: Generator, engine: Engine) -> None:
    with pytest.raises(UnsupportedParameter):
        await answer(generator, replace(PROMPT, sampling=Sampling(logprobs=2)))

    assert engine.bodies == []
