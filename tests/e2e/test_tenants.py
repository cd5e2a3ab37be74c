"""I3 over HTTP: two tenants, two agents, the same words; nothing crosses, and `top_k` is met all the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, append, context, events_of, indexed, keys_create, ok, recall, said, sound, texts


@dataclass(frozen=True)
class Callers:
    """Clients of keys: `acme` and `globex` unbound with all scopes; `ann` and `bob` bound, of acme."""

    acme: httpx.Client
    globex: httpx.Client
    ann: httpx.Client
    bob: httpx.Client
    limited: httpx.Client
    reader: httpx.Client
    nobody: httpx.Client


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    data = tmp_path_factory.mktemp("tenants") / "data"
    data.mkdir()

    def key(*options: str) -> str:
        return keys_create(data, *options)

    everything = ("--scopes", "read,write,admin")
    tokens = [
        key("--tenant", "acme", *everything),
        key("--tenant", "globex", *everything),
        key("--tenant", "acme", "--agent", "ann"),
        key("--tenant", "acme", "--agent", "bob"),
        key("--tenant", "acme", "--session", "plans"),
        key("--tenant", "acme", "--scopes", "read"),
    ]
    with Server(data, AUTH="required") as server:
        yield Callers(*(server.client(token) for token in tokens), nobody=server.client())


@pytest.fixture(scope="module")
def filled(callers: Callers) -> dict[str, Any]:
    """The same sessions, events and texts in both tenants; what only acme has says so."""
    made: dict[str, Any] = {}
    for http, tenant in ((callers.acme, "acme"), (callers.globex, "globex")):
        for session in ("plans", "diary"):
            log = [said(f"The budget meeting of {tenant} is on Monday, item {n}.", event_id=f"e{n}") for n in range(8)]
            append(http, session, *log)
        body = {"text": f"The budget of {tenant} is tight.", "kind": "fact"}
        made[tenant] = ok(http.post("/v1/memories", json={"memories": [body]}))["items"][0]["memory_id"]
    append(callers.ann, "plans", said("ann's private budget is 500", visibility="private", event_id="ann-1"))
    append(callers.bob, "plans", said("bob says budgets are boring", event_id="bob-1"))
    append(callers.ann, "plans", said("ann's private budget rose to 600", visibility="private", event_id="ann-2"))
    private = {"text": "ann hides the budget sheet", "kind": "note", "visibility": "private"}
    made["ann"] = ok(callers.ann.post("/v1/memories", json={"memories": [private]}))["items"][0]["memory_id"]
    for http in (callers.acme, callers.globex):
        indexed(http)
    return made


def test_recall_stays_in_the_tenant(callers: Callers, filled: dict[str, Any]) -> None:
    for http, mine, other in ((callers.acme, "acme", "globex"), (callers.globex, "globex", "acme")):
        for ids in (None, ["plans"], ["plans", "diary"]):
            found = texts(recall(http, f"budget meeting of {other} on Monday", top_k=200, session_ids=ids))
            assert any(mine in text for text in found)
            assert not any(other in text for text in found)
    # 8 + 8 + bob's, and one memory: no more, no less
    assert len(recall(callers.acme, "budget", top_k=200)) == 18
    assert len(recall(callers.globex, "budget", top_k=200)) == 17


def test_context_and_lists_stay_in_the_tenant(callers: Callers, filled: dict[str, Any]) -> None:
    for http, other in ((callers.acme, "globex"), (callers.globex, "acme")):
        ready = context(http, "plans", 600, query=f"the budget meeting of {other}")
        assert not any(other in m["content"] for m in ready["messages"][:-1])
        assert not any(other in source["text"] for source in ready["sources"])
        assert {s["session_id"] for s in ok(http.get("/v1/sessions"))["items"]} == {"plans", "diary"}
        assert not any(other in m["text"] for m in ok(http.get("/v1/memories"))["items"])
        assert not any(other in e["content"] for e in events_of(http, "plans"))
    assert ok(callers.globex.get("/v1/sessions/plans"))["event_count"] == 8
    seen = ok(callers.globex.get("/v1/admin/overview"))
    assert (seen["events"], seen["tenants"], seen["database_bytes"]) == (16, 1, None)
    assert ok(callers.acme.get("/v1/admin/overview"))["events"] == 19
    for http, items in ((callers.acme, 21), (callers.globex, 17)):
        assert sound(http)["longterm"]["items"] == items


def test_what_another_tenant_has_is_not_there(callers: Callers, filled: dict[str, Any]) -> None:
    append(callers.acme, "only-acme", "Only here.")
    indexed(callers.acme)
    operation = ok(callers.acme.get("/v1/operations"))["items"][0]["operation_id"]
    assert ok(callers.acme.get(f"/v1/operations/{operation}"))["state"] == "succeeded"
    for method, path, body in (
        ("GET", "/v1/sessions/only-acme", None),
        ("PATCH", "/v1/sessions/only-acme", {"title": "mine"}),
        ("DELETE", "/v1/sessions/only-acme", None),
        ("GET", "/v1/sessions/only-acme/events", None),
        ("POST", "/v1/sessions/only-acme/context", {"max_tokens": 100}),
        ("POST", "/v1/recall", {"query": "only", "session_ids": ["only-acme"]}),
        ("GET", "/v1/memories?session_id=only-acme", None),
        ("GET", f"/v1/memories/{filled['acme']}", None),
        ("PATCH", f"/v1/memories/{filled['acme']}", {"text": "mine"}),
        ("DELETE", f"/v1/memories/{filled['acme']}", None),
        ("GET", f"/v1/operations/{operation}", None),
        ("DELETE", f"/v1/operations/{operation}", None),
        ("GET", "/v1/admin/sessions/only-acme/tiers", None),
    ):
        answer = callers.globex.request(method, path, json=body)
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"
        absent = callers.globex.request(method, path.replace("only-acme", "no-such"), json=body)
        assert answer.json()["code"] == absent.json()["code"] == "not_found"
    jobs = ok(callers.globex.get("/v1/admin/jobs"))["items"]
    assert operation not in [job["operation_id"] for job in jobs]
    assert not [job for job in jobs if job["session_id"] == "only-acme"]
    ok(callers.acme.delete("/v1/sessions/only-acme"))


def test_private_events_are_their_authors_alone(callers: Callers, filled: dict[str, Any]) -> None:
    secret = "ann's private"
    for http in (callers.bob, callers.acme, callers.limited, callers.reader):
        for query in ("ann's private budget is 500", "budgets are boring", "hides the budget sheet"):
            answer = ok(http.post("/v1/recall", json={"query": query, "top_k": 200, "explain": True}))
            assert secret not in str(answer)
            assert "ann hides" not in str(answer)
        assert secret not in str(events_of(http, "plans"))
        ready = ok(http.post("/v1/sessions/plans/context", json={"max_tokens": 4000, "query": "ann's budget"}))
        assert secret not in str(ready)
        assert filled["ann"] not in str(ok(http.get("/v1/memories")))
        assert http.get(f"/v1/memories/{filled['ann']}").status_code == 404
    ann = callers.ann
    assert texts(recall(ann, "private budget 600", top_k=1)) == ["ann's private budget rose to 600"]
    assert secret in str(context(ann, "plans", 4000))
    assert len(events_of(ann, "plans")) == 11
    assert ann.get(f"/v1/memories/{filled['ann']}").status_code == 200
    # An unbound key may say whom it acts as: that is its tenant's own affair.
    assert secret in str(recall(callers.acme, "private budget", agent_id="ann", top_k=200))
    assert secret not in str(recall(callers.globex, "private budget", agent_id="ann", top_k=200))
    clusters = str(ok(callers.acme.get("/v1/admin/sessions/plans/tiers"))["semantic"]["clusters"])
    assert "'seqs': [9" not in clusters


def test_a_bound_key_is_no_one_else(callers: Callers, filled: dict[str, Any]) -> None:
    ann, bob_header = callers.ann, {"X-Agent-Id": "bob"}
    event = said("forged", agent_id="bob")
    assert ann.post("/v1/sessions/plans/events", json={"events": [event]}).status_code == 403
    plain = {"events": [said("forged")]}
    assert ann.post("/v1/sessions/plans/events", json=plain, headers=bob_header).status_code == 403
    assert ann.post("/v1/recall", json={"query": "x", "agent_id": "bob"}).status_code == 403
    assert ann.post("/v1/recall", json={"query": "x"}, headers=bob_header).status_code == 403
    assert ann.post("/v1/sessions/plans/context", json={"max_tokens": 9, "agent_id": "bob"}).status_code == 403
    note = {"memories": [{"text": "forged", "kind": "note", "agent_id": "bob"}]}
    assert ann.post("/v1/memories", json=note).status_code == 403
    assert "forged" not in str(recall(callers.acme, "forged", top_k=200))


def test_keys_reach_what_they_name(callers: Callers, filled: dict[str, Any]) -> None:
    limited, reader = callers.limited, callers.reader
    assert limited.get("/v1/sessions/diary").status_code == 404
    assert limited.post("/v1/recall", json={"query": "x", "session_ids": ["diary"]}).status_code == 404
    assert limited.post("/v1/sessions/new/events", json={"events": [said("x")]}).status_code == 404
    assert limited.post("/v1/sessions/diary/context", json={"max_tokens": 100}).status_code == 404
    assert limited.post("/v1/sessions/diary/fork", json={"session_id": "plans"}).status_code == 404
    assert limited.post("/v1/sessions/plans/fork", json={"session_id": "elsewhere"}).status_code == 403
    assert limited.get("/v1/sessions/diary/kv").status_code == 404
    assert not {o["session_id"] for o in ok(limited.get("/v1/operations"))["items"]} - {"plans"}
    assert {s["session_id"] for s in ok(limited.get("/v1/sessions"))["items"]} == {"plans"}
    assert {r["session_id"] for r in recall(limited, "budget", top_k=200)} == {"plans", None}
    assert reader.post("/v1/sessions/plans/events", json={"events": [said("x")]}).status_code == 403
    assert reader.get("/v1/admin/overview").status_code == 403
    assert callers.nobody.get("/v1/sessions").status_code == 401
    assert callers.nobody.post("/v1/recall", json={"query": "x"}).status_code == 401


def test_top_k_is_met_in_one_of_many_sessions(callers: Callers) -> None:
    for number in range(60):
        log = [said(f"Session {number} talks of trains and of the weather, line {n}.") for n in range(10)]
        append(callers.globex, f"many-{number}", *log)
    for number in (0, 31, 59):
        found = recall(callers.globex, "trains in Italy", session_ids=[f"many-{number}"], top_k=10, kinds=["event"])
        assert [r["session_id"] for r in found] == [f"many-{number}"] * 10
    assert len(recall(callers.globex, "trains in Italy", top_k=200)) == 200
    indexed(callers.globex, 120)
    found = recall(callers.globex, "trains in Italy", session_ids=["many-7"], top_k=10, kinds=["event"])
    assert len(found) == 10
    assert len(recall(callers.globex, "trains in Italy", top_k=200)) == 200
    assert sound(callers.globex)["longterm"]["pending"] == 0
