"""What the runtime answers to who asks it wrongly, too much, or not as the one who started it meant."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from model_runtime import server, wire
from model_runtime.embedders.lanes import EmbeddingFailed
from model_runtime.generators.chat import UnfitMessages
from model_runtime.generators.job import Done, Failed, Text
from model_runtime.server import Served, create_app

KEY = "the key"
BEARER = {"Authorization": f"Bearer {KEY}"}
ASKED = {"messages": [{"role": "user", "content": "hello"}], "salt": "s", "policy": "exact", "tenant": "t"}
DONE = Done("stop", 1, 1, {"device": 0, "host": 0, "disk": 0}, 1.0, 0.0)


class Runtime:
    """Answers every job with what it was told to say."""

    def __init__(self) -> None:
        self.says: list[Any] = [Text("hel"), Text("lo"), DONE]
        self.forgotten: list[frozenset[bytes]] = []
        self.failure: Exception | None = None
        self.checkpoint = SimpleNamespace(name="m", max_tokens=100)
        self.max_tokens = 100
        self.engine = SimpleNamespace(running=True, waiting=0, submit=self._submit)
        self.chat = SimpleNamespace(ids=self._ids)

    def _ids(self, messages: Any) -> list[int]:
        if self.failure:
            raise self.failure
        return list(range(sum(len(message["content"]) for message in messages)))

    def _submit(self, job: Any) -> None:
        for event in self.says:
            job.emit(event)

    def capacity(self, codec: str) -> int:
        return 100

    def namespace(self, salt: str, policy: str) -> bytes:
        return f"{salt}/{policy}".encode()

    def namespaces(self, salt: str) -> frozenset[bytes]:
        return frozenset({self.namespace(salt, "exact")})

    def since(self, moment: str) -> float | None:
        return 1.0 if moment.startswith("a" * 16) else None

    def moment(self) -> str:
        return f"{'a' * 16}:1.5"

    def stats(self) -> dict[str, Any]:
        return {"computed_tokens": 3}

    def forget(self, namespaces: frozenset[bytes], tenant: str | None = None) -> Any:
        from concurrent.futures import Future

        self.forgotten.append(namespaces)
        done: Future[int] = Future()
        done.set_result(7) if self.failure is None else done.set_exception(self.failure)
        return done


class Embedder:
    model = SimpleNamespace(space="words:2", dimensions=2)

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.seconds = 0.0

    async def embed(self, texts: list[str]) -> Any:
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return np.array([[len(text), 0.5] for text in texts], np.float32).reshape(len(texts), 2)


@pytest.fixture
def served() -> Served:
    return Served(Runtime(), Embedder(), "{}", KEY, lambda: b"counted 1\n", lambda: None)  # type: ignore[arg-type]


@pytest.fixture
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(create_app(served), headers=BEARER, raise_server_exceptions=False) as made:
        yield made


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_facts_are_told_with_the_tokenizer(client: TestClient) -> None:
    facts = wire.Facts.model_validate(client.get("/v1/facts").json())
    assert facts.model == wire.ModelFacts(name="m", max_tokens=100)
    assert facts.embedder == wire.EmbedderFacts(space="words:2", dimensions=2, tokenizer="{}")


def test_an_answer_is_lines_of_json(client: TestClient) -> None:
    lines = client.post("/v1/generate", json=ASKED).text.splitlines()
    assert wire.TextLine.model_validate_json(lines[0]).text == "hello"
    assert wire.DoneLine.model_validate_json(lines[-1]).reason == "stop"


def test_while_nothing_is_written_a_blank_line_keeps_the_connection(
    client: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEARTBEAT", 0.02)
    monkeypatch.setattr(server, "_LONGEST_SILENCE", 0.1)
    served.generating.says = [Text("hel")]  # type: ignore[attr-defined]
    lines = client.post("/v1/generate", json=ASKED).text.splitlines()
    assert lines[1:-1] == [""] * len(lines[1:-1])
    assert len(lines) > 3
    assert "nothing was written" in wire.FailedLine.model_validate_json(lines[-1]).failed


def test_a_failure_in_the_middle_is_the_last_line(client: TestClient, served: Served) -> None:
    served.generating.says = [Text("hel"), Failed("purged")]  # type: ignore[attr-defined]
    assert '"failed":"purged"' in client.post("/v1/generate", json=ASKED).text.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"messages": []}, (422, "invalid_input")),
        ({"messages": [{"role": "user", "content": "x" * 101}]}, (400, "context_length_exceeded")),
        ({"salt": ""}, (422, "invalid_input")),
        ({"policy": "zip"}, (422, "invalid_input")),
        ({"temperature": -1}, (422, "invalid_input")),
        ({"moment": "yesterday"}, (422, "invalid_input")),
        ({"moment": f"{'b' * 16}:2.0"}, (503, "busy")),
        ({"surprise": 1}, (422, "invalid_input")),
    ],
)
def test_a_request_that_makes_no_sense_is_a_problem_with_a_code(
    client: TestClient, changed: dict[str, Any], told: tuple[int, str]
) -> None:
    answer = client.post("/v1/generate", json=ASKED | changed)
    assert code(answer) == told
    assert "xxxx" not in answer.text


def test_a_prompt_for_another_model_is_not_answered_by_this_one(client: TestClient) -> None:
    assert code(client.post("/v1/generate", json=ASKED, headers={wire.MODEL_HEADER: "n"})) == (409, "other_model")


def test_messages_that_the_template_refuses_are_the_caller_s_mistake(client: TestClient, served: Served) -> None:
    served.generating.failure = UnfitMessages("no turns")  # type: ignore[attr-defined]
    assert code(client.post("/v1/count", json={"messages": ASKED["messages"]})) == (422, "invalid_input")


def test_vectors_are_raw_and_say_their_space(client: TestClient) -> None:
    answer = client.post("/v1/embed", json={"texts": ["a", "abc"]})
    assert np.frombuffer(answer.content, "<f4").tolist() == [1, 0.5, 3, 0.5]
    assert answer.headers[wire.SPACE_HEADER] == "words:2"


def test_too_many_texts_and_too_many_callers_are_refused(
    client: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code(client.post("/v1/embed", json={"texts": ["x"] * (wire.MOST_TEXTS + 1)})) == (422, "invalid_input")
    monkeypatch.setattr(server, "_MOST_EMBEDS", 0)
    answer = client.post("/v1/embed", json={"texts": ["x"]})
    assert (code(answer), answer.headers["retry-after"]) == ((503, "busy"), "2")


def test_an_embedding_has_a_deadline_and_fails_with_a_code(
    client: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_EMBED_SECONDS", 0.05)
    served.embedder.seconds = 5  # type: ignore[attr-defined]
    assert code(client.post("/v1/embed", json={"texts": ["x"]})) == (503, "busy")
    served.embedder.seconds = 0  # type: ignore[attr-defined]
    served.embedder.failure = EmbeddingFailed("out of memory")  # type: ignore[attr-defined]
    assert code(client.post("/v1/embed", json={"texts": ["x"]})) == (503, "embedder_unavailable")
    assert served.embeds == 0
    assert client.get("/health/ready").status_code == 503


def test_what_is_forgotten_is_counted_and_what_is_not_is_told(client: TestClient, served: Served) -> None:
    assert client.post("/v1/forget", json={"salts": ["s", "t"]}).json() == {"blocks": 7}
    assert served.generating.forgotten == [frozenset({b"s/exact", b"t/exact"})]  # type: ignore[attr-defined]
    served.generating.failure = OSError("read-only")  # type: ignore[attr-defined]
    assert code(client.post("/v1/forget", json={"salts": ["s"]})) == (503, "not_forgotten")


@pytest.mark.parametrize("model", [True, False])
def test_what_ended_processes_left_behind_is_part_of_every_purge(
    client: TestClient, served: Served, model: bool
) -> None:
    def fails() -> None:
        raise PermissionError(13, "not ours")

    served.clear_others = fails
    if not model:
        served.runtime = None
    assert code(client.post("/v1/forget", json={"salts": ["s"]})) == (503, "not_forgotten")


def test_without_a_model_it_embeds_and_says_how_to_get_one(client: TestClient, served: Served) -> None:
    served.runtime = None
    assert client.get("/v1/facts").json()["model"] is None
    for answer in (client.post("/v1/generate", json=ASKED), client.get("/v1/moment"), client.get("/v1/stats")):
        assert code(answer) == (503, "no_model_configured")
    assert client.post("/v1/forget", json={"salts": ["s"]}).json() == {"blocks": 0}
    assert client.get("/health/ready").json()["reason"] == "no model: it only embeds"
    assert client.post("/v1/embed", json={"texts": []}).content == b""


def test_a_dead_thread_is_not_ready(client: TestClient, served: Served) -> None:
    served.generating.engine.running = False
    assert client.get("/health/ready").status_code == 503
    assert code(client.post("/v1/generate", json=ASKED)) == (503, "busy")


@pytest.mark.parametrize("path", ["facts", "stats", "moment"])
@pytest.mark.parametrize("shown", [{}, {"Authorization": "Bearer no"}, {"Authorization": "Bearer \xff"}])
def test_without_the_key_nothing_but_health_and_metrics_is_answered(
    served: Served, path: str, shown: dict[str, str]
) -> None:
    headers = {name: value.encode("latin-1") for name, value in shown.items()}
    with TestClient(create_app(served)) as client:
        assert code(client.get(f"/v1/{path}", headers=headers)) == (401, "unauthenticated")
        assert client.get("/metrics").content == b"counted 1\n"
        assert client.get("/health/live").status_code == 200


def test_where_there_is_no_key_no_web_page_is_answered(served: Served) -> None:
    served.key = None
    with TestClient(create_app(served)) as client:
        assert client.post("/v1/count", json={"messages": []}).json() == {"tokens": 0}
        page = {"Origin": "http://evil.example"}
        assert code(client.post("/v1/count", json={"messages": []}, headers=page)) == (403, "forbidden")
