"""Does the harness send what it should and keep what it must? Scorers and data are not needed."""

import json
from pathlib import Path

import httpx
import numpy as np

from benchmarks.service import Service, StoredVectors
from benchmarks.sets import Item, Selection, Task, _event, _part, _turns


def _task(count: int) -> Task:
    items = [Item(n, f"text {n}", _event(n, n, f"text {n}")) for n in range(count)]
    queries = [{"qid": f"q{n}", "text": "?", "gold": {n, n + 1}, "type": "t"} for n in range(0, count, 10)]
    return Task("s", items, queries)


def test_a_part_of_a_task_keeps_the_gold_of_its_queries_and_the_order() -> None:
    part = _part(_task(100), Selection(items=30, queries=4))
    kept = [item.id for item in part.items]
    assert len(part.queries) == 4
    assert len(kept) == 30
    assert kept == sorted(kept)
    assert set().union(*(query["gold"] for query in part.queries)) <= set(kept)
    assert part == _part(_task(100), Selection(items=30, queries=4))


def test_ids_and_texts_that_the_service_refuses_are_replaced() -> None:
    event = _event("a contract (2019)", 7, "one\x00two\ud800")
    assert event == {"event_id": "item-7", "role": "user", "content": "one two "}
    assert _event("D8:6", 0, "x")["event_id"] == "D8:6"


def test_a_turn_is_sent_with_author_date_and_caption() -> None:
    turns = [
        {"dia_id": "D1:1", "speaker": "Ann Lee", "text": "Look!", "caption": "a dog"},
        {"dia_id": "D1:2", "speaker": "Bob", "text": "Nice", "caption": None},
    ]
    sent = _turns({"sessions": [{"date_time": "1:56 pm on 8 May, 2023", "turns": turns}]})
    assert sent["D1:1"]["content"] == "Look! [shared image: a dog]"
    assert sent["D1:1"]["agent_id"] == "Ann-Lee"
    assert sent["D1:1"]["created_at"] == "2023-05-08T13:56:00+00:00"
    assert sent["D1:2"]["created_at"] == "2023-05-08T13:56:01+00:00"


def test_stored_vectors_come_back_as_the_service_stores_them(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    StoredVectors("space", tmp_path).put(["a", "b"], vectors)
    found = StoredVectors("space", tmp_path).get(["b", "c", "a"])
    assert list(found) == ["b", "a"]
    np.testing.assert_array_equal(found["a"], vectors[0].astype(np.float16).astype(np.float32))
    assert StoredVectors("another", tmp_path).get(["a"]) == {}


def test_many_events_are_appended_in_parts_and_in_order() -> None:
    sent: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append([event["event_id"] for event in json.loads(request.content)["events"]])
        return httpx.Response(201, json={})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service") as client:
        Service(None, client).append("s", [_event(n, n, "x") for n in range(1_201)])  # type: ignore[arg-type]
    assert [len(part) for part in sent] == [500, 500, 201]
    assert [name for part in sent for name in part] == [str(n) for n in range(1_201)]
