"""What comes back has the shapes of the contract."""

import re
from dataclasses import replace
from typing import Any

import pytest

from memory.domain.errors import NotFound, PreconditionFailed, SequenceConflict, SessionExists, StorageUnavailable
from memory.domain.events import Appended, EventVisibility, Role
from memory.domain.memories import MemoryVisibility
from memory.domain.operations import Operation, OperationKind, OperationState, Progress, Receipt
from memory.services.abstracts import Abstract
from memory.services.keeping import Added

NOON = "2026-03-31T12:00:00Z"


def operation(make: Any, **changes: Any) -> Operation:
    made = Operation(
        operation_id="op-1",
        tenant_id="default",
        kind=OperationKind.PURGE,
        session_key=1,
        session_id="s1",
        state=OperationState.RUNNING,
        progress=Progress(1, 2, "followers"),
        attempts=1,
        created_at=make.noon,
        started_at=make.noon,
        finished_at=None,
    )
    return replace(made, **changes)


def test_a_created_session_is_shown_whole_with_its_etag(client: Any, container: Any) -> None:
    answer = client.post("/v1/sessions", json={"session_id": "s1", "title": "t", "window_tokens": 1_000})
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1-1"'
    assert answer.headers["location"] == "/v1/sessions/s1"
    assert answer.json() == {
        "session_id": "s1",
        "title": None,
        "metadata": {},
        "window_tokens": 131_072,
        "semantic_turns": 100,
        "created_at": NOON,
        "updated_at": NOON,
        "last_seq": 0,
        "event_count": 0,
        "token_count": 0,
        "closed": False,
        "tiers": {
            "hot": {"tokens": 10, "blocks": 1},
            "semantic": {"segments": 4, "clusters": 2},
            "longterm": {"memories": 3},
        },
    }
    sent = container.sessions.last[1][1]
    assert (sent.session_id, sent.title, sent.window_tokens, sent.semantic_turns) == ("s1", "t", 1_000, 100)


def test_a_session_without_a_name_gets_one(client: Any, container: Any) -> None:
    assert client.post("/v1/sessions").status_code == 201
    assert len(container.sessions.last[1][1].session_id) == 36


def test_only_what_is_sent_changes(client: Any, container: Any) -> None:
    answer = client.patch("/v1/sessions/s1", json={"title": None}, headers={"If-Match": '"1-1"'})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1-2"')
    assert container.sessions.last == ("update", container.sessions.last[1], {"if_match": '"1-1"'})
    assert container.sessions.last[1][2] == {"title": None}
    client.patch("/v1/memories/m1", json={"valid_to": "2026-03-31T14:00:00+02:00", "visibility": "tenant"})
    assert container.memories.last[1][2] == {"valid_to": container.now, "visibility": MemoryVisibility.TENANT}


def test_a_fork_is_answered_as_a_created_session(client: Any, container: Any, make: Any) -> None:
    container.sessions.answers["fork"] = replace(make.view(2), forked_from="s1")
    answer = client.post("/v1/sessions/s1/fork", json={"session_id": "s2", "at_seq": 3})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/sessions/s2"
    assert answer.headers["etag"] == '"2-1"'
    assert answer.json()["forked_from"] == "s1"
    assert container.sessions.last[1][1:] == ("s1", "s2", 3)
    assert "forked_from" not in client.get("/v1/sessions/s1").json()


def test_a_fork_without_a_body_gets_a_name_and_the_whole_log(client: Any, container: Any, make: Any) -> None:
    container.sessions.answers["fork"] = make.view(2)
    assert client.post("/v1/sessions/s1/fork").status_code == 201
    _, parent, name, at_seq = container.sessions.last[1]
    assert (parent, len(name), at_seq) == ("s1", 36, None)


@pytest.mark.parametrize(
    "body", [{"at_seq": -1}, {"at_seq": "1"}, {"at_seq": 2**63}, {"title": "t"}, {"session_id": "/"}]
)
def test_a_fork_of_another_shape_is_refused(client: Any, body: dict[str, Any]) -> None:
    assert client.post("/v1/sessions/s1/fork", json=body).status_code == 422


def test_a_summary_is_answered_as_the_memory_that_it_is(client: Any, container: Any, make: Any) -> None:
    container.abstracts.answers["write"] = Abstract(Added(make.memory(), deduplicated=False), 50)
    answer = client.post("/v1/sessions/s1/summary")
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/memories/{answer.json()['memory_id']}")
    assert container.abstracts.last[1][1:] == ("s1", 150)
    assert client.post("/v1/sessions/s1/summary", json={"words": 80}).status_code == 201
    assert container.abstracts.last[1][1:] == ("s1", 80)
    for words in (0, 1_001, "80", True):
        assert client.post("/v1/sessions/s1/summary", json={"words": words}).status_code == 422


