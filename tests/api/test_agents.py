"""Who takes part in a session, over HTTP: from the first agent on, nobody else reads it or writes to it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.test_stream import following


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


@pytest.fixture
def closed(http: httpx.Client) -> str:
    """A session that ann owns, bob writes and cyd reads; its one event says its own name."""
    name = f"closed-{time.monotonic_ns()}"
    say(http, name, f"the password of {name} is tangerine")
    for agent, role in (("ann", "owner"), ("bob", "writer"), ("cyd", "reader")):
        answer = http.put(f"/v1/sessions/{name}/agents/{agent}", json={"role": role})
        assert answer.status_code == 200, answer.text
        assert {key: answer.json()[key] for key in ("agent_id", "role")} == {"agent_id": agent, "role": role}
    return name


def say(http: httpx.Client, session_id: str, content: str, agent: str | None = None) -> httpx.Response:
    event = {"role": "user", "content": content}
    return http.post(f"/v1/sessions/{session_id}/events", json={"events": [event]}, headers=acting(agent))


def acting(agent: str | None) -> dict[str, str]:
    return {} if agent is None else {"X-Agent-Id": agent}


READS: dict[str, Callable[[httpx.Client, str, dict[str, str]], httpx.Response]] = {
    "session": lambda http, s, who: http.get(f"/v1/sessions/{s}", headers=who),
    "events": lambda http, s, who: http.get(f"/v1/sessions/{s}/events", headers=who),
    "recall": lambda http, s, who: http.post("/v1/recall", json={"query": "password", "session_ids": [s]}, headers=who),
    "context": lambda http, s, who: http.post(f"/v1/sessions/{s}/context", json={"max_tokens": 99}, headers=who),
    "memories": lambda http, s, who: http.get("/v1/memories", params={"session_id": s}, headers=who),
    "kv": lambda http, s, who: http.get(f"/v1/sessions/{s}/kv", headers=who),
    "fork": lambda http, s, who: http.post(f"/v1/sessions/{s}/fork", headers=who),
}


@pytest.mark.parametrize("read", READS)
def test_who_is_not_listed_reads_nothing_of_it(http: httpx.Client, closed: str, read: str) -> None:
    for agent in (None, "eve"):
        answer = READS[read](http, closed, acting(agent))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), agent
        assert "tangerine" not in answer.text
    for agent in ("ann", "bob", "cyd"):
        assert READS[read](http, closed, acting(agent)).is_success, agent


@pytest.mark.parametrize(
    "write",
    [
        lambda http, s, who: say(http, s, "one more", who.get("X-Agent-Id")),
        lambda http, s, who: http.patch(f"/v1/sessions/{s}", json={"title": "t"}, headers=who),
        lambda http, s, who: http.post(
            "/v1/memories",
            json={"memories": [{"text": f"note {s}", "kind": "note", "visibility": "session", "session_id": s}]},
            headers=who,
        ),
        lambda http, s, who: http.post(
            "/v1/chat/completions",
            json={
                "model": "stratamem-fixture-handwired-recall",
                "memory_key": s,
                "max_tokens": 2,
                "messages": [{"role": "user", "content": "hello"}],
            },
            headers=who,
        ),
    ],
    ids=["events", "title", "memory", "chat"],
)
def test_a_reader_writes_nothing(http: httpx.Client, closed: str, write: Any) -> None:
    for agent in (None, "eve", "cyd"):
        answer = write(http, closed, acting(agent))
        assert answer.status_code == 403, (agent, answer.text)
    for agent in ("bob", "ann"):
        assert write(http, closed, acting(agent)).is_success, agent


def test_a_body_that_names_an_author_who_may_not_write_is_refused(http: httpx.Client, closed: str) -> None:
    events = [{"role": "user", "content": "x", "agent_id": author} for author in ("bob", "cyd")]
    answer = http.post(f"/v1/sessions/{closed}/events", json={"events": events})
    assert (answer.status_code, "cyd" in answer.json()["detail"]) == (403, True)
    assert http.get(f"/v1/sessions/{closed}/events", headers=acting("ann")).json()["items"][1:] == []
    assert http.post(f"/v1/sessions/{closed}/events", json={"events": events[:1]}).status_code == 201


def test_a_recall_over_everything_leaves_out_what_is_closed(http: httpx.Client, closed: str) -> None:
    say(http, f"open-{closed}", "the password of the shed is apricot")

    def found(agent: str | None) -> str:
        body = {"query": f"password of {closed}", "top_k": 200}
        answer = http.post("/v1/recall", json=body, headers=acting(agent))
        return str([result["text"] for result in answer.json()["results"]])

    for agent in (None, "eve"):
        assert "apricot" in found(agent)
        assert closed not in found(agent)
    assert f"the password of {closed} is tangerine" in found("cyd")
    listed = http.get("/v1/sessions", params={"limit": 500}, headers=acting("eve")).json()["items"]
    assert closed not in [session["session_id"] for session in listed]


def test_a_memory_of_a_closed_session_is_its_agents(http: httpx.Client, closed: str) -> None:
    memory = {"text": f"secret of {closed}", "kind": "fact", "visibility": "session", "session_id": closed}
    made = http.post("/v1/memories", json={"memories": [memory]}, headers=acting("bob")).json()["items"][0]
    path = f"/v1/memories/{made['memory_id']}"
    for agent in (None, "eve"):
        assert http.get(path, headers=acting(agent)).status_code == 403
        assert http.get(f"{path}/history", headers=acting(agent)).status_code == 403
        assert http.delete(path, headers=acting(agent)).status_code == 403
        listed = http.get("/v1/memories", params={"limit": 500}, headers=acting(agent)).json()["items"]
        assert made["memory_id"] not in [one["memory_id"] for one in listed]
    assert http.get(path, headers=acting("cyd")).status_code == 200
    assert http.patch(path, json={"pinned": True}, headers=acting("cyd")).status_code == 403
    assert http.patch(path, json={"pinned": True}, headers=acting("bob")).status_code == 200


def test_a_reader_purges_no_memory_by_a_policy(http: httpx.Client, closed: str) -> None:
    memory = {"text": f"note of {closed}", "kind": "note", "visibility": "session", "session_id": closed}
    made = http.post("/v1/memories", json={"memories": [memory]}, headers=acting("bob")).json()["items"][0]
    policy = {"policy": {"kinds": ["note"], "keep_top": 0}, "dry_run": False}
    assert http.post("/v1/memories/forget", json=policy, headers=acting("cyd")).is_success
    assert http.get(f"/v1/memories/{made['memory_id']}", headers=acting("cyd")).status_code == 200


def test_agents_are_listed_and_removed_and_the_session_stays_closed(http: httpx.Client, closed: str) -> None:
    path = f"/v1/sessions/{closed}/agents"
    first = http.get(path, params={"limit": 2}, headers=acting("cyd")).json()
    rest = http.get(path, params={"cursor": first["next_cursor"]}, headers=acting("cyd")).json()
    roles = [(agent["agent_id"], agent["role"]) for agent in first["items"] + rest["items"]]
    assert roles == [("ann", "owner"), ("bob", "writer"), ("cyd", "reader")]
    assert http.get(f"/v1/sessions/{closed}", headers=acting("ann")).json()["closed"] is True
    for agent in ("ann", "bob", "cyd"):
        assert http.delete(f"{path}/{agent}").status_code == 204
    assert http.delete(f"{path}/ann").status_code == 404
    for agent in (None, "ann"):
        assert http.get(f"/v1/sessions/{closed}/events", headers=acting(agent)).status_code == 403


def test_a_fork_of_a_closed_session_is_closed_too(http: httpx.Client, closed: str) -> None:
    fork = http.post(f"/v1/sessions/{closed}/fork", headers=acting("cyd")).json()
    assert fork["closed"] is True
    path = f"/v1/sessions/{fork['session_id']}/events"
    assert http.get(path, headers=acting("eve")).status_code == 403
    assert "tangerine" in http.get(path, headers=acting("bob")).text


def test_a_stream_ends_when_its_agent_is_removed(http: httpx.Client, closed: str) -> None:
    assert http.get(f"/v1/sessions/{closed}/events/stream", headers=acting("eve")).status_code == 403
    with following(http, closed, headers=acting("cyd")) as events:
        assert "tangerine" in next(events)["content"]
        assert http.delete(f"/v1/sessions/{closed}/agents/cyd").status_code == 204
        assert next(events, None) is None


@pytest.mark.parametrize("role", ["admin", "", None, 7, ["owner"]])
def test_a_role_that_there_is_not_is_refused(http: httpx.Client, closed: str, role: Any) -> None:
    answer = http.put(f"/v1/sessions/{closed}/agents/ann", json={"role": role})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_agents_of_a_session_that_is_not_there(http: httpx.Client) -> None:
    path = "/v1/sessions/absent/agents"
    assert http.put(f"{path}/ann", json={"role": "owner"}).status_code == 404
    assert http.get(path).status_code == 404
    assert http.delete(f"{path}/ann").status_code == 404
