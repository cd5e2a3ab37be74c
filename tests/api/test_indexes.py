"""Indexes are rebuilt and verified as operations, over HTTP, in the real service."""

import time
from typing import Any

import httpx
import pytest

from memory.domain.principals import KeyScope


@pytest.fixture
def http(service: str) -> Any:
    with httpx.Client(base_url=service) as made:
        made.post("/v1/sessions/indexed/events", json={"events": [{"role": "user", "content": "the xylophone"}] * 3})
        yield made


def finished(http: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/operations/{answer.json()['operation_id']}"
    for _ in range(200):
        operation: dict[str, Any] = http.get(answer.headers["Location"]).json()
        if operation["state"] not in ("queued", "running"):
            return operation
        time.sleep(0.05)
    raise AssertionError(f"it is not over: {operation}")


@pytest.mark.parametrize("name", ["vectors", "lexical"])
def test_an_index_is_rebuilt_and_found_sound(http: httpx.Client, name: str) -> None:
    rebuilt = finished(http, http.post(f"/v1/admin/indexes/{name}/rebuild"))
    assert (rebuilt["kind"], rebuilt["state"]) == ("rebuild", "succeeded")
    assert rebuilt["progress"]["done"] == rebuilt["progress"]["total"] > 0
    verified = finished(http, http.post(f"/v1/admin/indexes/{name}/verify"))
    result = verified["result"]
    assert (result["index"], result["sound"], result["problems"]) == (name, True, [])
    assert (result["covers"], result["node"]) == ("this node", "port-0")
    found = http.post("/v1/recall", json={"query": "xylophone"}).json()
    assert len(found["results"]) >= 3
    assert not found["degraded"]


def test_what_all_processes_share_is_left_to_a_worker(http: httpx.Client) -> None:
    answer = http.post("/v1/admin/indexes/semantic/verify")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert "result" not in answer.json()  # until it is over
    assert http.delete(answer.headers["Location"]).status_code == 200


def test_an_unknown_index_is_refused_and_the_known_ones_are_named(http: httpx.Client) -> None:
    for verb in ("rebuild", "verify"):
        answer = http.post(f"/v1/admin/indexes/words/{verb}")
        assert answer.status_code == 422
        assert "'vectors', 'lexical' or 'semantic'" in answer.text


def test_only_an_administrator_may_ask_for_it(client: Any, container: Any) -> None:
    from memory.domain.principals import Principal

    async def writer(token: str) -> Principal:
        return Principal("default", frozenset({KeyScope.READ, KeyScope.WRITE}))

    container.keys = type("Keys", (), {"authenticate": staticmethod(writer)})()
    answer = client.post("/v1/admin/indexes/vectors/rebuild", headers={"Authorization": "Bearer sm_x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert not container.indexes.calls


def test_only_what_has_failed_is_tried_again(http: httpx.Client) -> None:
    done = finished(http, http.post("/v1/admin/indexes/lexical/verify"))
    answer = http.post(f"/v1/operations/{done['operation_id']}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert http.post("/v1/operations/absent/retry").status_code == 404
