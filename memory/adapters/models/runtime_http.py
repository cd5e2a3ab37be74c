"""How does a model runtime in a process of its own generate and embed for us?

A prompt is sent once: an answer counts only whole. Counting an event's tokens needs no runtime: its embedder's
tokenizer came with its facts.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from memory.adapters.models.generation import messages_of, policy_of
from memory.adapters.models.lines import lines_of
from memory.adapters.models.runtime_client import RuntimeClient, facts_of
from memory.domain.errors import EmbedderUnavailable, GeneratorUnavailable
from memory.domain.generation import CachedTokens, ChatMessage, Chunk, Delta, Fidelity, Finish, Finished, Prompt, Usage
from memory.ports.generation import Generator
from memory.ports.models import Embedder, Tokenizer, Vectors
from model_runtime import wire
from model_runtime.embedders.tokenizer import parse

_EMBED_SECONDS = 150.0
_WARM_SECONDS = 600.0
_TEXTS = 256
_CHARACTERS = 2 << 20
"""Of one request to embed: at most 12 MiB as JSON, below the runtime's limit."""
_MAX_LINE_BYTES = 8 << 20

_LINE: TypeAdapter[wire.TextLine | wire.DoneLine | wire.FailedLine] = TypeAdapter(
    wire.TextLine | wire.DoneLine | wire.FailedLine
)


@dataclass(frozen=True, slots=True)
class RemoteRuntime:
    """What is known of a runtime, and the connections to it, which belong to one event loop."""

    client: RuntimeClient
    model: wire.ModelFacts | None
    embedder: "RuntimeEmbedder"
    tokenizer: Tokenizer


async def connect(url: str, key: str | None, remembered: Path) -> RemoteRuntime:
    """`remembered`: the file that keeps the runtime's facts. Raises EmbedderUnavailable when nothing is known of it."""
    client = RuntimeClient(url, key)
    try:
        facts = await facts_of(client, remembered)
        tokenizer = await asyncio.to_thread(parse, facts.embedder.tokenizer)
    except BaseException:
        await client.close()
        raise
    return RemoteRuntime(client, facts.model, RuntimeEmbedder(client, facts.embedder), tokenizer)


class RuntimeGenerator(Generator):
    """Of the model that `facts` name: another one is not asked by mistake."""

    def __init__(self, client: RuntimeClient, facts: wire.ModelFacts, salt: Callable[[str, str], str]) -> None:
        """`salt(tenant_id, share_group)`: the same text for those who may share KV, not to be guessed by others."""
        self._client = client
        self._facts = facts
        self._salt = salt

    @property
    def model(self) -> str:
        return self._facts.name

    @property
    def max_tokens(self) -> int:
        return self._facts.max_tokens

    async def moment(self) -> str:
        answer = await self._client.call("/v1/moment", None, GeneratorUnavailable)
        return wire.MomentAnswer.model_validate_json(answer.content).moment

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        request, headers = self._request(prompt), {wire.MODEL_HEADER: self.model}
        async with (
            self._client.stream("/v1/generate", request, headers) as response,
            aclosing(lines_of(response, _MAX_LINE_BYTES)) as lines,
        ):
            async for line in lines:
                if not line:
                    continue
                match _parsed(line):
                    case wire.TextLine(text=text):
                        yield Delta(text)
                    case wire.DoneLine() as done:
                        yield _finished(done)
                        return
                    case wire.FailedLine(failed=message):
                        raise GeneratorUnavailable(f"the model could not go on: {message}")
        raise GeneratorUnavailable("the model runtime broke off its answer")

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        request = wire.CountRequest(messages=list(_messages(messages)))
        answer = await self._client.call("/v1/count", request, GeneratorUnavailable)
        return wire.CountAnswer.model_validate_json(answer.content).tokens

    def stats(self) -> None:
        return None

    async def check(self) -> None:
        await self._client.check()

    async def warm(self, prompt: Prompt) -> int:
        """Computes ahead what every prompt begins with that goes on after these messages: how many of its tokens."""
        request = self._request(prompt)
        answer = await self._client.call("/v1/warm", request, GeneratorUnavailable, seconds=_WARM_SECONDS, tries=1)
        return wire.WarmAnswer.model_validate_json(answer.content).computed

    def _request(self, prompt: Prompt) -> wire.GenerateRequest:
        wanted = prompt.sampling
        return wire.GenerateRequest(
            messages=list(_messages(prompt.messages)),
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            max_tokens=wanted.max_tokens,
            stop=list(wanted.stop),
            seed=wanted.seed,
            salt=self._salt(prompt.tenant_id, prompt.share_group),
            policy=policy_of(prompt),
            moment=prompt.prepared,
            tenant=prompt.tenant_id,
            memory_key=prompt.memory_key,
        )


class RuntimeEmbedder(Embedder):
    """Of the vector space that `facts` name: vectors of another one are refused, never mixed in."""

    def __init__(self, client: RuntimeClient, facts: wire.EmbedderFacts) -> None:
        self._client = client
        self._facts = facts

    @property
    def space(self) -> str:
        return self._facts.space

    @property
    def dimensions(self) -> int:
        return self._facts.dimensions

    async def embed(self, texts: Sequence[str]) -> Vectors:
        parts = [await self._part(part) for part in _parts(texts)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimensions), np.float32)

    async def _part(self, texts: list[str]) -> Vectors:
        request = wire.EmbedRequest(texts=texts)
        answer = await self._client.call("/v1/embed", request, EmbedderUnavailable, seconds=_EMBED_SECONDS)
        space = answer.headers.get(wire.SPACE_HEADER)
        if space != self.space:
            raise EmbedderUnavailable(f"the model runtime embeds into {space} now, not {self.space}: restart")
        if len(answer.content) != len(texts) * self.dimensions * 4:
            raise EmbedderUnavailable("the model runtime sent vectors of another shape", space=space)
        found = np.frombuffer(answer.content, "<f4").reshape(len(texts), self.dimensions)
        return np.asarray(found, np.float32)


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """As many as go into one request; one that is too long for it goes alone, and the model reads its beginning."""
    part: list[str] = []
    characters = 0
    for text in texts:
        text = text[:_CHARACTERS]
        if part and (len(part) == _TEXTS or characters + len(text) > _CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part


def _messages(messages: Sequence[ChatMessage]) -> Iterator[wire.WireMessage]:
    return (wire.WireMessage(**message) for message in messages_of(messages))


def _parsed(line: bytes) -> wire.TextLine | wire.DoneLine | wire.FailedLine:
    try:
        return _LINE.validate_json(line)
    except ValidationError:  # its text would repeat the answer
        raise GeneratorUnavailable("the model runtime sent what is no line of an answer") from None


def _finished(done: wire.DoneLine) -> Finished:
    cached = CachedTokens(**done.cached)
    usage = Usage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        cached=cached,
        prefill_ms=done.prefill_ms,
        restore_ms=done.restore_ms,
        coverage=done.coverage,
        fidelity=Fidelity(done.policy),
    )
    return Finished(Finish(done.reason), usage)
