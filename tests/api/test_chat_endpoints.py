"""What OpenAI's endpoints add to a turn: who leaves is not worked for, what is refused is refused before it begins."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.app import create_app
from memory.adapters.quotas.windows import WindowCounter
from memory.domain.errors import NotFound, SessionBusy, StratamemError, TooManyTurns
from memory.domain.generation import Chunk, Delta, Prompt, Ticket
from memory.services.generation import Generation
from memory.services.quotas import Quotas
from memory.services.settings import LimitSettings
from memory.services.turns import HeldTurn
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


class FakeTurns:
    """A turn at once, after `waits` seconds, or `refuses`."""

    def __init__(self, waits: float = 0, refuses: StratamemError | None = None) -> None:
        self.waits, self.refuses, self.left = waits, refuses, 0

    @asynccontextmanager
    async def turn(self, tenant_id: str, session_id: str) -> AsyncIterator[HeldTurn]:
        try:
            await asyncio.sleep(self.waits)
            if self.refuses is not None:
                raise self.refuses
            yield HeldTurn(Ticket(1, tenant_id, session_id, 0))
        finally:
            self.left += 1


@pytest.fixture
def model(container: Any) -> ScriptedGenerator:
    return served(container, ScriptedGenerator())


def served(container: Any, model: ScriptedGenerator, turns: Any = None) -> ScriptedGenerator:
    container.events.answers["session"] = None
    container.context.answers["build"] = NotFound("a new session")
    container.generation = Generation(model, container.events, container.context, turns or FakeTurns())
    return model


async def leave_early(app: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[Any]:
    """What was sent to a client that goes away as soon as it has asked."""
    sent: list[Any] = []
    heard = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> Any:
        return next(heard, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await app(scope | {"app": app, "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1"}, receive, send)
    return sent


async def test_who_leaves_before_the_whole_answer_is_no_failure_of_ours_and_leaves_nothing(container: Any) -> None:
    model = served(container, EndlessGenerator())
    with capture_logs() as logged:
        assert await leave_early(create_app(container), HELLO) == []
    assert [(line["event"], line.get("status")) for line in logged] == [("request", 499)]
    assert model.closed == 1  # before the session's turn was given back
    assert "append" not in [name for name, _, _ in container.events.calls]


async def test_who_leaves_while_a_summary_is_written_ends_it(container: Any) -> None:
    ended: list[bool] = []

    async def write(*_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    container.abstracts.write = write
    assert await leave_early(create_app(container), {}, "/v1/sessions/s/summary") == []
    assert ended == [True]


async def test_who_leaves_while_it_waits_for_its_turn_is_not_answered(container: Any) -> None:
    turns = FakeTurns(waits=60)
    model = served(container, ScriptedGenerator(), turns)
    assert await leave_early(create_app(container), HELLO | {"stream": True}) == []
    assert (turns.left, model.prompts) == (1, [])


@pytest.mark.parametrize("refused", [SessionBusy("ask again later"), TooManyTurns("so many wait")])
def test_a_busy_session_is_told_with_a_time_to_try_again(client: Any, container: Any, refused: StratamemError) -> None:
    served(container, ScriptedGenerator(), FakeTurns(refuses=refused))
    answer = client.post("/v1/chat/completions", json=HELLO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (refused.status, refused.code)
    assert refused.detail in answer.json()["error"]["message"]
    assert "retry-after" in answer.headers


def test_a_model_is_shown_by_its_name_which_may_have_slashes(client: Any, container: Any) -> None:
    served(container, ScriptedGenerator(model="org/scripted"))
    container.embeddings = SimpleNamespace(model=None)
    shown = client.get("/v1/models/org%2Fscripted").json()
    assert (shown["id"], shown["object"]) == ("org/scripted", "model")
    assert client.get("/v1/models").json()["data"] == [shown]
    absent = client.get("/v1/models/gpt-x")
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_longer_than_the_model_reads_is_refused_by_name(
    client: Any, model: ScriptedGenerator, name: str
) -> None:
    model.max_tokens = 100
    answer = client.post("/v1/chat/completions", json=HELLO | {name: 101})
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (400, "invalid_value", name)
    assert "101" in answer.json()["detail"]
    assert "100" in answer.json()["detail"]
    assert not model.prompts
    assert client.post("/v1/chat/completions", json=HELLO | {name: 100}).status_code == 200


def test_an_empty_message_is_answered_and_not_kept(client: Any, container: Any, model: ScriptedGenerator) -> None:
    sent = [{"role": "assistant", "content": None}, {"role": "user", "content": ""}]
    assert client.post("/v1/chat/completions", json=HELLO | {"messages": sent}).status_code == 200
    assert [message.content for message in model.prompts[0].messages] == ["", ""]
    (events,) = [args[2] for name, args, _ in container.events.calls if name == "append"]
    assert [(event.role, event.content) for event in events] == [("assistant", "Of course I do. ")]


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_reads_and_writes_is_charged(
    client: Any, container: Any, model: ScriptedGenerator, stream: bool
) -> None:
    container.quotas = Quotas(WindowCounter(None), LimitSettings(tenant_tokens_per_day=1))
    body = HELLO | {"stream": stream}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    refused = client.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert len(model.prompts) == 1
