"""Redaction of one event over HTTP."""

from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


def test_an_event_is_redacted_with_a_receipt_and_its_place_stays(http: httpx.Client) -> None:
    events = [{"role": "user", "event_id": f"e{n}", "content": f"the word number {n} is pomegranate"} for n in range(3)]
    http.post("/v1/sessions/redact/events", json={"events": events})
    path = "/v1/sessions/redact/events/e1"
    answer = http.delete(path)
    assert answer.status_code in (200, 202), answer.text
    listed = http.get("/v1/sessions/redact/events").json()["items"]
    assert [(one["seq"], one["content"], one.get("redacted")) for one in listed] == [
        (1, events[0]["content"], None),
        (2, "", True),
        (3, events[2]["content"], None),
    ]
    again = http.delete(path)
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    repeated = http.post("/v1/sessions/redact/events", json={"events": events[1:2]})
    assert (repeated.status_code, repeated.json()["code"]) == (409, "event_conflict")
    query = {"query": "word number 1", "session_ids": ["redact"], "kinds": ["event"], "top_k": 10}
    found = http.post("/v1/recall", json=query).json()["results"]
    assert sorted(result["text"] for result in found) == [events[0]["content"], events[2]["content"]]


def test_a_reader_redacts_nothing(http: httpx.Client) -> None:
    event = {"role": "user", "event_id": "e1", "content": "mine"}
    http.post("/v1/sessions/redact-closed/events", json={"events": [event]})
    http.put("/v1/sessions/redact-closed/agents/cyd", json={"role": "reader"})
    path = "/v1/sessions/redact-closed/events/e1"
    for agent in ("cyd", "eve"):
        assert http.delete(path, headers={"X-Agent-Id": agent}).status_code == 403
    http.put("/v1/sessions/redact-closed/agents/cyd", json={"role": "writer"})
    assert http.delete(path, headers={"X-Agent-Id": "cyd"}).status_code in (200, 202)
