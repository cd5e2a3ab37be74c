"""What is left is told with each answer; who has used it up waits."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from memory.domain.principals import ALL_SCOPES
from memory.domain.quotas import Resource
from memory.services.abstracts import Abstract
from memory.services.keeping import Added
from memory.services.settings import LimitSettings
from memory.settings import Settings

EVENT = {"events": [{"role": "user", "content": "x"}]}


@pytest.fixture
def limited(make: Any, tmp_path: Any) -> Iterator[Callable[..., Any]]:
    """A client of a service with these limits, and with a key."""
    opened: list[TestClient] = []

    def open_one(**limits: int) -> TestClient:
        container = make.container(Settings(data_dir=tmp_path, limits=LimitSettings(**limits), _env_file=None))
        container.sessions.answers = {"page": []}
        container.events.answers = {"append": make.appended}
        container.abstracts.answers = {"write": Abstract(Added(make.memory(), deduplicated=False), 50)}
        container.memories.answers = {"add": [Added(make.memory(), deduplicated=False), Added(make.memory(2), True)]}
        made = asyncio.run(container.keys.create("acme", ALL_SCOPES))
        headers = {"Authorization": f"Bearer {made.token}"}
        client = TestClient(create_app(container), base_url="http://127.0.0.1", headers=headers)
        client.__enter__()
        opened.append(client)
        client.container = container
        return client

    yield open_one
    for client in opened:
        client.__exit__(None, None, None)


def told(answer: Any) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"ratelimit-{name}") for name in ("limit", "remaining", "reset", "policy"))


def test_without_limits_nothing_is_told(limited: Any) -> None:
    assert told(limited().get("/v1/sessions")) == (None,) * 4


def test_what_is_left_is_told_and_then_it_is_429(limited: Any) -> None:
    client = limited(key_requests_per_minute=2)
    assert told(client.get("/v1/sessions")) == ("2", "1", "60", "2;w=60")
    assert told(client.get("/v1/sessions"))[1] == "0"
    refused = client.get("/v1/sessions")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    assert told(refused)[:2] == ("2", "0")
    assert client.get("/health/live").status_code == 200
    other = asyncio.run(client.container.keys.create("acme", ALL_SCOPES))
    assert client.get("/v1/sessions", headers={"Authorization": f"Bearer {other.token}"}).status_code == 200


def test_openai_clients_read_a_429_of_their_own(limited: Any) -> None:
    client = limited(tenant_requests_per_minute=1)
    client.get("/v1/models")
    refused = client.get("/v1/models")
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_who_is_refused_is_counted_all_the_same(limited: Any) -> None:
    client = limited(key_requests_per_minute=1)
    assert client.post("/v1/recall", json={}).status_code == 422
    assert client.post("/v1/recall", json={}).status_code == 429


def test_bytes_are_counted_as_they_come(limited: Any) -> None:
    client = limited(key_bytes_per_minute=100)
    sent = iter([b'{"events": [{"role": "user", ', b'"content": "x"}]}', b" " * 100])
    assert client.post("/v1/sessions/s/events", content=sent, headers={"Content-Type": "application/json"}).is_success
    refused = client.get("/v1/sessions")
    assert (refused.status_code, "bytes" in refused.json()["detail"]) == (429, True)
    assert int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/sessions/s/events", EVENT, 2),
        ("/v1/memories", {"memories": [{"text": "x", "kind": "fact"}]}, 7),
        ("/v1/sessions/s/summary", {}, 50),
    ],
)
def test_tokens_that_are_kept_are_charged(limited: Any, path: str, body: Any, tokens: int) -> None:
    client = limited(key_tokens_per_day=tokens + 1)
    assert client.post(path, json=body).status_code == 201
    assert client.post(path, json=body).status_code == 201
    refused = client.post(path, json=body)
    assert (refused.status_code, "tokens a day" in refused.json()["detail"]) == (429, True)


def test_what_was_in_the_log_already_is_not_charged_again(limited: Any, make: Any) -> None:
    client = limited(key_tokens_per_day=1)
    client.container.events.answers["append"] = make.repeated
    for _ in range(3):
        assert client.post("/v1/sessions/s/events", json=EVENT).status_code == 200


def test_a_stranger_uses_nothing_of_anybody(limited: Any) -> None:
    client = limited(tenant_requests_per_minute=1, tenant_bytes_per_minute=1)
    unknown = {"Authorization": f"Bearer sm_{'a' * 12}_{'b' * 43}"}
    for _ in range(3):
        assert client.post("/v1/sessions/s/events", json=EVENT, headers=unknown).status_code == 401
    assert client.get("/v1/sessions").status_code == 200


@pytest.mark.parametrize("resource", list(Resource))
def test_every_resource_can_be_limited(resource: Resource) -> None:
    assert [name for name in LimitSettings.model_fields if resource.value in name]
