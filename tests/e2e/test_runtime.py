"""The model runtime as a process of its own: asked over HTTP, killed in the middle of an answer, shared by two APIs."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.server import Process, Runtime, Server, append, events_of, ok, recall, until

MODEL = "stratamem-fixture-handwired-recall"
LONG = "the garden behind the house " * 60


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with Runtime(tmp_path_factory.mktemp("runtime") / "data") as made:
        yield made


@pytest.fixture(scope="module")
def api(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Not forked from a process that has torch: this one must not need it.
    with Server(tmp_path_factory.mktemp("api") / "data", forked=False, **runtime.asked_by) as server:
        yield server


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.http.base_url}".rstrip("/") + "/v1", api_key="none", max_retries=0)


def ask(server: Server, text: str, *, key: str | None = None, **options: Any) -> Any:
    return client_of(server).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        extra_body={"memory_key": key} if key else {},
        **{"max_tokens": 12, **options},
    )


def streamed(chunks: Any) -> tuple[str, Any]:
    text, usage = "", None
    for chunk in chunks:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    return text, usage


def cached(usage: Any) -> int:
    return int(usage.prompt_tokens_details.cached_tokens)


def test_an_api_without_models_chats_embeds_and_recalls(api: Server, runtime: Runtime, name: str) -> None:
    first, used = streamed(ask(api, f"one {LONG}", key=name, stream=True, stream_options={"include_usage": True}))
    again = ask(api, f"two {LONG}", key=name)
    assert first
    assert cached(again.usage) >= used.prompt_tokens - 20
    vectors = client_of(api).embeddings.create(model="all-MiniLM-L6-v2", input=[f"text {n}" for n in range(9)])
    assert len(vectors.data[8].embedding) == 384
    append(api.http, name, "My cat only eats fish.")
    assert "cat" in recall(api.http, "What does the pet like?", session_ids=[name], top_k=1)[0]["text"]
    assert ok(api.http.get("/health/ready"))["state"] == "ok"
    assert api.process is not None
    assert "libtorch" not in Path(f"/proc/{api.process.pid}/maps").read_text()
    reused = re.search(
        r'^stratamem_kv_reused_tokens_total{tier="device"} (.+)$', httpx.get(f"{runtime.url}/metrics").text, re.M
    )
    assert reused is not None
    assert float(reused[1]) >= 1_024


def test_only_who_has_the_key_is_answered(runtime: Runtime) -> None:
    assert httpx.get(f"{runtime.url}/health/live").status_code == 200
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        refused = httpx.post(f"{runtime.url}/v1/count", json={"messages": []}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")


def test_a_client_that_goes_away_frees_the_model(api: Server, runtime: Runtime, name: str) -> None:
    chunks = ask(api, "abcdefgh " * 20, key=name, stream=True, max_tokens=100_000)
    next(iter(chunks))
    chunks.close()
    running = 'stratamem_answers{state="running"} 0.0'
    until(lambda: running in httpx.get(f"{runtime.url}/metrics").text, what="nothing is written for who has gone")
    assert ask(api, "hello again", key=name).choices
    assert [event["content"] for event in events_of(api.http, name) if event["role"] == "user"] == ["hello again"]


def test_killed_in_the_middle_of_an_answer_it_leaves_no_half_turn_and_comes_back_with_its_kv(
    api: Server, runtime: Runtime, name: str
) -> None:
    text = f"{name} {LONG}"
    before = ask(api, text, key=name)
    until(lambda: len(runtime.blocks) >= 3, what="blocks are on disk")
    log = events_of(api.http, name)
    pieces = iter(ask(api, "abcdefgh " * 20, key=name, stream=True, max_tokens=100_000))
    next(pieces)
    runtime.kill()
    with pytest.raises(openai.APIError) as broken:  # an event inside the stream: the status is out
        list(pieces)
    assert broken.value.code == "generator_unavailable"
    assert events_of(api.http, name) == log

    ready = ok(api.http.get("/health/ready"))
    assert (ready["state"], ready["runtime"]["state"], ready["embedder"]["state"]) == ("degraded",) * 3
    assert "can't be reached" in ready["runtime"]["reason"]
    with pytest.raises(openai.InternalServerError) as away:
        ask(api, "anybody there?", key=name)
    assert (away.value.status_code, away.value.code) == (503, "generator_unavailable")
    append(api.http, name, "The quetzal sat on the roof.")
    found = ok(api.http.post("/v1/recall", json={"query": "quetzal", "session_ids": [name], "top_k": 1}))
    assert "quetzal" in found["results"][0]["text"]

    api.kill()  # it starts without the runtime, too
    api.start()
    assert ok(api.http.get("/health/ready"))["runtime"]["state"] == "degraded"

    runtime.start()
    again = ask(api, text, key=f"{name}-2")
    assert again.choices[0].message.content == before.choices[0].message.content
    assert again.usage.memory["cached"]["disk"] >= 1_024
    assert ok(api.http.get("/health/ready"))["state"] == "ok"


def test_a_purge_is_not_verified_before_the_runtime_has_forgotten(api: Server, runtime: Runtime, name: str) -> None:
    ask(api, f"{name} {LONG}", key=name)
    until(lambda: runtime.blocks, what="blocks are on disk")
    runtime.kill()
    try:
        answer = api.http.delete(f"/v1/sessions/{name}")
        assert answer.status_code == 202, answer.text
        operation = f"/v1/operations/{answer.json()['operation_id']}"
        time.sleep(2)
        assert ok(api.http.get(operation))["state"] != "succeeded"
        assert runtime.blocks
    finally:
        runtime.start()
    until(lambda: ok(api.http.get(operation))["state"] == "succeeded", 60, what="the purge is confirmed")
    assert ok(api.http.get(operation))["result"]["verified"] is True
    assert not runtime.blocks
    assert cached(ask(api, f"{name} {LONG}").usage) == 0


def test_what_was_put_together_before_a_purge_is_not_kept_after_it(api: Server, runtime: Runtime, name: str) -> None:
    """The answer may fail or come late; the KV of what is purged stays nowhere."""
    append(api.http, name, LONG)
    failed: list[Exception] = []

    def chat() -> None:
        try:
            ask(api, "go on", key=name, max_tokens=2_000)
        except openai.APIError as error:
            failed.append(error)

    asking = threading.Thread(target=chat)
    asking.start()
    until(lambda: 'state="running"} 1.0' in httpx.get(f"{runtime.url}/metrics").text, what="it is being answered")
    assert ok(api.http.delete(f"/v1/sessions/{name}"), 200, 202)
    asking.join(60)
    assert failed
    assert api.http.get(f"/v1/sessions/{name}").status_code == 404


def test_two_apis_share_one_runtime(
    runtime: Runtime, tmp_path: Path, new_postgres: Callable[[], str], broker: dict[str, str], name: str
) -> None:
    settings = {"DATABASE_URL": new_postgres(), **broker, **runtime.asked_by}
    one = Server(tmp_path / "one", **settings).start()
    two = Server(tmp_path / "two", **settings | {"NODE": "other"})
    worker = Process(tmp_path / "worker", "worker", **settings)
    with one, two:
        worker.spawn()
        try:
            first = ask(one, f"{name} {LONG}", key=name)
            second = ask(two, f"and {LONG}", key=name)
            assert cached(second.usage) >= first.usage.prompt_tokens - 20
            answer = one.http.delete(f"/v1/sessions/{name}")
            body = ok(answer, 200, 202)
            if answer.status_code == 202:
                path = f"/v1/operations/{body['operation_id']}"
                until(lambda: ok(one.http.get(path))["state"] == "succeeded", 60, what="the purge is confirmed")
            assert cached(ask(two, f"{name} {LONG}").usage) == 0
        finally:
            worker.kill()


def test_it_stops_within_ten_seconds_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    with Runtime(tmp_path / "data", forked=False) as runtime:
        body = {"messages": [{"role": "user", "content": "abcdefgh " * 20}], "salt": "s", "policy": "exact"}
        headers = {"Authorization": f"Bearer {Runtime.KEY}"}
        with httpx.stream("POST", f"{runtime.url}/v1/generate", json=body, headers=headers) as answer:
            next(answer.iter_lines())
            assert runtime.stop() == 0
        assert "use it" in runtime.tail()
