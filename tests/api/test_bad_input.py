"""Whatever a client sends, it is told what is wrong with it and where, and never gets it back."""

import json
from typing import Any

import pytest

from api.paging import encode

EVENT = {"role": "user", "content": "hello"}
APPEND = "/v1/sessions/s1/events"
DEEP: Any = {}
for _ in range(20):
    DEEP = {"a": DEEP}
DEEP_FILTER: Any = {"field": "role", "op": "eq", "value": "user"}
for _ in range(16):
    DEEP_FILTER = {"not": DEEP_FILTER}


def event(**changes: Any) -> dict[str, Any]:
    return {"events": [{**EVENT, **changes}]}


def recall(**changes: Any) -> dict[str, Any]:
    return {"query": "where?", **changes}


def memory(**changes: Any) -> dict[str, Any]:
    return {"memories": [{"text": "t", "kind": "fact", **changes}]}


def where(**test: Any) -> dict[str, Any]:
    return recall(filter={"field": "metadata.topic", "op": "eq", "value": 1, **test})


TABLE: list[tuple[str, Any, str, list[Any]]] = [
    # path, body, code, where it is
    (APPEND, event(content="nul \x00"), "invalid_text", ["body", "events", 0, "content"]),
    (APPEND, event(content="bell \x07"), "invalid_text", ["body", "events", 0, "content"]),
    (APPEND, event(content="half \ud83d"), "invalid_text", ["body", "events", 0, "content"]),
    (APPEND, event(name="\ud800"), "invalid_text", ["body", "events", 0, "name"]),
    (APPEND, event(event_id="\ud800"), "invalid_text", ["body", "events", 0, "event_id"]),
    (APPEND, event(metadata={"a": [{"b": "\x00"}]}), "invalid_text", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata={"\udc00": 1}), "invalid_text", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata={"a": float("nan")}), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata={"a": [float("inf")]}), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata={"a": 10**400}), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata=DEEP), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata={"a": "x" * 16_384}), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(metadata=[]), "invalid_input", ["body", "events", 0, "metadata"]),
    (APPEND, event(content=""), "invalid_input", ["body", "events", 0, "content"]),
    (APPEND, event(content=" \n\t\u2003"), "invalid_input", ["body", "events", 0, "content"]),
    (APPEND, event(content=["parts"]), "invalid_input", ["body", "events", 0, "content"]),
    (APPEND, event(content=None), "invalid_input", ["body", "events", 0, "content"]),
    (APPEND, event(role="robot"), "invalid_input", ["body", "events", 0, "role"]),
    (APPEND, event(event_id="no spaces"), "invalid_input", ["body", "events", 0, "event_id"]),
    (APPEND, event(event_id="x" * 129), "invalid_input", ["body", "events", 0, "event_id"]),
    (APPEND, event(event_id=""), "invalid_input", ["body", "events", 0, "event_id"]),
    (APPEND, event(event_id="x\n"), "invalid_input", ["body", "events", 0, "event_id"]),
    (APPEND, event(created_at=1_700_000_000), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(created_at="1700000000"), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(created_at="yesterday"), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(created_at="0001-01-01T00:00:00+01:00"), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(created_at="9999-12-31T23:59:59-01:00"), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(created_at="2026-02-30T00:00:00Z"), "invalid_input", ["body", "events", 0, "created_at"]),
    (APPEND, event(visibility="tenant"), "invalid_input", ["body", "events", 0, "visibility"]),
    (APPEND, event(colour="red"), "invalid_input", ["body", "events", 0, "colour"]),
    (APPEND, {"events": []}, "invalid_input", ["body", "events"]),
    (APPEND, {"events": [EVENT] * 1_001}, "invalid_input", ["body", "events"]),
    (APPEND, {"events": {"0": EVENT}}, "invalid_input", ["body", "events"]),
    (APPEND, {}, "invalid_input", ["body", "events"]),
    (APPEND, [EVENT], "invalid_input", ["body"]),
    (APPEND, None, "invalid_input", ["body"]),
    (APPEND, {**event(), "expected_seq": -1}, "invalid_input", ["body", "expected_seq"]),
    (APPEND, {**event(), "expected_seq": True}, "invalid_input", ["body", "expected_seq"]),
    (APPEND, {**event(), "expected_seq": "1"}, "invalid_input", ["body", "expected_seq"]),
    (APPEND, {**event(), "expected_seq": 1.5}, "invalid_input", ["body", "expected_seq"]),
    (APPEND, {**event(), "expected_seq": 2**63}, "invalid_input", ["body", "expected_seq"]),
    ("/v1/sessions", {"session_id": "a/b"}, "invalid_input", ["body", "session_id"]),
    ("/v1/sessions", {"title": "x" * 1_025}, "invalid_input", ["body", "title"]),
    ("/v1/sessions", {"title": "\x1b[31m"}, "invalid_text", ["body", "title"]),
    ("/v1/sessions", {"window_tokens": 0}, "invalid_input", ["body", "window_tokens"]),
    ("/v1/sessions", {"window_tokens": 100_000_001}, "invalid_input", ["body", "window_tokens"]),
    ("/v1/sessions", {"window_tokens": True}, "invalid_input", ["body", "window_tokens"]),
    ("/v1/sessions", {"semantic_turns": 0}, "invalid_input", ["body", "semantic_turns"]),
    ("/v1/sessions/s1/context", {"query": "?"}, "invalid_input", ["body", "max_tokens"]),
    ("/v1/sessions/s1/context", {"max_tokens": 0}, "invalid_input", ["body", "max_tokens"]),
    ("/v1/sessions/s1/context", {"max_tokens": 10**30}, "invalid_input", ["body", "max_tokens"]),
    ("/v1/sessions/s1/context", {"max_tokens": 9, "format": "xml"}, "invalid_input", ["body", "format"]),
    (
        "/v1/sessions/s1/context",
        {"max_tokens": 9, "include": {"recall": 1}},
        "invalid_input",
        ["body", "include", "recall"],
    ),
    ("/v1/recall", {}, "invalid_input", ["body", "query"]),
    ("/v1/recall", {"query": "\ud800"}, "invalid_text", ["body", "query"]),
    ("/v1/recall", recall(top_k=0), "invalid_input", ["body", "top_k"]),
    ("/v1/recall", recall(top_k=201), "invalid_input", ["body", "top_k"]),
    ("/v1/recall", recall(top_k=True), "invalid_input", ["body", "top_k"]),
    ("/v1/recall", recall(top_k="10"), "invalid_input", ["body", "top_k"]),
    ("/v1/recall", recall(threshold=float("nan")), "invalid_input", ["body", "threshold"]),
    ("/v1/recall", recall(threshold=1.01), "invalid_input", ["body", "threshold"]),
    ("/v1/recall", recall(tiers=["attic"]), "invalid_input", ["body", "tiers", 0]),
    ("/v1/recall", recall(session_ids=["s", "no spaces"]), "invalid_input", ["body", "session_ids", 1]),
    ("/v1/recall", recall(explain="yes"), "invalid_input", ["body", "explain"]),
    ("/v1/recall", recall(as_of=0), "invalid_input", ["body", "as_of"]),
    ("/v1/recall", where(field="content"), "invalid_input", ["body", "filter", "field", "field"]),
    ("/v1/recall", where(field="metadata."), "invalid_input", ["body", "filter", "field", "field"]),
    ("/v1/recall", where(field="metadata.a\x00"), "invalid_text", ["body", "filter", "field", "field"]),
    ("/v1/recall", where(op="like"), "invalid_input", ["body", "filter", "field", "op"]),
    ("/v1/recall", where(value="\ud800"), "invalid_text", ["body", "filter", "field"]),
    ("/v1/recall", where(op="in", value="a"), "invalid_input", ["body", "filter", "field"]),
    ("/v1/recall", where(op="gt", value=None), "invalid_input", ["body", "filter", "field"]),
    ("/v1/recall", where(op="exists", value="yes"), "invalid_input", ["body", "filter", "field"]),
    ("/v1/recall", where(field="created_at", value="soon"), "invalid_input", ["body", "filter", "field"]),
    ("/v1/recall", where(field="created_at", value=7), "invalid_input", ["body", "filter", "field"]),
    ("/v1/recall", recall(filter={"and": []}), "invalid_input", ["body", "filter", "and", "and"]),
    ("/v1/recall", recall(filter={"and": [], "or": []}), "invalid_input", ["body", "filter", "and", "and"]),
    ("/v1/recall", recall(filter=DEEP_FILTER), "invalid_input", ["body", "filter"]),
    ("/v1/recall", recall(filter={"or": [DEEP_FILTER["not"]["not"]["not"]] * 60}), "invalid_input", ["body", "filter"]),
    ("/v1/recall", recall(filter="role = user"), "invalid_input", ["body", "filter", "field"]),
    ("/v1/memories", {"memories": []}, "invalid_input", ["body", "memories"]),
    ("/v1/memories", memory(text=" "), "invalid_input", ["body", "memories", 0, "text"]),
    ("/v1/memories", memory(text="\x0b"), "invalid_text", ["body", "memories", 0, "text"]),
    ("/v1/memories", memory(kind="event"), "invalid_input", ["body", "memories", 0, "kind"]),
    ("/v1/memories", memory(visibility="public"), "invalid_input", ["body", "memories", 0, "visibility"]),
    ("/v1/memories", memory(ttl_seconds=0), "invalid_input", ["body", "memories", 0, "ttl_seconds"]),
    ("/v1/memories", memory(ttl_seconds=10**12), "invalid_input", ["body", "memories", 0, "ttl_seconds"]),
    ("/v1/memories", memory(pinned=1), "invalid_input", ["body", "memories", 0, "pinned"]),
    (
        "/v1/memories",
        memory(source={"session_id": "s", "event_ids": []}),
        "invalid_input",
        ["body", "memories", 0, "source", "event_ids"],
    ),
]


