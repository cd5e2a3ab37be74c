"""Who did what to which session is noted, and nothing of what was said."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from memory.domain.errors import NotFound, StorageUnavailable
from memory.domain.operations import Receipt
from memory.domain.principals import ALL_SCOPES, KeyScope
from memory.services.keeping import Added
from memory.services.settings import AuditSettings
from memory.settings import AuthMode, Settings

AUDIT = "/v1/admin/audit"
EVENT = {"events": [{"role": "user", "content": "xyzzy", "event_id": "e1"}]}


def opened(make: Any, tmp_path: Any, **options: Any) -> TestClient:
    container = make.container(Settings(data_dir=tmp_path, _env_file=None, **options))
    container.sessions.answers = {"page": [], "create": make.view(), "fork": make.view(2), "get": make.view()}
    container.events.answers = {"append": make.appended, "page": []}
    container.recall.answers = {"recall": NotFound("no such session")}
    container.forgetting.answers = {"purge_session": Receipt({"events": 1}, True, make.noon)}
    container.memories.answers = {"add": [Added(make.memory(), deduplicated=False)]}
    client = TestClient(create_app(container), base_url="http://127.0.0.1")
    client.container = container
    return client


@pytest.fixture
def audited(make: Any, tmp_path: Any) -> Iterator[Any]:
    with opened(make, tmp_path) as client:
        yield client


def trail(client: Any) -> list[Any]:
    asyncio.run(client.container.audit.flush())
    return [(e.action, e.session_id, e.subject, e.status) for e in client.container.trail.entries]


def bearer(client: Any, scopes: Any = ALL_SCOPES, **bounds: Any) -> dict[str, str]:
    made = asyncio.run(client.container.keys.create("acme", scopes, **bounds))
    return {"Authorization": f"Bearer {made.token}"}


def test_what_is_done_is_noted_with_who_and_to_what(audited: Any) -> None:
    headers = {**bearer(audited, agent_id="ann"), "X-Request-Id": "r-1"}
    audited.post("/v1/sessions/plans/events", json=EVENT, headers=headers)
    audited.post("/v1/sessions/plans/fork", json={"session_id": "other"}, headers=headers)
    audited.post("/v1/sessions", json={"title": "xyzzy"}, headers=headers)
    memory = {"text": "xyzzy", "kind": "fact", "session_id": "plans", "metadata": {"xyzzy": "xyzzy"}}
    audited.post("/v1/memories", json={"memories": [memory]}, headers=headers)
    audited.delete("/v1/sessions/plans", headers=headers)
    assert trail(audited) == [
        ("events.append", "plans", None, 201),
        ("sessions.fork", "plans", "other", 201),
        ("sessions.create", "s1", None, 201),
        ("memories.add", "plans", None, 201),
        ("sessions.purge", "plans", None, 200),
    ]
    entries = audited.container.trail.entries
    assert {(e.tenant_id, e.caller, e.agent_id) for e in entries} == {("acme", headers["Authorization"][10:22], "ann")}
    assert {e.request_id for e in entries} == {"r-1"}
    assert "xyzzy" not in repr(entries)


def test_reads_are_noted_only_where_it_is_wished(make: Any, tmp_path: Any) -> None:
    for reads in (False, True):
        with opened(make, tmp_path, audit=AuditSettings(reads=reads)) as client:
            client.get("/v1/sessions/plans")
            client.get("/v1/sessions/plans/events", headers={"X-Agent-Id": "ann"})
            client.get(AUDIT)
            client.get("/health/live")
            noted = [("sessions.get", "plans", None, 200), ("events.page", "plans", None, 200)]
            assert trail(client)[:2] == (noted if reads else [])
            assert bool(trail(client)) is reads


def test_who_is_not_allowed_is_noted_and_who_is_unknown_is_not(make: Any, tmp_path: Any) -> None:
    with opened(make, tmp_path, auth=AuthMode.REQUIRED) as client:
        reader = bearer(client, [KeyScope.READ], agent_id="ann")
        client.post("/v1/sessions/plans/events", json=EVENT, headers=reader)
        client.get("/v1/sessions", headers={**reader, "X-Agent-Id": "bob"})
        client.get(AUDIT, headers=reader)
        client.post("/v1/sessions/plans/events", json=EVENT)
        assert trail(client) == [
            ("events.append", "plans", None, 403),
            ("sessions.page", None, None, 403),
            ("audit.page", None, None, 403),
        ]


def test_what_was_not_done_is_not_noted(audited: Any) -> None:
    audited.post("/v1/sessions/plans/events", json={})
    audited.post("/v1/sessions/..%2Fetc/events", json=EVENT)
    audited.post("/v1/recall", json={"query": "xyzzy", "session_ids": ["gone"]})
    audited.container.events.answers["append"] = NotFound("gone")
    audited.post("/v1/sessions/plans/events", json=EVENT)
    audited.get("/v1/nowhere")
    assert trail(audited) == []


def test_what_failed_on_our_side_may_have_been_done(audited: Any) -> None:
    audited.container.events.answers["append"] = RuntimeError("xyzzy")
    assert audited.post("/v1/sessions/plans/events", json=EVENT).status_code == 500
    audited.container.events.answers["append"] = StorageUnavailable("away")
    assert audited.post("/v1/sessions/plans/events", json=EVENT).status_code == 503
    assert [entry[3] for entry in trail(audited)] == [500, 503]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("DELETE", "/v1/sessions/plans", None), ("POST", "/v1/admin/keys", {"scopes": ["read"]})],
)
def test_what_can_not_be_undone_is_written_before_it_is_answered(
    audited: Any, method: str, path: str, body: Any
) -> None:
    audited.request(method, path, json=body)
    assert len(audited.container.trail.entries) == 1
    audited.container.trail.failure = StorageUnavailable("away")
    assert audited.request(method, path, json=body).is_success  # it is done, and is written later
    audited.container.trail.failure = None
    assert len(trail(audited)) == 2


def test_keys_are_named_by_their_id(audited: Any) -> None:
    made = audited.post("/v1/admin/keys", json={"scopes": ["read"], "name": "xyzzy"}).json()
    audited.delete(f"/v1/admin/keys/{made['key_id']}")
    assert trail(audited) == [
        ("keys.create", None, made["key_id"], 201),
        ("keys.revoke", None, made["key_id"], 200),
    ]
    assert "xyzzy" not in repr(audited.container.trail.entries)


def test_operators_read_it_in_pages_and_whole(audited: Any) -> None:
    for n in range(5):
        audited.post(f"/v1/sessions/s{n % 2}/events", json=EVENT, headers={"X-Request-Id": f"r{n}"})
    seen, params = [], {"limit": 2}
    while True:
        page = audited.get(AUDIT, params=params).json()
        seen += [entry["request_id"] for entry in page["items"]]
        if page["next_cursor"] is None:
            break
        params = {"limit": 2, "cursor": page["next_cursor"]}
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    answer = audited.get(f"{AUDIT}/export", params={"session_id": "s1"})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["request_id"] for line in lines] == ["r1", "r3"]
    assert lines[0] == {**page["items"][0], **lines[0]}
    assert audited.get(f"{AUDIT}/export", params={"session_id": "none"}).text == ""


def test_only_who_has_the_whole_tenant_reads_it(audited: Any) -> None:
    audited.post("/v1/sessions/plans/events", json=EVENT, headers=bearer(audited))
    for bounds in ({"agent_id": "ann"}, {"session_ids": ["plans"]}, {"scopes": [KeyScope.READ, KeyScope.WRITE]}):
        for path in (AUDIT, f"{AUDIT}/export"):
            assert audited.get(path, headers=bearer(audited, **bounds)).status_code == 403
    assert audited.get(AUDIT).json()["items"] == []  # of the tenant `default`
    assert audited.get(f"{AUDIT}/export", headers=bearer(audited)).text.count("\n") == 7


@pytest.mark.parametrize(
    "params",
    [{"session_id": "a b"}, {"action": "DROP"}, {"since": "yesterday"}, {"caller": "x" * 161}, {"cursor": "?"}],
)
def test_a_search_that_makes_no_sense_is_refused(audited: Any, params: dict[str, str]) -> None:
    assert audited.get(AUDIT, params=params).status_code == 422


def test_a_database_that_is_away_is_no_empty_export(audited: Any) -> None:
    audited.container.trail.failure = StorageUnavailable("away")
    assert audited.get(f"{AUDIT}/export").status_code == 503
