"""What OpenAI's endpoints add to a turn: who leaves is not worked for, and what is refused is refused before it begins."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.app import create_app
from memory.domain.errors import NotFound
from memory.domain.generation import Chunk, Delta, Prompt
from memory.services.generation import Generation
from memory.testing import ScriptedGenerator

HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "memory_key": "s"}


class EndlessGenerator(ScriptedGenerator):
    """Writes until it is stopped, which takes a moment."""

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        try:
            while True:
                yield Delta("more ")
                await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(0.2)
            self.closed += 1


@pytest.fixture
def model(container: Any) -> ScriptedGenerator:
    return served(container, ScriptedGenerator())


def served(container: Any, model: ScriptedGenerator) -> ScriptedGenerator:
    container.events.answers["session_key"] = None
    container.context.answers["build"] = NotFound("a new session")
    container.generation = Generation(model, container.events, container.context)
    return model


async def leave_early(app: Any, body: dict[str, Any]) -> list[Any]:
    """What was sent to a client that goes away as soon as it has asked."""
    sent: list[Any] = []
    heard = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> Any:
        return next(heard, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    await app(scope | {"app": app, "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1"}, receive, send)
    return sent


async def test_who_leaves_before_the_whole_answer_is_no_failure_of_ours_and_leaves_nothing(container: Any) -> None:
    model = served(container, EndlessGenerator())
    with capture_logs() as logged:
        assert await leave_early(create_app(container), HELLO) == []
    assert [(line["event"], line.get("status")) for line in logged] == [("request", 499)]
    assert model.closed == 1  # before the session's turn was given back
    assert "append" not in [name for name, _, _ in container.events.calls]
