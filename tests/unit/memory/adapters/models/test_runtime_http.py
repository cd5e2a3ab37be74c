"""What a runtime behind HTTP may do to its adapters: be away, be another one, break off, talk nonsense."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from memory.adapters.kv.runtime_http import RemoteKVStore
from memory.adapters.models import runtime_client, runtime_http
from memory.adapters.models.runtime_client import RuntimeClient
from memory.adapters.models.runtime_http import RuntimeEmbedder, RuntimeGenerator, connect
from memory.domain.errors import EmbedderUnavailable, GeneratorUnavailable, InvalidInput, NoModelConfigured
from memory.domain.generation import ChatMessage, Delta, Prompt, Sampling
from model_runtime import wire
from model_runtime.embedders.folder import find
from tests.engines import listening

FACTS = wire.Facts(
    model=wire.ModelFacts(name="m", max_tokens=100),
    embedder=wire.EmbedderFacts(
        space="words:2", dimensions=2, tokenizer=find("minilm").tokenizer_file().read_text(encoding="utf-8")
    ),
)
PROMPT = Prompt((ChatMessage("user", "hello"),), Sampling(), None, "acme", "tenant")
DONE = wire.DoneLine(
    reason="stop", prompt_tokens=1, completion_tokens=1, cached={}, prefill_ms=1, restore_ms=0, policy="exact"
).model_dump_json()


class Played:
    """A runtime that plays what it is told."""

    def __init__(self) -> None:
        self.facts: Any = FACTS
        self.lines: list[bytes | float] = []
        """Of an answer; a number is a pause in seconds."""
        self.embeds: list[list[str]] = []
        self.space = "words:2"
        self.busy = 0
        """Requests that are refused before one is answered."""
        self.forgotten: list[Any] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/facts")
        async def facts() -> Response:
            return self.facts if isinstance(self.facts, Response) else JSONResponse(self.facts.model_dump())

        @app.post("/v1/generate")
        async def generate() -> Response:
            return StreamingResponse(self._played(), media_type="application/x-ndjson")

        @app.post("/v1/embed")
        async def embed(request: Request) -> Response:
            if self.busy:
                self.busy -= 1
                return JSONResponse({"code": "busy", "detail": "later"}, 503)
            texts = (await request.json())["texts"]
            self.embeds.append(texts)
            vectors = np.array([[len(text), 1] for text in texts], "<f4")
            return Response(vectors.tobytes(), headers={wire.SPACE_HEADER: self.space})

        @app.post("/v1/forget")
        async def forget(request: Request) -> Response:
            self.forgotten.append(await request.json())
            return JSONResponse({"blocks": 3})

        return app

    async def _played(self) -> AsyncIterator[bytes]:
        for line in self.lines:
            if isinstance(line, float):
                await asyncio.sleep(line)
            else:
                yield line


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Played, str]]:
    played = Played()
    with listening(played.app()) as url:
        yield played, url


@pytest.fixture
def played(served: tuple[Played, str]) -> Played:
    served[0].__init__()  # type: ignore[misc]
    return served[0]


@pytest.fixture
async def client(served: tuple[Played, str]) -> AsyncIterator[RuntimeClient]:
    client = RuntimeClient(served[1], "key")
    yield client
    await client.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_client, "_FIRST_START", 0.3)
    monkeypatch.setattr(runtime_client, "_LATER_START", 0.1)


def salt(tenant_id: str, share_group: str) -> str:
    return f"{tenant_id}/{share_group}"


async def read(client: RuntimeClient) -> list[Any]:
    assert FACTS.model is not None
    return [chunk async for chunk in RuntimeGenerator(client, FACTS.model, salt).generate(PROMPT)]


async def test_lines_may_be_cut_anywhere_and_blank_ones_are_passed_over(played: Played, client: RuntimeClient) -> None:
    whole = f'{{"text":"漢字 "}}\n\n\n{{"text":"b"}}\n{DONE}\n'.encode()
    played.lines = [whole[at : at + 5] for at in range(0, len(whole), 5)]
    *deltas, _ = await read(client)
    assert deltas == [Delta("漢字 "), Delta("b")]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b'{"text":"a"}\n'],
        [b'{"text":"a"}\n', DONE.encode()],
        [b'{"text":"a"}\n', b"oops\n"],
        [b'{"text":"a"}\n', b'{"failed":"purged"}\n'],
        [b"[]\n", DONE.encode() + b"\n"],
        [b'{"text":"' + b"x" * 4_096],
    ],
)
async def test_an_answer_that_is_not_whole_is_never_one(
    played: Played, client: RuntimeClient, lines: list[bytes | float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_http, "_MAX_LINE_BYTES", 1_024)
    played.lines = lines
    with pytest.raises(GeneratorUnavailable):
        await read(client)


async def test_a_runtime_that_has_fallen_silent_is_given_up(
    played: Played, client: RuntimeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_client, "SILENCE_SECONDS", 0.2)
    played.lines = [b'{"text":"a"}\n', 2.0, DONE.encode() + b"\n"]
    with pytest.raises(GeneratorUnavailable, match="ReadTimeout"):
        await read(client)


async def test_many_texts_go_in_parts_and_come_back_in_order(
    played: Played, client: RuntimeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_http, "_TEXTS", 4)
    monkeypatch.setattr(runtime_http, "_CHARACTERS", 20)
    texts = ["x" * n for n in (1, 2, 3, 4, 5, 15, 6, 30)]
    vectors = await RuntimeEmbedder(client, FACTS.embedder).embed(texts)
    assert vectors[:, 0].tolist() == [1, 2, 3, 4, 5, 15, 6, 20]
    assert [len(part) for part in played.embeds] == [4, 2, 1, 1]


async def test_a_busy_runtime_is_asked_again(played: Played, client: RuntimeClient) -> None:
    embedder = RuntimeEmbedder(client, FACTS.embedder)
    played.busy = 2
    assert (await embedder.embed(["abc"])).tolist() == [[3, 1]]
    played.busy = 9
    with pytest.raises(EmbedderUnavailable, match="later"):
        await embedder.embed(["abc"])
    assert played.busy == 6


async def test_vectors_of_another_space_are_refused(played: Played, client: RuntimeClient) -> None:
    played.space = "other:2"
    with pytest.raises(EmbedderUnavailable, match="other:2"):
        await RuntimeEmbedder(client, FACTS.embedder).embed(["abc"])


async def test_forgetting_names_the_tenant_by_its_name_and_by_its_salt(played: Played, client: RuntimeClient) -> None:
    assert await RemoteKVStore(client, salt, None, NoModelConfigured()).forget("acme") == 3
    assert played.forgotten == [{"salts": ["acme/tenant"], "tenant": "acme"}]


async def test_what_is_known_of_a_runtime_serves_while_it_is_away(
    served: tuple[Played, str], played: Played, tmp_path: Path, quick: None
) -> None:
    kept = tmp_path / "facts.json"
    remote = await connect(served[1], "key", kept)
    await remote.client.close()
    played.facts = JSONResponse({"code": "busy", "detail": "starting"}, 503)
    remote = await connect(served[1], "key", kept)
    await remote.client.close()
    assert remote.model == FACTS.model
    assert remote.tokenizer.count(["hello world"]) == [2]
    with pytest.raises(EmbedderUnavailable, match="stratamem runtime"):
        await connect("http://127.0.0.1:9", "key", kept)  # of another one nothing is known


async def test_a_wrong_key_is_told_at_once_and_not_waited_for(
    served: tuple[Played, str], played: Played, tmp_path: Path
) -> None:
    played.facts = JSONResponse({"code": "unauthenticated", "detail": "set STRATAMEM_RUNTIME_KEY alike"}, 401)
    async with asyncio.timeout(5):
        with pytest.raises(EmbedderUnavailable, match="STRATAMEM_RUNTIME_KEY"):
            await connect(served[1], "key", tmp_path / "facts.json")


async def test_a_mistake_of_ours_stays_one(played: Played, client: RuntimeClient) -> None:
    with pytest.raises(GeneratorUnavailable, match="Not Found"):
        await client.call("/v1/nothing", None, GeneratorUnavailable)
    with pytest.raises(InvalidInput):
        raise runtime_client._Refused(422, b'{"code": "invalid_input", "detail": "no"}').translated(EmbedderUnavailable)


async def test_a_runtime_that_cant_be_reached_is_named_without_secrets_and_with_advice() -> None:
    client = RuntimeClient("http://ann:secret@127.0.0.1:1/?token=secret", None)
    with pytest.raises(GeneratorUnavailable) as raised:
        await client.check()
    await client.close()
    said = raised.value.detail
    assert "http://127.0.0.1:1" in said
    assert "`stratamem runtime`" in said
    assert "STRATAMEM_RUNTIME_URL" in said
    assert "secret" not in said
