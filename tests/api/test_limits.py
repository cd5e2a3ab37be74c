"""Nothing larger than 16 MiB gets in, whatever it says of itself; and no answer waits for ever to be read."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from api.app import create_app
from api.limits import MAX_BODY_BYTES, ReadDeadline
from memory.domain.generation import Chunk, Delta
from memory.services.generation import Turn

APPEND = "/v1/sessions/s1/events"
JSON = {"Content-Type": "application/json"}
MEBIBYTE = b" " * (1 << 20)


def test_a_body_that_announces_too_much_is_refused_unread(client: Any, container: Any) -> None:
    answer = client.post(APPEND, content=b"{}", headers={**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_that_announces_nothing_is_counted_as_it_comes(client: Any, container: Any) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(40):
            sent += 1
            yield MEBIBYTE

    answer = client.post(APPEND, content=endless(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert not container.events.calls


def test_sixteen_mebibytes_are_still_read(client: Any) -> None:
    event = b'{"events": [{"role": "user", "content": "x"}]}'
    body = event + b" " * (MAX_BODY_BYTES - len(event))
    assert client.post(APPEND, content=body, headers=JSON).status_code == 201


@pytest.mark.parametrize("length", ["many", "-1", "1e9"])
def test_a_length_that_is_no_number_is_not_believed(client: Any, length: str) -> None:
    answer = client.post(APPEND, content=iter([MEBIBYTE] * 17), headers={**JSON, "Content-Length": length})
    assert answer.status_code == 413


async def test_a_stream_that_nobody_reads_any_more_gives_its_turn_back(container: Any) -> None:
    told: list[str] = []

    async def chunks() -> AsyncGenerator[Chunk, None]:
        while True:
            yield Delta("word ")

    @asynccontextmanager
    async def turn(principal: Any, request: Any) -> AsyncIterator[Turn]:
        try:
            async with aclosing(chunks()) as pieces:
                yield Turn("m", pieces, 0, 0)
        finally:
            told.append("left")

    async def receive() -> dict[str, Any]:
        if told:
            await asyncio.sleep(60)  # it stays connected
        told.append("asked")
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body", b"").count(b"word"):
            await asyncio.sleep(60)  # the connection's buffer is full

    container.generation.turn = turn
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "memory_key": "s"}
    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    async with asyncio.timeout(10):
        await ReadDeadline(create_app(container), 0.2)(scope, receive, send)  # type: ignore[arg-type]
    assert told == ["asked", "left"]
