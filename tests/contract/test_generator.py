"""What every adapter of the Generator port does: the model of this process, of a runtime, of an engine elsewhere."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse

from memory.adapters.models.generation import InProcessGenerator, load_generator
from memory.adapters.models.openai_http import OpenAIGenerator
from memory.adapters.models.runtime_client import RuntimeClient
from memory.adapters.models.runtime_http import RuntimeGenerator, connect
from memory.adapters.models.settings import GenerationSettings
from memory.domain.errors import GeneratorUnavailable, PromptTooLong, UnsupportedParameter
from memory.domain.generation import (
    ChatMessage,
    Chunk,
    Delta,
    Fidelity,
    Finish,
    Finished,
    Prompt,
    Sampling,
)
from memory.ports.generation import Generator
from memory.testing import WordTokenizer
from model_runtime.wire import ModelFacts
from tests.engines import DONE, KEY, Engine, model_runtime, piece, scripted, usage

PROMPT = Prompt(
    messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "abcdefgh " * 20 + "abcd", "ann")),
    sampling=Sampling(temperature=0, max_tokens=8),
    memory_key="project",
    tenant_id="acme",
    share_group="tenant",
)
ENDLESS = replace(PROMPT, sampling=Sampling(temperature=0, max_tokens=1_000_000))
TOO_LONG = replace(PROMPT, messages=(ChatMessage("user", "x" * 300_000),))
SMALL = GenerationSettings(device_mib=64, host_mib=64, disk_mib=256, threads=1)


def salt(tenant_id: str, share_group: str) -> str:
    return f"salt-{tenant_id}-{share_group}"


@dataclass
class Adapter:
    """`working`: answers that are in the making."""

    generator: Generator
    working: Callable[[], int]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessGenerator]:
    generator = load_generator("fixture", tmp_path_factory.mktemp("kv"), SMALL, salt)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_runtime(tmp_path_factory.mktemp("runtime")) as url:
        yield url


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with scripted() as engine:
        yield engine


def obliging(engine: Engine) -> None:
    """It writes as many words as it may, and refuses what is longer than its context."""

    async def plays() -> AsyncIterator[bytes]:
        for _ in range(engine.bodies[-1]["max_tokens"]):
            yield piece("word ")
            await asyncio.sleep(0.01)
        yield piece(finish="length")
        yield usage(10, engine.bodies[-1]["max_tokens"])
        yield DONE

    engine.plays = plays
    engine.refuses = lambda body: (
        JSONResponse({"error": {"code": "context_length_exceeded"}}, 400) if len(json.dumps(body)) > 60_000 else None
    )


@pytest.fixture(params=["in_process", "runtime_http", "openai_http"])
async def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Adapter]:
    name: str = request.param
    if name == "in_process":
        local: InProcessGenerator = request.getfixturevalue("in_process")
        yield Adapter(local, lambda: sum(local.stats().answers.values()))
    elif name == "runtime_http":
        url = request.getfixturevalue("runtime")
        remote = await connect(url, KEY, tmp_path / "facts.json")
        assert remote.model is not None
        headers = {"Authorization": f"Bearer {KEY}"}
        yield Adapter(
            RuntimeGenerator(remote.client, remote.model, salt),
            lambda: sum(httpx.get(f"{url}/v1/stats", headers=headers).json()["answers"].values()),
        )
        await remote.client.close()
    else:
        engine: Engine = request.getfixturevalue("engine")
        obliging(engine)
        elsewhere = OpenAIGenerator(engine.url, "tiny", KEY, tokenizer=WordTokenizer(), max_tokens=8_192, salt=salt)
        yield Adapter(elsewhere, lambda: engine.streams)
        await elsewhere.close()


async def answer(adapter: Adapter, prompt: Prompt = PROMPT) -> tuple[str, list[Chunk]]:
    chunks = [chunk async for chunk in adapter.generator.generate(prompt)]
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta)), chunks


async def nothing_is_made(adapter: Adapter) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(adapter.working):
            await asyncio.sleep(0.02)


async def test_an_answer_is_deltas_with_text_and_then_one_finished(adapter: Adapter) -> None:
    text, chunks = await answer(adapter)

    assert text
    assert all(isinstance(chunk, Delta) and chunk.text for chunk in chunks[:-1])
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reason is Finish.LENGTH
    assert chunks[-1].usage.prompt_tokens > 0
    assert chunks[-1].usage.completion_tokens == 8


async def test_nothing_runs_before_the_first_step(adapter: Adapter) -> None:
    await adapter.generator.generate(ENDLESS).aclose()

    assert adapter.working() == 0


async def test_the_name_and_the_context_length_are_known_without_asking(adapter: Adapter) -> None:
    assert adapter.generator.model
    assert adapter.generator.max_tokens > 1_000


async def test_more_messages_count_for_more(adapter: Adapter) -> None:
    count = adapter.generator.count

    assert await count(PROMPT.messages) > await count(PROMPT.messages[:1]) > 0


async def test_an_answer_to_what_was_put_together_now_is_given(adapter: Adapter) -> None:
    prepared = replace(PROMPT, prepared=await adapter.generator.moment())

    assert (await answer(adapter, prepared))[0] == (await answer(adapter))[0]


async def test_a_prompt_that_is_too_long_is_told_apart(adapter: Adapter) -> None:
    with pytest.raises(PromptTooLong):
        await answer(adapter, TOO_LONG)


async def test_closing_the_iterator_ends_the_work(adapter: Adapter) -> None:
    async with aclosing(adapter.generator.generate(ENDLESS)) as chunks:
        assert isinstance(await anext(chunks), Delta)
        assert await asyncio.to_thread(adapter.working) == 1

    await nothing_is_made(adapter)


async def test_cancelling_the_reader_ends_the_work(adapter: Adapter) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in adapter.generator.generate(ENDLESS):
            begun.set()

    reader = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), 20)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    await nothing_is_made(adapter)


async def test_many_answers_at_once_do_not_mix(adapter: Adapter) -> None:
    alone = (await answer(adapter))[0]

    together = await asyncio.gather(*(answer(adapter) for _ in range(6)))
    assert [text for text, _ in together] == [alone] * 6


async def test_logprobs_are_refused_and_not_dropped(adapter: Adapter) -> None:
    with pytest.raises(UnsupportedParameter):
        await answer(adapter, replace(PROMPT, sampling=Sampling(max_tokens=8, logprobs=2)))


async def test_a_check_is_silent_where_all_is_well(adapter: Adapter) -> None:
    await adapter.generator.check()


@pytest.mark.parametrize("kind", ["runtime_http", "openai_http"])
async def test_an_engine_that_is_away_is_unavailable(kind: str) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = RuntimeClient(url, None)
        away: Any = (
            RuntimeGenerator(client, ModelFacts(name="m", max_tokens=9_999), salt)
            if kind == "runtime_http"
            else OpenAIGenerator(url, "tiny", tokenizer=WordTokenizer(), max_tokens=8_192, salt=salt)
        )
        with pytest.raises(GeneratorUnavailable):
            await answer(Adapter(away, lambda: 0))
        with pytest.raises(GeneratorUnavailable):
            await away.check()
        await client.close()


@pytest.mark.parametrize("name", ["in_process", "runtime_http"])
@pytest.mark.parametrize("fidelity", [Fidelity.INT8, Fidelity.INT4, Fidelity.AUTO, Fidelity.SPARSE])
async def test_kv_of_every_fidelity_is_found_again(
    name: str, fidelity: Fidelity, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    prompt = replace(PROMPT, messages=(ChatMessage("user", "the garden " * 120),), fidelity=fidelity)
    if name == "in_process":
        local = request.getfixturevalue("in_process")
        again = [await answer(Adapter(local, lambda: 0), prompt) for _ in range(2)][1][1][-1]
    else:
        remote = await connect(request.getfixturevalue("runtime"), KEY, tmp_path / "facts.json")
        assert remote.model is not None
        generator = RuntimeGenerator(remote.client, remote.model, salt)
        again = [await answer(Adapter(generator, lambda: 0), prompt) for _ in range(2)][1][1][-1]
        await remote.client.close()
    assert isinstance(again, Finished)
    assert again.usage.cached.total >= 1_024