@pytest.mark.parametrize(("path", "body", "code", "place"), TABLE)
def test_bad_fields_are_named_with_their_place(client: Any, path: str, body: Any, code: str, place: list[Any]) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (422, 422, code), answer.text
    assert place in [error["loc"] for error in problem["errors"]], problem["errors"]
    assert problem["type"] == f"urn:stratamem:problem:{code}"
    assert problem["title"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"events": ' + b"9" * 5_000 + b"}",
        b"null",
        b'{"events": [}',
        b"nonsense",
    ],
)
def test_a_body_that_is_no_json_or_no_object_is_refused(client: Any, body: bytes) -> None:
    answer = client.post(APPEND, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] in ("invalid_json", "invalid_input")


def test_broken_json_has_a_code_of_its_own(client: Any) -> None:
    answer = client.post(APPEND, content=b'{"events": [', headers={"Content-Type": "application/json"})
    assert answer.json()["code"] == "invalid_json"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_does_not_say_it_is_json_is_told_how(client: Any, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post(APPEND, content=json.dumps(event()).encode(), headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_the_input_is_not_repeated_in_the_error(client: Any) -> None:
    secret = "correct horse battery staple"
    answer = client.post(APPEND, json=event(role=secret, event_id=secret, metadata={"x": secret * 1_000}))
    assert answer.status_code == 422
    assert secret not in answer.text


def test_an_unknown_field_with_a_broken_name_is_still_answered(client: Any) -> None:
    body = json.dumps({"events": [EVENT], "\ud800\x00": 1})
    answer = client.post(APPEND, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_text"


def test_a_text_over_a_mebibyte_is_too_large(client: Any) -> None:
    assert client.post(APPEND, json=event(content="é" * (512 * 1_024))).status_code == 201
    answer = client.post(APPEND, json=event(content="é" * (512 * 1_024) + "x"))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.json()["errors"][0]["loc"] == ["body", "events", 0, "content"]


@pytest.mark.parametrize(
    "cursor",
    [
        "junk",
        "%%%",
        "ÿ",
        "bnVsbA",
        encode("sessions", 2**63),
        encode("sessions", -1),
        encode("sessions", True),
        encode("sessions", 1.5),  # type: ignore[arg-type]
        encode("sessions", "abc"),
        encode("sessions", None),  # type: ignore[arg-type]
        encode("memories", 1),
        encode("sessions", "\x00"),
        "W" * 1_000,
    ],
)
def test_a_cursor_that_we_did_not_make_is_refused(client: Any, cursor: str) -> None:
    answer = client.get("/v1/sessions", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor"), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sessions?limit=0",
        "/v1/sessions?limit=501",
        "/v1/sessions?limit=many",
        f"/v1/sessions?limit={'9' * 5_000}",
        "/v1/sessions/no%20spaces",
        "/v1/sessions/%00",
        f"/v1/sessions/{'x' * 129}",
        "/v1/sessions/s1/events?after_seq=-1",
        "/v1/sessions/s1/events?after_seq=9223372036854775808",
        "/v1/sessions/s1/events?order=random",
        "/v1/memories?kind=event",
        "/v1/memories?session_id=%00",
        "/v1/operations?state=lost",
        "/v1/operations/%ff",
        f"/v1/sessions?cursor={'x' * 2_000}",
    ],
)
def test_bad_paths_and_queries_are_bad_input(client: Any, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), answer.text


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "tab\there"])
def test_an_idempotency_key_is_printable_ascii(client: Any, key: str) -> None:
    answer = client.post(APPEND, json=event(), headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/sessions", 405)])
def test_the_router_speaks_problem_json_too(client: Any, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["code"] in ("not_found", "method_not_allowed")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/sessions", "GET, POST"),
        ("POST", "/v1/sessions/s1", "GET, PATCH, DELETE"),
        ("HEAD", "/v1/sessions/s1/events", "GET, POST"),
        ("POST", "/version", "GET, HEAD"),
        ("DELETE", "/admin", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_all_that_the_path_has(client: Any, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
