"""The whole service behind HTTP: what is written is found, changed, and gone when it is purged."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


def say(http: httpx.Client, session_id: str, *texts: str, **options: Any) -> httpx.Response:
    events = [{"role": "user", "content": text, "event_id": f"e{number}"} for number, text in enumerate(texts)]
    return http.post(f"/v1/sessions/{session_id}/events", json={"events": events, **options})


def test_what_was_said_is_recalled_at_once_and_read_as_context(http: httpx.Client) -> None:
    assert say(http, "garden", "The spare key is under the blue pot.", "Tulips need sun.").status_code == 201
    recalled = http.post("/v1/recall", json={"query": "where is the spare key?", "session_ids": ["garden"]}).json()
    assert recalled["results"][0]["text"] == "The spare key is under the blue pot."
    assert recalled["results"][0]["events"] == [{"event_id": "e0", "seq": 1}]
    assert recalled["degraded"] == []
    context = http.post("/v1/sessions/garden/context", json={"max_tokens": 200, "query": "key?"}).json()
    assert "blue pot" in str(context["messages"])
    assert context["tokens"]["total"] <= 200


def test_an_append_can_be_sent_again(http: httpx.Client) -> None:
    first = say(http, "again", "one", "two")
    second = say(http, "again", "one", "two")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = say(http, "again", "one", "three")
    assert (other.status_code, other.json()["code"]) == (409, "event_conflict")
    late = http.post(
        "/v1/sessions/again/events", json={"events": [{"role": "user", "content": "x"}], "expected_seq": 1}
    )
    assert (late.status_code, late.json()["code"], late.json()["last_seq"]) == (409, "sequence_conflict", 2)


def test_the_log_is_paged_in_both_directions(http: httpx.Client) -> None:
    say(http, "paged", *[f"line {number}" for number in range(7)])
    for order, expected in (("asc", [1, 2, 3, 4, 5, 6, 7]), ("desc", [7, 6, 5, 4, 3, 2, 1])):
        seen: list[int] = []
        params: dict[str, Any] = {"limit": 3, "order": order}
        while True:
            page = http.get("/v1/sessions/paged/events", params=params).json()
            seen += [event["seq"] for event in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert seen == expected


def test_a_session_changes_only_under_its_etag(http: httpx.Client) -> None:
    made = http.post("/v1/sessions", json={"session_id": "tagged", "metadata": {"a": 1}})
    assert made.status_code == 201
    assert http.post("/v1/sessions", json={"session_id": "tagged"}).json()["code"] == "session_exists"
    etag = made.headers["etag"]
    changed = http.patch("/v1/sessions/tagged", json={"title": "new"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["title"], changed.json()["metadata"]) == (200, "new", {"a": 1})
    stale = http.patch("/v1/sessions/tagged", json={"title": "late"}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert http.patch("/v1/sessions/tagged", json={"title": None}, headers={"If-Match": "*"}).json()["title"] is None
    say(http, "tagged", "an event does not change the ETag")
    assert http.get("/v1/sessions/tagged").headers["etag"] == http.patch("/v1/sessions/tagged", json={}).headers["etag"]


def test_any_of_several_etags_will_do(http: httpx.Client) -> None:
    etag = http.post("/v1/sessions", json={"session_id": "several"}).headers["etag"]
    changed = http.patch("/v1/sessions/several", json={"title": "new"}, headers={"If-Match": f'"other", {etag}'})
    assert changed.status_code == 200
    refused = http.patch("/v1/sessions/several", json={"title": "late"}, headers={"If-Match": f'"other", {etag}'})
    assert refused.status_code == 412


def test_only_its_agent_makes_a_memory_private(http: httpx.Client) -> None:
    sent = {"text": "The gate code is 4711.", "kind": "fact", "agent_id": "ann"}
    made = http.post("/v1/memories", json={"memories": [sent]})
    place = made.headers["location"]
    private = {"visibility": "private"}
    refused = http.patch(place, json=private, headers={"X-Agent-Id": "bob"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert http.get(place, headers={"X-Agent-Id": "bob"}).status_code == 200
    assert http.patch(place, json=private, headers={"X-Agent-Id": "ann"}).status_code == 200
    assert http.get(place, headers={"X-Agent-Id": "bob"}).status_code == 404


def test_a_condition_says_what_it_compares_with(http: httpx.Client) -> None:
    for op in ("eq", "ne", "in", "gt", "contains"):
        answer = http.post("/v1/recall", json={"query": "q", "filter": {"field": "metadata.topic", "op": op}})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), op
    for condition in ({"op": "exists"}, {"op": "eq", "value": None}):
        body = {"query": "q", "filter": {"field": "metadata.topic", **condition}}
        assert http.post("/v1/recall", json=body).status_code == 200


def test_a_session_that_an_append_made_has_changed_no_earlier_than_it_was_made(http: httpx.Client) -> None:
    say(http, "times", "first")
    session = http.get("/v1/sessions/times").json()
    assert session["created_at"] <= session["updated_at"]


def test_a_memory_is_written_once_and_found(http: httpx.Client) -> None:
    sent = {"memories": [{"text": "Ann prefers green tea.", "kind": "preference"}]}
    first, second = (http.post("/v1/memories", json=sent).json()["items"][0] for _ in range(2))
    assert (first["deduplicated"], second["deduplicated"]) == (False, True)
    assert first["memory_id"] == second["memory_id"]
    found = http.post("/v1/recall", json={"query": "which tea?", "kinds": ["preference"]}).json()["results"][0]
    assert (found["memory_id"], found["kind"]) == (first["memory_id"], "preference")


@pytest.mark.parametrize(
    "memory",
    [
        {"visibility": "session"},
        {"visibility": "private"},
        {"valid_from": "2026-01-02", "valid_to": "2026-01-01"},
    ],
)
def test_a_memory_that_nobody_could_see_is_refused(http: httpx.Client, memory: dict[str, str]) -> None:
    answer = http.post("/v1/memories", json={"memories": [{"text": "t", "kind": "note", **memory}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_purged_session_is_gone(http: httpx.Client) -> None:
    say(http, "gone", "The vault code is 7734.")
    answer = http.delete("/v1/sessions/gone")
    assert answer.status_code in (200, 202), answer.text
    if answer.status_code == 200:
        assert answer.json()["verified"] is True
        assert answer.json()["purged"]["events"] == 1
    assert http.get("/v1/sessions/gone").status_code == 404
    assert http.delete("/v1/sessions/gone").status_code == 404
    assert "7734" not in http.post("/v1/recall", json={"query": "vault code"}).text


def test_operators_see_numbers(http: httpx.Client) -> None:
    say(http, "watched", "look")
    for path in ("overview", "tiers", "sessions/watched/tiers", "jobs"):
        answer = http.get(f"/v1/admin/{path}")
        assert answer.status_code == 200, answer.text
    assert http.get("/v1/operations", params={"state": "queued,running"}).status_code == 200
    ready = http.get("/health/ready").json()
    assert ready["database"]["state"] == "ok"


def test_jobs_are_paged_with_the_counts_of_all(http: httpx.Client) -> None:
    for number in range(3):
        say(http, f"busy-{number}", "look")
    pages, params = [], {"limit": 2}
    while len(pages) < 2:
        pages.append(http.get("/v1/admin/jobs", params=params).json())
        params["cursor"] = pages[-1]["next_cursor"]
    first, second = ([job["operation_id"] for job in page["items"]] for page in pages)
    assert (len(first), first[-1] > second[0]) == (2, True)
    assert sum(pages[0]["counts"].values()) >= 3
    foreign = http.get("/v1/operations", params={"cursor": pages[0]["next_cursor"]})
    assert (foreign.status_code, foreign.json()["code"]) == (422, "invalid_cursor")


def test_codecs_are_shown_and_their_work_is_an_operation(http: httpx.Client) -> None:
    shown = http.get("/v1/admin/codecs").json()
    assert (shown["codebooks"], shown["degraded"]) == ([], [])
    assert set(shown["cold"]) == {"segments", "coded", "code_bytes", "vector_bytes"}
    asked = http.post("/v1/admin/codecs/train")
    assert (asked.status_code, asked.json()["kind"]) == (202, "codec")
    assert asked.headers["Location"] == f"/v1/operations/{asked.json()['operation_id']}"
    assert http.get(asked.headers["Location"]).status_code == 200
