"""Operators make, list and revoke keys over HTTP; who is somebody's within the tenant can't make itself more."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from memory.domain.principals import ALL_SCOPES
from memory.settings import AuthMode, Settings

KEYS = "/v1/admin/keys"


@pytest.fixture
def guarded(make: Any, tmp_path: Any) -> Iterator[TestClient]:
    container = make.container(Settings(data_dir=tmp_path, auth=AuthMode.REQUIRED, _env_file=None))
    container.sessions.answers = {"page": []}
    with TestClient(create_app(container), base_url="http://127.0.0.1") as client:
        client.container = container
        yield client


def bearer(client: Any, tenant: str = "acme", scopes: Any = ALL_SCOPES, **bounds: Any) -> dict[str, str]:
    made = asyncio.run(client.container.keys.create(tenant, scopes, **bounds))
    return {"Authorization": f"Bearer {made.token}"}


def test_a_key_is_made_shown_once_used_listed_and_revoked(guarded: Any) -> None:
    admin = bearer(guarded)
    wanted = {
        "scopes": ["read"],
        "name": "Ann's laptop",
        "agent_id": "ann",
        "session_ids": ["s2", "s1"],
        "expires_at": "2100-01-01T00:00:00Z",
    }
    made = guarded.post(KEYS, json=wanted, headers=admin)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    shown = made.json()
    token = shown.pop("token")
    assert token.startswith(shown["prefix"] + "_")
    assert {**shown, "session_ids": ["s2", "s1"]} == {**shown, **wanted}
    own = {"Authorization": f"Bearer {token}"}
    assert guarded.get("/v1/sessions", headers=own).status_code == 200

    listed = guarded.get(KEYS, headers=admin)
    assert listed.json()["items"][0] == shown
    assert len(listed.json()["items"]) == 2
    assert token[16:] not in listed.text

    revoked = guarded.delete(f"{KEYS}/{shown['key_id']}", headers=admin)
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"] is not None
    assert guarded.get("/v1/sessions", headers=own).status_code == 401
    assert guarded.get(KEYS, headers=admin).json()["items"][0]["revoked_at"] == revoked.json()["revoked_at"]


def test_keys_are_listed_in_pages(guarded: Any) -> None:
    headers = [bearer(guarded) for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = guarded.get(KEYS, headers=headers[0], params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [key["key_id"] for key in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert seen == [one["Authorization"][10:22] for one in headers[::-1]]


def test_another_tenants_keys_are_not_there(guarded: Any) -> None:
    mine, theirs = bearer(guarded), bearer(guarded, "globex")
    key_id = theirs["Authorization"][10:22]
    refused = guarded.delete(f"{KEYS}/{key_id}", headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert key_id not in guarded.get(KEYS, headers=mine).text
    assert guarded.get(KEYS, headers=theirs).status_code == 200


@pytest.mark.parametrize("bounds", [{"agent_id": "ann"}, {"session_ids": ["s1"]}, {"scopes": ["read", "write"]}])
def test_a_key_that_is_bound_can_not_make_a_stronger_one(guarded: Any, bounds: dict[str, Any]) -> None:
    limited = bearer(guarded, **bounds)
    for method, path, body in (
        ("POST", KEYS, {"scopes": ["admin"]}),
        ("GET", KEYS, None),
        ("DELETE", f"{KEYS}/{limited['Authorization'][10:22]}", None),
    ):
        refused = guarded.request(method, path, json=body, headers=limited)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert len(guarded.container.store.stored) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": ["read"], "tenant_id": "globex"},
        {"scopes": ["read"], "agent_id": "../etc"},
        {"scopes": ["read"], "session_ids": []},
        {"scopes": ["read"], "session_ids": ["a b"]},
        {"scopes": ["read"], "session_ids": [f"s{n}" for n in range(1_001)]},
        {"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"scopes": ["read"], "expires_at": 4_102_444_800},
        {"scopes": ["read"], "name": ""},
        {"scopes": ["read"], "name": "x" * 257},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(guarded: Any, bad: dict[str, Any]) -> None:
    assert guarded.post(KEYS, json=bad, headers=bearer(guarded)).status_code == 422
    assert len(guarded.container.store.stored) == 1
