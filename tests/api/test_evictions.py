"""Moves between tiers over HTTP: what operators see, ask and may not ask."""

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from memory.domain.errors import NoModelConfigured, NotFound
from memory.domain.kv import BlockMove
from memory.domain.moves import Move, NewMove, Parts, PolicyName, Reason
from memory.domain.principals import KeyScope, Principal
from memory.domain.recall import TierName
from memory.services.evictions import Candidate, Preview, Wanted

PARTS = Parts(recency=-0.5, use=0.25, importance=3.0, cost=-11.0, redundancy=-0.75)


def move(key: int, noon: Any, **changes: Any) -> Move:
    values: dict[str, Any] = {
        "session_key": 1,
        "audience": "private:ann",
        "origin": TierName.SEMANTIC,
        "target": TierName.LONGTERM,
        "reason": Reason.REDUNDANT,
        "first_seq": 3,
        "last_seq": 3,
        "pieces": 1,
        "size": 512,
        "unit": "bytes",
        "score": -9.0,
        "parts": PARTS,
        "cluster_key": 7,
    }
    return Move(key, "s1", noon, NewMove(**(values | changes)))


def test_a_move_is_shown_with_reason_size_and_time(client: TestClient, container: Any, make: Any) -> None:
    slid = move(
        8, make.noon, origin=TierName.HOT, target=TierName.SEMANTIC, reason=Reason.WINDOW_SLID, score=None, parts=None
    )
    container.evictions.answers = {"page": [slid, move(7, make.noon)]}
    page = client.get("/v1/admin/evictions").json()
    assert page["next_cursor"] is None
    first, second = page["items"]
    assert (first["origin"], first["target"], first["reason"]) == ("hot", "semantic", "window_slid")
    assert (first["score"], first["parts"]) == (None, None)
    assert second == {
        "move_id": "7",
        "at": "2026-03-31T12:00:00Z",
        "session_id": "s1",
        "origin": "semantic",
        "target": "longterm",
        "reason": "redundant",
        "first_seq": 3,
        "last_seq": 3,
        "pieces": 1,
        "size": 512,
        "unit": "bytes",
        "score": -9.0,
        "parts": {"recency": -0.5, "use": 0.25, "importance": 3.0, "cost": -11.0, "redundancy": -0.75},
        "cluster": 7,
    }


def test_moves_are_paged(client: TestClient, container: Any, make: Any) -> None:
    container.evictions.answers = {"page": [move(9, make.noon), move(8, make.noon), move(7, make.noon)]}
    page = client.get("/v1/admin/evictions", params={"limit": 2, "session_id": "s1"}).json()
    assert [item["move_id"] for item in page["items"]] == ["9", "8"]
    _, (_, session_id), options = container.evictions.last
    assert (session_id, options) == ("s1", {"before_key": None, "limit": 3})
    client.get("/v1/admin/evictions", params={"cursor": page["next_cursor"]})
    _, (_, session_id), options = container.evictions.last
    assert (session_id, options["before_key"]) == (None, 8)


