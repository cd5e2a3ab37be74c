"""How does an engine with OpenAI's API (vLLM, SGLang, llama.cpp, …) write answers for us?

Its KV is its own: we only make reuse possible and safe. The salt, made here, keeps tenants' caches apart; messages are
sent as they are, so a grown history begins with the same bytes; a routing header leads a session to the same replica.
An answer counts only whole, with a finish reason and `[DONE]`: whatever else happens raises.
"""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from memory.adapters.models.lines import lines_of
from memory.domain.context import MESSAGE_TOKENS
from memory.domain.errors import GeneratorUnavailable, PromptTooLong, UnsupportedParameter
from memory.domain.generation import CachedTokens, ChatMessage, Chunk, Delta, Finish, Finished, Prompt, Usage
from memory.ports.generation import Generator
from memory.ports.models import Tokenizer

SESSION_HEADER = "X-Session-Id"
CONNECT_SECONDS = 5.0
MAX_LINE_BYTES = 1_048_576
MAX_ERROR_BYTES = 65_536

# None is kept: leaving at [DONE] closes a connection anyway, and uvicorn may close an idle one just as it is used.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}
# OpenAI's code, llama.cpp's type, and the words of vLLM and SGLang.
_TOO_LONG = re.compile(r"context[ _](length|size|window)|exceeds the maximum allowed length", re.IGNORECASE)


class _WireDelta(BaseModel):
    content: str | None = None


class _WireChoice(BaseModel):
    delta: _WireDelta = _WireDelta()
    finish_reason: str | None = None


class _WireDetails(BaseModel):
    cached_tokens: int | None = Field(default=None, ge=0)


class _WireUsage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    prompt_tokens_details: _WireDetails | None = None


class _WireEvent(BaseModel):
    choices: list[_WireChoice] = []
    usage: _WireUsage | None = None
    error: Any = None

    @property
    def text(self) -> str:
        return "".join(choice.delta.content or "" for choice in self.choices)

    @property
    def finish(self) -> str | None:
        return next((choice.finish_reason for choice in self.choices if choice.finish_reason), None)


