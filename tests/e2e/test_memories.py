"""The life of a memory: written, found, edited, ended, hidden."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.server import Server, append, indexed, ok, recall, sound, texts


def add(shared: Server, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = ok(shared.http.post("/v1/memories", json={"memories": [{"kind": "fact", **fields}]}))
    return made["items"][0]  # type: ignore[no-any-return]


def found(shared: Server, query: str, **fields: Any) -> list[str]:
    return texts(recall(shared.http, query, top_k=200, **fields))


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_an_edit_is_found_at_once_and_the_old_text_is_not(shared: Server, name: str) -> None:
    memory = add(shared, text=f"The {name} drill is in the cellar.")
    path = f"/v1/memories/{memory['memory_id']}"
    assert f"The {name} drill is in the cellar." in found(shared, f"{name} drill")
    indexed(shared.http)
    first = shared.http.get(path)
    for number in range(12):
        new = f"The {name} saw number {number} hangs in the shed."
        etag = shared.http.get(path).headers["ETag"]
        ok(shared.http.patch(path, json={"text": new}, headers={"If-Match": etag}))
        listed = [text for text in found(shared, f"{name} saw number {number}") if name in text]
        assert listed == [new]
        if number % 4 == 3:
            indexed(shared.http)
            assert [text for text in found(shared, f"{name} saw") if name in text] == [new]
    stale = shared.http.patch(path, json={"text": "no"}, headers={"If-Match": first.headers["ETag"]})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    assert ok(shared.http.get(path))["version"] == 13
    indexed(shared.http)
    sound(shared.http)


def test_doubles_are_answered_with_the_first(shared: Server, name: str) -> None:
    first = add(shared, text=f"{name} likes tea.")
    again = add(shared, text=f"{name} likes tea.")
    assert (again["memory_id"], again["deduplicated"]) == (first["memory_id"], True)
    assert add(shared, text=f"{name} likes tea.", kind="note")["memory_id"] != first["memory_id"]
    private = add(shared, text=f"{name} likes tea.", visibility="private", agent_id="ann")
    assert private["memory_id"] != first["memory_id"]
    other = {"memory_id": first["memory_id"], "text": "other", "kind": "fact"}
    conflict = shared.http.post("/v1/memories", json={"memories": [other]})
    assert (conflict.status_code, conflict.json()["code"]) == (409, "memory_exists")


def test_memories_end(shared: Server, name: str) -> None:
    add(shared, text=f"{name} parks on level one.", ttl_seconds=3)
    add(shared, text=f"{name} parks on level two.", valid_to=iso(datetime.now(UTC) + timedelta(seconds=3)))
    add(shared, text=f"{name} parks on level three.", valid_from=iso(datetime.now(UTC) + timedelta(days=1)))
    assert len([text for text in found(shared, f"{name} parks") if name in text]) == 2
    time.sleep(3.2)
    assert [text for text in found(shared, f"{name} parks") if name in text] == []
    tomorrow = iso(datetime.now(UTC) + timedelta(days=2))
    assert [t for t in found(shared, f"{name} parks", as_of=tomorrow) if name in t] == [f"{name} parks on level three."]
    # What has ended does not stand in the way of saying it again.
    again = add(shared, text=f"{name} parks on level one.")
    assert again["deduplicated"] is False
    assert f"{name} parks on level one." in found(shared, f"{name} parks")


def test_as_of_sees_what_was_valid_then(shared: Server, name: str) -> None:
    memory = add(shared, text=f"{name} lives in Oslo.")
    time.sleep(0.05)
    then = iso(datetime.now(UTC))
    time.sleep(0.05)
    ok(shared.http.patch(f"/v1/memories/{memory['memory_id']}", json={"text": f"{name} lives in Bergen."}))
    assert [t for t in found(shared, f"{name} lives") if name in t] == [f"{name} lives in Bergen."]
    assert [t for t in found(shared, f"{name} lives", as_of=then) if name in t] == [f"{name} lives in Oslo."]
    early = iso(datetime(2020, 1, 1, tzinfo=UTC))
    assert [t for t in found(shared, f"{name} lives", as_of=early) if name in t] == []


def test_visibility(shared: Server, name: str) -> None:
    append(shared.http, name, "A session of its own.")
    append(shared.http, f"{name}-b", "Another session.")
    add(shared, text=f"{name} of the session", session_id=name, visibility="session")
    add(shared, text=f"{name} of the tenant")
    memory = add(shared, text=f"{name} of ann", visibility="private", agent_id="ann")

    def seen(**fields: Any) -> set[str]:
        return {t.removeprefix(f"{name} of ") for t in found(shared, name, **fields) if t.startswith(f"{name} of")}

    assert seen() == {"the session", "the tenant"}
    assert seen(agent_id="ann") == {"the session", "the tenant", "ann"}
    assert seen(agent_id="bob", session_ids=[f"{name}-b"]) == {"the tenant"}
    assert seen(agent_id="ann", session_ids=[name]) == {"the session", "the tenant", "ann"}
    path = f"/v1/memories/{memory['memory_id']}"
    assert shared.http.patch(path, json={"text": "x"}, headers={"X-Agent-Id": "bob"}).status_code == 404
    assert shared.http.delete(path, headers={"X-Agent-Id": "bob"}).status_code == 404
    ok(shared.http.patch(path, json={"visibility": "tenant"}, headers={"X-Agent-Id": "ann"}))
    assert seen(agent_id="bob") == {"the session", "the tenant", "ann"}