def test_a_receipt_says_what_was_kept_and_for_whom(client: Any, container: Any, make: Any) -> None:
    kept = Receipt({"events": 1}, True, make.noon, {"events": 2}, ("s2",))
    container.forgetting.answers["purge_session"] = kept
    answer = client.delete("/v1/sessions/s1").json()
    assert (answer["kept"], answer["kept_for"]) == ({"events": 2}, ["s2"])
    container.forgetting.answers["purge_session"] = replace(kept, kept={}, kept_for=())
    assert set(client.delete("/v1/sessions/s1", params={"cascade": True}).json()) == {"purged", "verified", "at"}
    assert container.forgetting.last[2] == {"cascade": True}


@pytest.mark.parametrize("body", [{"metadata": None}, {"window_tokens": None}, {"session_id": "x"}])
def test_a_patch_takes_no_null_where_there_must_be_a_value(client: Any, body: Any) -> None:
    assert client.patch("/v1/sessions/s1", json=body).status_code == 422


def test_pages_follow_each_other_without_gap_or_repeat(client: Any, container: Any, make: Any) -> None:
    views = [make.view(key) for key in range(5, 0, -1)]

    def page(_caller: Any, *, after_key: int | None, limit: int) -> list[Any]:
        return [view for view in views if after_key is None or view.session.session_key < after_key][:limit]

    container.sessions.answers["page"] = page
    seen, cursor = [], None
    while True:
        answer = client.get("/v1/sessions", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen.append([item["session_id"] for item in answer["items"]])
        cursor = answer["next_cursor"]
        if cursor is None:
            break
        assert cursor.isascii()
        assert set(cursor).isdisjoint("+/= ")
    assert seen == [["s5", "s4"], ["s3", "s2"], ["s1"]]


def test_the_log_is_read_in_either_direction_with_cursors_of_its_own(client: Any, container: Any, make: Any) -> None:
    container.events.answers["page"] = [make.event(1), make.event(2)]
    first = client.get("/v1/sessions/s1/events", params={"limit": 1, "after_seq": 0}).json()
    assert first["items"] == [
        {
            "seq": 1,
            "event_id": "e1",
            "agent_id": "a",
            "role": "user",
            "name": None,
            "content": "said 1",
            "metadata": {"topic": "keys"},
            "visibility": "session",
            "created_at": NOON,
            "token_count": 2,
        }
    ]
    assert container.events.last[2] == {"after_seq": 0, "before_seq": None, "limit": 2, "descending": False}
    following = {"cursor": first["next_cursor"], "after_seq": 0}
    assert client.get("/v1/sessions/s1/events", params=following).status_code == 200
    assert container.events.last[2]["after_seq"] == 1
    turned = client.get("/v1/sessions/s1/events", params={**following, "order": "desc"})
    assert turned.json()["code"] == "invalid_cursor"
    elsewhere = client.get("/v1/sessions/s2/events", params=following)
    assert elsewhere.json()["code"] == "invalid_cursor"


def test_what_came_after_an_event_is_read_against_the_order_too(client: Any, container: Any, make: Any) -> None:
    container.events.answers["page"] = [make.event(9), make.event(8)]
    wanted = {"limit": 1, "after_seq": 5, "order": "desc"}
    first = client.get("/v1/sessions/s1/events", params=wanted).json()
    assert container.events.last[2] == {"after_seq": 5, "before_seq": None, "limit": 2, "descending": True}
    client.get("/v1/sessions/s1/events", params={**wanted, "cursor": first["next_cursor"]})
    assert container.events.last[2] == {"after_seq": 5, "before_seq": 9, "limit": 2, "descending": True}


def test_the_page_that_explains_the_api_loads_nothing_from_the_web(client: Any) -> None:
    page = client.get("/docs")
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert files
    for file in files:
        assert file.startswith("/")
        assert client.get(file).status_code == 200


def test_an_append_is_handed_over_whole(client: Any, container: Any, make: Any) -> None:
    body = {
        "events": [
            {
                "event_id": "D8:6",
                "agent_id": "ann",
                "role": "tool",
                "content": "line\n\ttwo é 🙂",
                "name": "search",
                "created_at": "2026-03-31T12:00:00",
                "metadata": {"n": 1.5, "deep": [{"x": None}], "big": 2**64},
                "visibility": "private",
            }
        ],
        "expected_seq": 0,
    }
    answer = client.post("/v1/sessions/s1/events", json=body, headers={"Idempotency-Key": "once ~!"})
    assert answer.status_code == 201
    assert answer.json() == {"session_id": "s1", "first_seq": 1, "last_seq": 1, "event_ids": ["e1"], "token_count": 2}
    _, (_caller, session_id, (event,)), options = container.events.last
    assert (session_id, options) == ("s1", {"expected_seq": 0, "idempotency_key": "once ~!"})
    assert (event.event_id, event.agent_id, event.role, event.name) == ("D8:6", "ann", Role.TOOL, "search")
    assert (event.content, event.created_at) == ("line\n\ttwo é 🙂", make.noon)
    assert (event.metadata, event.visibility) == (body["events"][0]["metadata"], EventVisibility.PRIVATE)


def test_a_repeated_append_answers_200(client: Any, container: Any) -> None:
    container.events.answers["append"] = Appended("s1", 1, 1, ("e1",), 2, repeated=True)
    answer = client.post("/v1/sessions/s1/events", json={"events": [{"role": "user", "content": "x"}]})
    assert answer.status_code == 200
    assert "repeated" not in answer.json()


def test_memories_are_added_and_duplicates_named(client: Any, container: Any, make: Any) -> None:
    container.memories.answers["add"] = [Added(make.memory(1), False), Added(make.memory(2), True)]
    sent = [{"text": "a", "kind": "fact"}, {"text": "b", "kind": "note", "session_id": "s1"}]
    answer = client.post("/v1/memories", json={"memories": sent})
    assert answer.status_code == 201
    assert [item["deduplicated"] for item in answer.json()["items"]] == [False, True]
    given = container.memories.last[1][1]
    assert [memory.visibility for memory in given] == [MemoryVisibility.TENANT, MemoryVisibility.SESSION]


def test_a_memory_is_shown_whole_with_its_etag(client: Any) -> None:
    answer = client.get("/v1/memories/m1")
    assert answer.headers["etag"] == '"1-1"'
    assert answer.json() == {
        "memory_id": "m1",
        "text": "The key is under the pot.",
        "kind": "fact",
        "session_id": None,
        "agent_id": None,
        "visibility": "tenant",
        "metadata": {},
        "valid_from": None,
        "valid_to": None,
        "expires_at": None,
        "pinned": False,
        "source": None,
        "version": 1,
        "token_count": 7,
        "created_at": NOON,
        "updated_at": NOON,
        "access_count": 0,
        "last_accessed_at": None,
        "superseded_by": None,
        "supersedes": None,
        "near_duplicate_of": None,
    }


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/sessions/s1?cascade=true", "purge_session"), ("/v1/memories/m1", "purge_memory")]
)
def test_a_purge_answers_its_receipt_or_where_it_will_be(
    client: Any, container: Any, make: Any, path: str, method: str
) -> None:
    container.forgetting.answers[method] = Receipt({"events": 3}, True, make.noon)
    done = client.delete(path)
    assert (done.status_code, done.json()) == (200, {"purged": {"events": 3}, "verified": True, "at": NOON})
    container.forgetting.answers[method] = operation(make)
    pending = client.delete(path)
    assert (pending.status_code, pending.headers["location"]) == (202, "/v1/operations/op-1")
    assert pending.json() == {
        "operation_id": "op-1",
        "kind": "purge",
        "session_id": "s1",
        "state": "running",
        "progress": {"done": 1, "total": 2, "unit": "followers"},
        "created_at": NOON,
        "started_at": NOON,
        "finished_at": None,
    }


