"""How is a model runtime in a process of its own reached?

What may be asked twice is asked again when the runtime can't be reached or is busy. Its facts are kept in the data
folder, so that this process starts, stores and finds words while the runtime is away.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from memory.adapters.files import replaced
from memory.domain.errors import (
    EmbedderUnavailable,
    GeneratorUnavailable,
    InvalidInput,
    PromptTooLong,
    Retryable,
    TooManyAnswers,
)
from model_runtime import wire

CONNECT_SECONDS = 2.0
SHORT_SECONDS = 30.0
SILENCE_SECONDS = 30.0
"""Between two lines of an answer; a runtime that lives sends one every five."""

_TRIES = 3
_MAX_ERROR_BYTES = 65_536
_FIRST_START, _LATER_START = 60.0, 3.0
"""Seconds that the runtime may take to answer when this process starts; where its facts are known, we go on without."""

logger = logging.getLogger(__name__)


class RuntimeClient:
    """The connections of one event loop; owns them: `close()` ends them."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.shown = _without_secret(self.url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30),
            trust_env=False,
        )

    async def call(
        self,
        path: str,
        body: BaseModel | None,
        unavailable: type[Retryable],
        *,
        seconds: float = SHORT_SECONDS,
        tries: int = _TRIES,
    ) -> httpx.Response:
        """A 200. Only for what may be done twice. Raises `unavailable`, InvalidInput, PromptTooLong."""
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(tries),
            wait=tenacity.wait_exponential_jitter(multiplier=0.05, max=1, jitter=0.05),
            retry=tenacity.retry_if_exception(_passes),
            reraise=True,
        )
        with _explained(unavailable, self.shown):
            return await attempts(self._once, path, body, seconds)

    @asynccontextmanager
    async def stream(self, path: str, body: BaseModel, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Of a 200; leaving closes the connection, which is how the runtime learns to stop.

        Raises GeneratorUnavailable, PromptTooLong, InvalidInput.
        """
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        headers = headers | {"Content-Type": "application/json"}
        with _explained(GeneratorUnavailable, self.shown):
            async with self._http.stream(
                "POST", path, content=body.model_dump_json(), headers=headers, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    raise _Refused(response.status_code, await anext(response.aiter_bytes(_MAX_ERROR_BYTES), b""))
                yield response

    async def check(self) -> None:
        """Raises GeneratorUnavailable."""
        await self.call("/health/ready", None, GeneratorUnavailable, tries=1)

    async def close(self) -> None:
        await self._http.aclose()

    async def _once(self, path: str, body: BaseModel | None, seconds: float) -> httpx.Response:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        if body is None:
            response = await self._http.get(path, timeout=timeout)
        else:
            headers = {"Content-Type": "application/json"}
            response = await self._http.post(path, content=body.model_dump_json(), headers=headers, timeout=timeout)
        if response.status_code != 200:
            raise _Refused(response.status_code, response.content[:_MAX_ERROR_BYTES])
        return response


class _Problem(BaseModel):
    """`reason`: of a health check."""

    code: str = ""
    detail: str = ""
    reason: str = ""


class _Refused(Exception):
    """An answer that is not a 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        try:
            self.problem = _Problem.model_validate_json(body)
        except ValidationError:
            self.problem = _Problem()

    def translated(self, unavailable: type[Retryable]) -> Exception:
        problem = self.problem
        if problem.code == PromptTooLong.code:
            return PromptTooLong(problem.detail)
        if problem.code == InvalidInput.code:
            return InvalidInput(problem.detail)
        if problem.code == TooManyAnswers.code:
            return TooManyAnswers(problem.detail)
        said = problem.detail or problem.reason or f"it answered with HTTP {self.status}"
        return unavailable(f"the model runtime can't do it: {said}", runtime_status=self.status)


def _passes(error: BaseException) -> bool:
    """The same call may succeed in a moment."""
    return isinstance(error, httpx.TransportError) or (isinstance(error, _Refused) and error.status == 503)


@contextmanager
def _explained(unavailable: type[Retryable], url: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        raise error.translated(unavailable) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise unavailable(f"the model runtime can't be reached ({type(error).__name__}): {_advice(url)}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise unavailable(f"the model runtime at {url} broke off: {type(error).__name__}") from error


def _advice(url: str) -> str:
    return f"is `stratamem runtime` running at {url}, and is STRATAMEM_RUNTIME_URL right?"


def _without_secret(url: str) -> str:
    """Where it is; names, passwords and what follows the path are nobody's business."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))


class _Remembered(BaseModel):
    url: str
    facts: wire.Facts


async def facts_of(client: RuntimeClient, remembered: Path) -> wire.Facts:
    """What the runtime serves; those of the last time, kept in the file `remembered`, while it is away.

    Raises EmbedderUnavailable where they are not known yet.
    """
    known = _read(remembered, client.url)
    patience = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_delay(_FIRST_START if known is None else _LATER_START),
        wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=2),
        retry=tenacity.retry_if_exception(_away),
        reraise=True,
    )
    try:
        async for attempt in patience:
            with attempt:
                answer = await client.call("/v1/facts", None, EmbedderUnavailable, tries=1)
    except EmbedderUnavailable as error:
        if known is None or not _away(error):
            refused = "runtime_status" in error.facts
            raise EmbedderUnavailable(
                f"{error.detail}: {_advice(client.shown)}" if refused else error.detail
            ) from error
        logger.warning("the model runtime at %s is away: serving with what it said the last time", client.shown)
        return known
    facts = wire.Facts.model_validate_json(answer.content)
    if facts != known:
        with replaced(remembered) as draft:
            draft.write_text(_Remembered(url=client.url, facts=facts).model_dump_json(), encoding="utf-8")
    return facts


def _away(error: BaseException) -> bool:
    """It may come; who refuses our key will go on doing so."""
    return isinstance(error, EmbedderUnavailable) and error.facts.get("runtime_status") not in (401, 403)


def _read(remembered: Path, url: str) -> wire.Facts | None:
    try:
        found = _Remembered.model_validate_json(remembered.read_bytes())
    except (OSError, ValidationError):
        return None
    return found.facts if found.url == url else None
