"""An unmodified OpenAI client against the service with the packaged fixture model: with and without a session."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.server import Server, ok, until

MODEL = "stratamem-fixture-handwired-recall"
LONG = "the garden behind the house " * 60


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("chatting") / "data", MODEL="fixture") as server:
        yield server


@pytest.fixture
def client(chatting: Server) -> openai.OpenAI:
    return client_of(chatting)


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.http.base_url}/v1".replace("//v1", "/v1"), api_key="none needed here", max_retries=0
    )


def ask(client: openai.OpenAI, text: str, *, key: str | None = None, **options: Any) -> Any:
    extra = {} if key is None else {"extra_body": {"memory_key": key}}
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=12, temperature=0, **extra, **options
    )


def streamed(chunks: Any) -> tuple[str, Any]:
    text, usage = "", None
    for chunk in chunks:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    return text, usage


def test_a_plain_client_gets_an_answer_whole_and_in_pieces(client: openai.OpenAI) -> None:
    whole = ask(client, "abcdefgh " * 20 + "abcd")
    assert whole.choices[0].message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text, usage = streamed(ask(client, "abcdefgh " * 20 + "abcd", stream=True, stream_options={"include_usage": True}))
    assert text == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_session_goes_on_and_is_not_computed_again(chatting: Server, client: openai.OpenAI, name: str) -> None:
    cached = []
    for turn in range(3):
        _, usage = streamed(
            ask(client, f"{turn} {LONG}", key=name, stream=True, stream_options={"include_usage": True})
        )
        cached.append((usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens))
    log = ok(chatting.http.get(f"/v1/sessions/{name}/events"))["items"]
    assert [event["role"] for event in log] == ["user", "assistant"] * 3
    assert cached[1][1] >= cached[0][0] - 20
    assert cached[2][1] >= cached[1][0] - 20
    found = ok(chatting.http.post("/v1/recall", json={"query": "garden", "session_ids": [name]}))["results"]
    assert "garden" in found[0]["text"]


def test_a_fork_computes_nothing_again_that_its_parent_computed(
    chatting: Server, client: openai.OpenAI, name: str
) -> None:
    before = [ask(client, f"{turn} {LONG}", key=name).usage for turn in range(2)][-1]
    for fork in (f"{name}-a", f"{name}-b"):
        made = ok(chatting.http.post(f"/v1/sessions/{name}/fork", json={"session_id": fork}))
        assert (made["forked_from"], made["last_seq"]) == (name, 4)
        first = ask(client, f"now for {fork}", key=fork).usage
        assert first.prompt_tokens_details.cached_tokens >= before.prompt_tokens - 20
    past = ok(chatting.http.post(f"/v1/sessions/{name}/fork", json={"session_id": f"{name}-c", "at_seq": 2}))
    assert past["last_seq"] == 2
    first = ask(client, "another second turn", key=f"{name}-c").usage
    assert first.prompt_tokens_details.cached_tokens >= before.prompt_tokens // 2 - 60
    for fork, length in ((name, 4), (f"{name}-a", 6), (f"{name}-c", 4)):
        assert ok(chatting.http.get(f"/v1/sessions/{fork}"))["last_seq"] == length


def test_what_cant_be_served_is_said_as_openai_s_clients_expect(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "x"}])
    assert unknown.value.code == "model_not_found"


def test_models_and_embeddings_are_served(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list().data]
    assert names == [MODEL, "all-MiniLM-L6-v2"]
    texts = [f"text {n}" for n in range(9)]
    made = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
    plain = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts, encoding_format="float")
    assert [one.index for one in made.data] == list(range(9))
    assert made.data[3].embedding == pytest.approx(plain.data[3].embedding)
    assert len(made.data[0].embedding) == 384


def test_a_client_that_goes_away_leaves_no_half_turn(chatting: Server, client: openai.OpenAI, name: str) -> None:
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "abcdefgh " * 20}],
        max_tokens=100_000,
        stream=True,
        extra_body={"memory_key": name},
    )
    next(iter(chunks))
    chunks.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the session is free again, and nothing of the turn was kept
        text, _ = streamed(ask(client, "hello again", key=name, stream=True))
        if text:
            break
    log = ok(chatting.http.get(f"/v1/sessions/{name}/events"))["items"]
    assert [event["content"] for event in log if event["role"] == "user"] == ["hello again"]


def test_a_client_that_waits_for_the_whole_and_goes_away_frees_its_session(
    chatting: Server, client: openai.OpenAI, name: str
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "abcdefgh " * 20}], "memory_key": name}
    with pytest.raises(httpx.ReadTimeout):
        chatting.http.post("/v1/chat/completions", json={**body, "max_tokens": 100_000}, timeout=1)
    assert ask(client, "hello again", key=name, timeout=10).choices
    log = ok(chatting.http.get(f"/v1/sessions/{name}/events"))["items"]
    assert [event["content"] for event in log if event["role"] == "user"] == ["hello again"]
    running = 'stratamem_answers{state="running"} 0.0'
    until(lambda: running in chatting.http.get("/metrics").text, what="nothing is written for who has gone")


def test_after_a_kill_the_session_s_kv_comes_back_from_disk(new_server: Callable[..., Server], name: str) -> None:
    server = new_server(MODEL="fixture")
    with server:
        first = ask(client_of(server), LONG, key=name)
        until(lambda: len(list((server.data / "kv").rglob("*.safetensors"))) >= 4, what="blocks are on disk")
        server.kill()
        server.start()
        again = ask(client_of(server), LONG, key="another-session-of-this-tenant")
        assert again.choices[0].message.content == first.choices[0].message.content
        assert again.usage.memory["cached"]["disk"] >= 1_024


def test_a_purge_takes_the_kv_along(new_server: Callable[..., Server], name: str) -> None:
    with new_server(MODEL="fixture") as server:
        blocks = server.data / "kv"
        for text in (LONG, "and the shed behind it " * 60):
            ask(client_of(server), text, key=name)
        until(lambda: len(list(blocks.rglob("*.safetensors"))) >= 4, what="blocks are on disk")
        receipt = ok(server.http.delete(f"/v1/sessions/{name}"))
        assert receipt["verified"]
        assert receipt["purged"]["kv_blocks"] >= 4
        assert not list((blocks / "node" / "blocks").rglob("*.safetensors"))
        assert ask(client_of(server), LONG, key=name).usage.prompt_tokens_details.cached_tokens == 0


def test_without_a_model_the_answer_says_how_to_get_one(shared: Server) -> None:
    with pytest.raises(openai.APIStatusError) as off:
        ask(client_of(shared), "hello")
    assert (off.value.status_code, off.value.code) == (503, "no_model_configured")
    assert "STRATAMEM_MODEL=" in off.value.message or "STRATAMEM_MODEL=" in str(off.value.body)