@pytest.mark.parametrize("query", ["state=queued,running", "state=queued|running", "state=queued%7Crunning"])
def test_operations_are_filtered_by_one_state_or_several(client: Any, container: Any, make: Any, query: str) -> None:
    container.operations.answers["page"] = [operation(make), operation(make, operation_id="op-0")]
    answer = client.get(f"/v1/operations?limit=1&{query}").json()
    assert container.operations.last[2]["states"] == [OperationState.QUEUED, OperationState.RUNNING]
    client.get("/v1/operations", params={"cursor": answer["next_cursor"]})
    assert container.operations.last[2] == {"states": None, "after_id": "op-1", "limit": 51}


@pytest.mark.parametrize(
    ("error", "status", "code", "facts"),
    [
        (NotFound("no"), 404, "not_found", {}),
        (SessionExists("it is", session_id="s1"), 409, "session_exists", {"session_id": "s1"}),
        (SequenceConflict("no", last_seq=7), 409, "sequence_conflict", {"last_seq": 7}),
        (PreconditionFailed("changed", status="evil"), 412, "precondition_failed", {"status": 412}),
        (StorageUnavailable("away"), 503, "storage_unavailable", {}),
    ],
)
def test_errors_of_the_domain_become_problems(
    client: Any, container: Any, error: Exception, status: int, code: str, facts: dict[str, Any]
) -> None:
    container.sessions.answers["get"] = error
    answer = client.get("/v1/sessions/s1")
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem.items() >= facts.items()
    assert ("retry-after" in answer.headers) is (status == 503)