def test_a_preview_asks_for_the_semantic_tier_unless_told_otherwise(client: TestClient, container: Any) -> None:
    leaving = (Candidate(3, 3, Reason.REDUNDANT, 1, -9.0, PARTS, like_seq=5, uses=2),)
    answer = Preview("s1", TierName.SEMANTIC, PolicyName.LRU_SIMILARITY, 4, 5, "segments", 1, leaving, 16.4e-6)
    container.evictions.answers = {"preview": answer}
    shown = client.post("/v1/admin/evictions/preview", json={"session_id": "s1"}).json()
    assert container.evictions.last[1][1] == Wanted("s1")
    assert (shown["capacity"], shown["held"], shown["would_leave"], shown["note"]) == (4, 5, 1, None)
    assert (shown["leaving"][0]["like_seq"], shown["leaving"][0]["parts"]["redundancy"]) == (5, -0.75)
    body = {"session_id": "s1", "tier": "hot", "policy": "fifo", "capacity": 0}
    client.post("/v1/admin/evictions/preview", json=body)
    assert container.evictions.last[1][1] == Wanted("s1", TierName.HOT, PolicyName.FIFO, 0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"session_id": "../etc"},
        {"session_id": "s1", "tier": "warm"},
        {"session_id": "s1", "policy": "clock"},
        {"session_id": "s1", "capacity": -1},
        {"session_id": "s1", "capacity": 10**12},
        {"session_id": "s1", "capacity": 1.5},
        {"session_id": "s1", "weights": {"use": 9}},
        [],
    ],
)
def test_what_is_no_preview_is_refused(client: TestClient, container: Any, body: Any) -> None:
    answer = client.post("/v1/admin/evictions/preview", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not container.evictions.calls


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"cursor": "WyJzZXNzaW9ucyIsMV0"}, 422, "invalid_cursor"),  # of another list
        ({"limit": 0}, 422, None),
        ({"limit": 501}, 422, None),
        ({"session_id": "a b"}, 422, None),
    ],
)
def test_what_is_no_page_is_refused(
    client: TestClient, container: Any, params: dict[str, Any], status: int, code: str | None
) -> None:
    answer = client.get("/v1/admin/evictions", params=params)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code
    assert not container.evictions.calls


def test_moves_of_blocks_are_shown_or_it_is_said_why_there_are_none(
    client: TestClient, container: Any, make: Any
) -> None:
    container.evictions.answers = {"blocks": [BlockMove(make.noon, "device", None, "purged", 4, 4_096)]}
    assert client.get("/v1/admin/evictions/blocks").json() == {
        "items": [
            {
                "at": "2026-03-31T12:00:00Z",
                "origin": "device",
                "target": None,
                "reason": "purged",
                "blocks": 4,
                "bytes": 4_096,
            }
        ],
        "next_cursor": None,
    }
    container.evictions.answers = {"blocks": NoModelConfigured()}
    answer = client.get("/v1/admin/evictions/blocks")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model_configured")


def test_an_absent_session_is_named(client: TestClient, container: Any) -> None:
    container.evictions.answers = {name: NotFound("there is no session 'x'") for name in ("page", "preview")}
    for answer in (
        client.get("/v1/admin/evictions", params={"session_id": "x"}),
        client.post("/v1/admin/evictions/preview", json={"session_id": "x"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_only_an_administrator_may_look(client: TestClient, container: Any) -> None:
    async def writer(token: str) -> Principal:
        return Principal("default", frozenset({KeyScope.READ, KeyScope.WRITE}))

    container.keys = type("Keys", (), {"authenticate": staticmethod(writer)})()
    with_key = {"Authorization": "Bearer sm_x"}
    for answer in (
        client.get("/v1/admin/evictions", headers=with_key),
        client.get("/v1/admin/evictions/blocks", headers=with_key),
        client.post("/v1/admin/evictions/preview", json={"session_id": "s1"}, headers=with_key),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert not container.evictions.calls


def test_the_real_service_answers_both(service: str) -> None:
    with httpx.Client(base_url=service) as http:
        assert http.get("/v1/admin/evictions/blocks").status_code == 200
        said = {"events": [{"role": "user", "content": f"the xylophone {n}"} for n in range(3)]}
        http.post("/v1/sessions/moving/events", json=said)
        assert http.get("/v1/admin/evictions", params={"session_id": "moving"}).status_code == 200
        answer = http.post("/v1/admin/evictions/preview", json={"session_id": "moving", "tier": "longterm"})
        assert (answer.status_code, answer.json()["held"]) == (200, 3)
        for tier in ("hot", "semantic"):
            answer = http.post("/v1/admin/evictions/preview", json={"session_id": "moving", "tier": tier})
            assert (answer.status_code, answer.json()["would_leave"]) == (200, 0), answer.text