class OpenAIGenerator(Generator):
    """Owns its connections: `close()` ends them. A request's `fidelity` is not sent: the engine has its own.

    `prefill_ms` is the time to the first piece as seen from here: queue and network included, restoring too.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        tokenizer: Tokenizer,
        max_tokens: int,
        salt: Callable[[str, str], str],
        timeout: float = 600.0,
    ) -> None:
        """`base_url` ends in `/v1`. `timeout`: seconds between two pieces, a long prompt's prefill included.

        `salt(tenant_id, share_group)`: the same text for those who may share KV, not to be guessed by others.
        """
        self._model, self._max_tokens = model, max_tokens
        self._tokenizer, self._salt = tokenizer, salt
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            limits=_LIMITS,
            trust_env=False,
        )

    @property
    def model(self) -> str:
        return self._model

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    async def moment(self) -> None:
        return None

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        if prompt.sampling.logprobs is not None:
            raise UnsupportedParameter("An engine's logprobs are not passed on.", param="logprobs")
        salt = self._salt(prompt.tenant_id, prompt.share_group)
        started, prefill_ms = time.perf_counter(), None
        written: list[str] = []
        finish, usage = None, None
        async with self._post(self._body(prompt, salt), _route(prompt, salt)) as events:
            async for event in events:
                usage, finish = event.usage or usage, event.finish or finish
                if text := event.text:
                    prefill_ms = prefill_ms or (time.perf_counter() - started) * 1_000
                    written.append(text)
                    yield Delta(text)
        yield Finished(_reason(finish), await self._usage(prompt, usage, "".join(written), prefill_ms or 0.0))

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        """An estimate where the engine's template adds more than MESSAGE_TOKENS to a message."""
        texts = [text for message in messages for text in (message.content, message.name) if text]
        counts = await asyncio.to_thread(self._tokenizer.count, texts)
        return sum(counts) + MESSAGE_TOKENS * len(messages)

    def stats(self) -> None:
        return None

    async def check(self) -> None:
        """Whether the engine answers and takes our key; not whether it serves the model: aliases are not listed."""
        try:
            response = await self._client.get("models", timeout=CONNECT_SECONDS)
        except httpx.HTTPError as e:
            raise _unavailable(e) from e
        if response.status_code != 200:
            raise _refused(response.status_code, "")

    async def close(self) -> None:
        await self._client.aclose()

    def _body(self, prompt: Prompt, salt: str) -> dict[str, Any]:
        sampling = prompt.sampling
        body = {
            "model": self._model,
            "messages": [_wire_message(message) for message in prompt.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_salt": salt,
        }
        return {name: value for name, value in body.items() if value is not None}

    @asynccontextmanager
    async def _post(self, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[AsyncIterator[_WireEvent]]:
        """The events of a 200; leaving closes the connection, which is how an engine learns to stop."""
        try:
            async with self._client.stream("POST", "chat/completions", json=body, headers=headers) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, await _beginning(response))
                async with aclosing(_events(response)) as events:
                    yield events
        except (httpx.HTTPError, httpx.StreamError) as e:
            raise _unavailable(e) from e

    async def _usage(self, prompt: Prompt, wire: _WireUsage | None, text: str, prefill_ms: float) -> Usage:
        """The engine's own numbers, or our count with nothing cached where it sends none."""
        if wire is None:
            counts = await asyncio.to_thread(self._tokenizer.count, [text])
            return Usage(await self.count(prompt.messages), counts[0], CachedTokens(), prefill_ms, 0.0)
        details = wire.prompt_tokens_details or _WireDetails()
        cached = CachedTokens(device=min(details.cached_tokens or 0, wire.prompt_tokens))
        return Usage(wire.prompt_tokens, wire.completion_tokens, cached, prefill_ms, 0.0)


async def _events(response: httpx.Response) -> AsyncGenerator[_WireEvent, None]:
    """Up to `[DONE]`. Comments (keep-alives) and other fields of server-sent events are passed over."""
    async with aclosing(lines_of(response, MAX_LINE_BYTES)) as lines:
        async for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _event(data)
    raise GeneratorUnavailable("The model's engine broke off its answer.")


def _event(data: bytes) -> _WireEvent:
    try:
        event = _WireEvent.model_validate_json(data)
    except ValidationError:  # its text would repeat the answer
        raise GeneratorUnavailable("The model's engine sent what is not a chat.completion.chunk.") from None
    if event.error is not None:
        raise _refused(None, str(event.error))
    return event


async def _beginning(response: httpx.Response) -> str:
    return (await anext(response.aiter_bytes(MAX_ERROR_BYTES), b"")).decode(errors="replace")


def _refused(status: int | None, body: str) -> Exception:
    """`status` is None for an error within the stream. The engine's words are not passed on: some repeat the prompt."""
    if status in (None, 400, 413, 422) and _TOO_LONG.search(body):
        return PromptTooLong("The prompt and the answer's max_tokens are more than the model reads.")
    how = "in its stream" if status is None else f"with HTTP {status}"
    return GeneratorUnavailable(f"The model's engine answered {how} that it can't: see its log.", engine_status=status)


def _unavailable(error: Exception) -> GeneratorUnavailable:
    return GeneratorUnavailable(f"The model's engine can't be reached or broke off: {type(error).__name__}.")


def _reason(finish: str | None) -> Finish:
    """Any other reason (content_filter, abort, …) means half an answer."""
    if reason := _FINISHES.get(finish or ""):
        return reason
    raise GeneratorUnavailable(f"The model's engine ended its answer early: {finish or 'without a reason'}.")


def _wire_message(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role, "content": message.content} | ({"name": message.name} if message.name else {})


def _route(prompt: Prompt, salt: str) -> dict[str, str]:
    """The same replica for the same session, without telling the engine or its router whose it is."""
    if prompt.memory_key is None:
        return {}
    named = f"{len(prompt.tenant_id)}:{prompt.tenant_id}{prompt.memory_key}"
    return {SESSION_HEADER: hmac.new(salt.encode(), named.encode(), hashlib.sha256).hexdigest()}
