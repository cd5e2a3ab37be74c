"""A session's log over HTTP as server-sent events."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


def say(http: httpx.Client, session_id: str, *contents: str, **fields: Any) -> None:
    events = [{"role": "user", "content": content, **fields} for content in contents]
    answer = http.post(f"/v1/sessions/{session_id}/events", json={"events": events})
    assert answer.status_code == 201, answer.text


@contextmanager
def following(http: httpx.Client, session_id: str, **request: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream as a browser would give them: `event`, `id` and the parsed `data`."""
    with http.stream("GET", f"/v1/sessions/{session_id}/events/stream", **request) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield parsed(answer.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield {"event": fields["event"], "id": fields["id"], **json.loads(fields["data"])}
            fields = {}
        else:
            fields = {}


def test_a_stream_tells_what_was_said_and_what_is_being_said(http: httpx.Client) -> None:
    say(http, "live", "one", "two\nlines")
    with following(http, "live") as events:
        first, second = next(events), next(events)
        say(http, "live", "three")
        third = next(events)
    assert [event["id"] for event in (first, second, third)] == ["1", "2", "3"]
    assert {event["event"] for event in (first, second, third)} == {"appended"}
    assert [event["content"] for event in (first, second, third)] == ["one", "two\nlines", "three"]
    listed = http.get("/v1/sessions/live/events").json()["items"]
    assert {name: first[name] for name in listed[0]} == listed[0]


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"Last-Event-ID": "2"}},
        {"params": {"after_seq": 2}},
        {"headers": {"Last-Event-ID": "2"}, "params": {"after_seq": 0}},
    ],
)
def test_a_stream_goes_on_after_the_last_event_that_was_heard(http: httpx.Client, request_: dict[str, Any]) -> None:
    name = f"resumed-{time.monotonic_ns()}"
    say(http, name, "one", "two", "three", "four")
    with following(http, name, **request_) as events:
        assert [next(events)["content"], next(events)["content"]] == ["three", "four"]


def test_an_event_is_told_within_a_tenth_of_a_second(http: httpx.Client) -> None:
    say(http, "prompt", "before")
    heard: list[float] = []
    started = threading.Event()

    def listen() -> None:
        with following(http, "prompt", params={"after_seq": 1}) as events:
            started.set()
            for _ in range(9):
                next(events)
                heard.append(time.monotonic())

    listener = threading.Thread(target=listen)
    listener.start()
    assert started.wait(10)
    said = []
    for number in range(9):
        time.sleep(0.02)
        said.append(time.monotonic())
        say(http, "prompt", f"word {number}")
    listener.join(20)
    waited = sorted(there - then for then, there in zip(said, heard, strict=True))
    assert waited[4] < 0.1, waited


def test_a_private_event_is_told_to_its_agent_only(http: httpx.Client) -> None:
    say(http, "private", "ours")
    say(http, "private", "mine", visibility="private", agent_id="ann")
    say(http, "private", "ours again")
    with following(http, "private", headers={"X-Agent-Id": "ann"}) as events:
        assert [next(events)["content"] for _ in range(3)] == ["ours", "mine", "ours again"]
    with following(http, "private", headers={"X-Agent-Id": "bob"}) as events:
        assert [next(events)["content"] for _ in range(2)] == ["ours", "ours again"]


def test_a_purge_ends_the_stream(http: httpx.Client) -> None:
    say(http, "purged", "one")
    with following(http, "purged") as events:
        next(events)
        assert http.delete("/v1/sessions/purged").status_code in (200, 202)
        assert next(events, None) is None
    assert http.get("/v1/sessions/purged/events/stream").status_code == 404


@pytest.mark.parametrize("wild", ["-1", "1e9", "abc", "9" * 40, "1 OR 1=1", "\u0661".encode()])
def test_a_wild_last_event_id_is_refused(http: httpx.Client, wild: Any) -> None:
    say(http, "wild", "one")
    answer = http.get("/v1/sessions/wild/events/stream", headers={"Last-Event-ID": wild})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_place_beyond_the_log_is_refused_with_its_end(http: httpx.Client) -> None:
    say(http, "short", "one")
    answer = http.get("/v1/sessions/short/events/stream", headers={"Last-Event-ID": "99"})
    assert (answer.status_code, answer.json()["code"], answer.json()["last_seq"]) == (409, "sequence_conflict", 1)


def test_who_goes_away_leaves_nothing_behind(http: httpx.Client) -> None:
    say(http, "left", "one")
    for _ in range(5):
        with following(http, "left") as events:
            next(events)
    say(http, "left", "two")  # nobody is there to be told
    with following(http, "left", params={"after_seq": 1}) as events:
        assert next(events)["content"] == "two"


def test_a_redacted_event_is_told_without_its_content(http: httpx.Client) -> None:
    say(http, "redacted", "before")
    with following(http, "redacted") as slow:
        next(slow)
        say(http, "redacted", "a tangerine")
        event_id = http.get("/v1/sessions/redacted/events").json()["items"][1]["event_id"]
        time.sleep(0.2)  # it is kept for readers who are a little behind
        assert http.delete(f"/v1/sessions/redacted/events/{event_id}").status_code in (200, 202)
        time.sleep(1.2)  # a process looks at what was redacted once a second (decision 49)
        with following(http, "redacted", params={"after_seq": 1}) as late:
            told = next(late)
        assert (told["seq"], told["content"], told["redacted"]) == (2, "", True)
