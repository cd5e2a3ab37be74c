"""The life of a memory over HTTP: what it said, what took its place, and what is undone."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture
def http(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


def add(http: httpx.Client, text: str, **options: Any) -> dict[str, Any]:
    sent = {"text": text, "kind": "fact", **options}
    answer = http.post("/v1/memories", json={"memories": [sent]})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()["items"][0]
    return made


def found(http: httpx.Client, query: str, **options: Any) -> list[str]:
    answer = http.post("/v1/recall", json={"query": query, "kinds": ["fact"], **options})
    return [result["text"] for result in answer.json()["results"] if query.split()[0] in result["text"]]


def test_what_was_superseded_is_kept_shown_by_date_and_restored(http: httpx.Client) -> None:
    old = add(http, "Mirela lives in Oslo.")
    path = f"/v1/memories/{old['memory_id']}"
    then = http.post("/v1/recall", json={"query": "Mirela"}, headers={"X-Agent-Id": "ann"})
    assert then.status_code == 200
    body = {"text": "Mirela lives in Bergen.", "reason": "she moved"}
    answer = http.post(f"{path}/supersede", json=body, headers={"X-Agent-Id": "ann"})
    assert answer.status_code == 201
    new = answer.json()
    assert answer.headers["location"] == f"/v1/memories/{new['memory_id']}"
    assert answer.headers["etag"] == http.get(answer.headers["location"]).headers["etag"]
    before = http.get(path).json()
    assert (before["superseded_by"], new["supersedes"]) == (new["memory_id"], old["memory_id"])
    assert before["valid_to"] == new["valid_from"]
    assert found(http, "Mirela lives") == ["Mirela lives in Bergen."]
    assert found(http, "Mirela lives", as_of=old["created_at"]) == ["Mirela lives in Oslo."]
    refused = http.post(f"{path}/supersede", json={"text": "Mirela lives in Rome."})
    assert (refused.status_code, refused.json()["code"]) == (409, "memory_superseded")
    restored = http.post(f"{path}/restore")
    assert (restored.status_code, restored.json()["superseded_by"], restored.json()["valid_to"]) == (200, None, None)
    assert found(http, "Mirela lives") == ["Mirela lives in Oslo."]
    again = http.post(f"{path}/restore", json={"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "not_superseded")
    history = http.get(f"{path}/history").json()["items"]
    assert [(version["version"], version["changed_by"], version["reason"]) for version in history] == [
        (1, None, None),
        (2, "ann", "she moved"),
        (3, None, None),
    ]


def test_a_history_is_paged(http: httpx.Client) -> None:
    path = f"/v1/memories/{add(http, 'Version one of the paged.')['memory_id']}"
    for number in range(2, 6):
        assert http.patch(path, json={"text": f"Version {number} of the paged."}).status_code == 200
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = http.get(f"{path}/history", params=params).json()
        seen += [version["version"] for version in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == [1, 2, 3, 4, 5]
    other = f"/v1/memories/{add(http, 'Another than the paged.')['memory_id']}/history"
    assert http.get(other, params={"cursor": params["cursor"]}).json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("supersede", {}, 422),
        ("supersede", {"text": "  "}, 422),
        ("supersede", {"text": "new", "kind": "note"}, 422),
        ("supersede", {"text": "new", "reason": "x" * 1_025}, 422),
        ("restore", {"text": "new"}, 422),
        ("restore", [], 422),
    ],
)
def test_what_does_not_fit_is_refused(http: httpx.Client, path: str, body: Any, status: int) -> None:
    memory_id = add(http, f"Something to be refused with {path}.")["memory_id"]
    assert http.post(f"/v1/memories/{memory_id}/{path}", json=body).status_code == status


def test_what_is_absent_has_no_history_and_no_successor(http: httpx.Client) -> None:
    assert http.get("/v1/memories/absent/history").status_code == 404
    assert http.post("/v1/memories/absent/supersede", json={"text": "new"}).status_code == 404
    assert http.post("/v1/memories/absent/restore").status_code == 404


def test_a_change_under_an_old_etag_is_refused(http: httpx.Client) -> None:
    memory = add(http, "Something under an old tag.")
    path = f"/v1/memories/{memory['memory_id']}"
    for action, body in (("supersede", {"text": "new under an old tag"}), ("restore", None)):
        answer = http.post(f"{path}/{action}", json=body, headers={"If-Match": '"0-9"'})
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")


def test_a_policy_is_shown_first_and_then_purges_with_a_receipt(http: httpx.Client) -> None:
    for number in range(3):
        add(http, f"Forgettable number {number}.", metadata={"batch": "api"})
    pinned = add(http, "Forgettable but pinned.", metadata={"batch": "api"}, pinned=True)["memory_id"]
    policy = {"filter": {"field": "metadata.batch", "op": "eq", "value": "api"}, "keep_top": 2}
    shown = http.post("/v1/memories/forget", json={"policy": policy})
    assert shown.status_code == 200, shown.text
    body = shown.json()
    assert (body["dry_run"], body["considered"], body["pinned"], body["total"]) == (True, 4, 1, 2)
    assert body["by_rule"] == {"keep_top": 2}
    assert all(item["reasons"][0]["rule"] == "keep_top" for item in body["items"])
    assert "receipt" not in body
    assert len(found(http, "Forgettable number")) == 4
    done = http.post("/v1/memories/forget", json={"policy": policy, "dry_run": False})
    if done.status_code == 202:
        assert done.headers["location"] == f"/v1/operations/{done.json()['operation_id']}"
    else:
        assert done.json()["receipt"]["purged"]["memories"] == 2
        assert done.json()["receipt"]["verified"] is True
    assert len(found(http, "Forgettable number")) == 2
    assert http.get(f"/v1/memories/{pinned}").status_code == 200


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"max_age_days": -1},
        {"max_age_days": True},
        {"keep_top": 1.5},
        {"redundancy": 1.1},
        {"kinds": ["event"]},
        {"kinds": []},
        {"filter": {"field": "text", "op": "eq", "value": "x"}},
        {"older_than": 3},
    ],
)
def test_a_policy_that_says_nothing_or_nonsense_is_refused(http: httpx.Client, policy: dict[str, Any]) -> None:
    answer = http.post("/v1/memories/forget", json={"policy": policy})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_a_filter_over_a_whole_tenant_follows_every_edit(http: httpx.Client) -> None:
    old = add(http, "Zebediah keeps bees.", metadata={"shelf": "low"})
    path = f"/v1/memories/{old['memory_id']}"

    def on(shelf: str) -> list[str]:
        condition = {"field": "metadata.shelf", "op": "eq", "value": shelf}
        return found(http, "Zebediah keeps", filter=condition)

    assert (on("low"), on("high")) == (["Zebediah keeps bees."], [])
    http.patch(path, json={"metadata": {"shelf": "high"}})
    assert (on("low"), on("high")) == ([], ["Zebediah keeps bees."])
    add(http, "Zebediah keeps goats.", metadata={"shelf": "high"})
    assert sorted(on("high")) == ["Zebediah keeps bees.", "Zebediah keeps goats."]
    http.patch(path, json={"metadata": {}})
    assert (on("low"), on("high")) == ([], ["Zebediah keeps goats."])
