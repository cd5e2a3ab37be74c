"""Nothing larger than 16 MiB gets in, whatever it says of itself; and no answer waits for ever to be read."""

import asyncio
import http.client
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from api.app import create_app
from api.limits import MAX_BODY_BYTES, BodyLimit, ReadDeadline
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


@pytest.mark.parametrize("announced", [True, False])
def test_a_client_that_reads_nothing_before_it_has_sent_all_sees_the_refusal(service: str, announced: bool) -> None:
    connection = http.client.HTTPConnection(service.removeprefix("http://"), timeout=20)
    body = MEBIBYTE * 24 if announced else iter([MEBIBYTE] * 24)
    connection.request("POST", APPEND, body, JSON, encode_chunked=not announced)
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    connection.close()


class Sender:
    """Sends for ever, or ends, or stops sending; notes when the answer came."""

    def __init__(self, chunks: int | None = None, stalls: bool = False) -> None:
        self.sent, self.answered_after, self.closed = 0, -1, False
        self._chunks, self._stalls = chunks, stalls

    async def receive(self) -> dict[str, Any]:
        if self.sent == self._chunks:
            assert self._stalls, "it was asked for more than it has"
            await asyncio.sleep(60)
        self.sent += 1
        return {"type": "http.request", "body": b" " * 10, "more_body": self._stalls or self.sent != self._chunks}

    async def send(self, message: dict[str, Any]) -> None:
        if message.get("body"):
            self.answered_after = self.sent
        self.closed = message["type"] == "http.response.body" and not message.get("more_body")


@pytest.mark.parametrize(
    ("length", "sender", "answered_after", "read"),
    [
        (b"1000000", Sender(), 0, 40),  # four times the limit
        (b"", Sender(), 11, 51),
        (b"150", Sender(15), 0, 15),
        (b"", Sender(11), 11, 11),  # all of it was there when it was refused
        (b"150", Sender(3, stalls=True), 0, 3),
    ],
)
async def test_what_is_refused_is_answered_first_and_dropped_within_bounds(
    container: Any, length: bytes, sender: Sender, answered_after: int, read: int
) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    scope = {"type": "http", "method": "POST", "path": APPEND, "headers": headers, "query_string": b""}
    app = create_app(container)
    async with asyncio.timeout(5):
        await BodyLimit(app, 100, 0.2)({**scope, "app": app}, sender.receive, sender.send)  # type: ignore[arg-type]
    assert (sender.answered_after, sender.sent, sender.closed) == (answered_after, read, True)


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
