"""Who gets in, as whom, and who does not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from memory.domain.errors import IdentityUnavailable
from memory.domain.principals import KeyScope, Principal
from memory.settings import AuthMode, Settings

SCOPES = frozenset(KeyScope)


@pytest.fixture
def guarded(make: Any, tmp_path: Any) -> Iterator[TestClient]:
    """A server that needs keys."""
    container = make.container(Settings(data_dir=tmp_path, auth=AuthMode.REQUIRED, _env_file=None))
    container.sessions.answers = {"page": [], "create": make.view()}
    container.events.answers = {"page": []}
    container.admin.answers = {"overview": {}}
    with TestClient(create_app(container), base_url="http://127.0.0.1") as client:
        client.container = container
        yield client


def key_of(client: Any, scopes: Any = SCOPES, **bounds: Any) -> dict[str, str]:
    made = asyncio.run(client.container.keys.create("acme", scopes, **bounds))
    return {"Authorization": f"Bearer {made.token}"}


def caller(service: Any) -> Any:
    return service.last[1][0]


def test_without_keys_everybody_on_this_machine_is_the_default_tenant(client: Any, container: Any) -> None:
    assert client.get("/v1/sessions").status_code == 200
    assert caller(container.sessions).tenant_id == "default"
    assert caller(container.sessions).scopes == SCOPES


@pytest.mark.parametrize(
    "header", ["Bearer sk-openai", "Bearer", "Basic dTpw", "Bearer ungültig".encode().decode("latin-1")]
)
def test_a_foreign_authorization_header_is_ignored_where_no_key_is_needed(client: Any, header: str) -> None:
    assert client.get("/v1/sessions", headers={"Authorization": header.encode("latin-1")}).status_code == 200


def test_a_key_of_ours_is_checked_even_where_none_is_needed(client: Any, container: Any) -> None:
    made = asyncio.run(container.keys.create("acme", [KeyScope.READ]))
    assert client.get("/v1/sessions", headers={"Authorization": f"Bearer {made.token}"}).status_code == 200
    assert caller(container.sessions).tenant_id == "acme"
    refused = client.get("/v1/sessions", headers={"Authorization": f"Bearer {made.token[:-1]}!"})
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-openai"}, {"Authorization": "Basic dTpw"}])
def test_a_needed_key_that_is_missing_or_foreign_is_refused(guarded: Any, headers: dict[str, str]) -> None:
    answer = guarded.get("/v1/sessions", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "stratamem keys create" in answer.json()["detail"]


def test_an_unknown_key_is_refused(guarded: Any) -> None:
    unknown = f"sm_{'a' * 12}_{'b' * 43}"
    assert guarded.get("/v1/sessions", headers={"Authorization": f"Bearer {unknown}"}).status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path", "allowed"),
    [
        (KeyScope.READ, "GET", "/v1/sessions", True),
        (KeyScope.READ, "POST", "/v1/sessions", False),
        (KeyScope.READ, "GET", "/v1/admin/overview", False),
        (KeyScope.WRITE, "GET", "/v1/sessions", False),
        (KeyScope.WRITE, "POST", "/v1/sessions", True),
        (KeyScope.ADMIN, "GET", "/v1/admin/overview", True),
        (KeyScope.ADMIN, "GET", "/v1/sessions", False),
    ],
)
def test_each_scope_opens_its_own_doors_only(
    guarded: Any, scope: KeyScope, method: str, path: str, allowed: bool
) -> None:
    answer = guarded.request(method, path, headers=key_of(guarded, [scope]))
    assert answer.is_success if allowed else answer.status_code == 403, answer.text
    assert allowed or (answer.json()["code"] == "forbidden" and "scope" in answer.json()["detail"])


def test_a_bound_key_acts_as_its_agent_and_no_other(guarded: Any) -> None:
    headers = key_of(guarded, agent_id="ann", session_ids=["s1"])
    assert guarded.get("/v1/sessions", headers=headers).status_code == 200
    principal = caller(guarded.container.sessions)
    assert (principal.agent_id, principal.bound, principal.session_ids) == ("ann", True, frozenset({"s1"}))
    assert guarded.get("/v1/sessions", headers={**headers, "X-Agent-Id": "ann"}).status_code == 200
    assert guarded.get("/v1/sessions", headers={**headers, "X-Agent-Id": "bob"}).status_code == 403
    as_bob = {"query": "?", "agent_id": "bob"}
    assert guarded.post("/v1/recall", json=as_bob, headers=headers).status_code == 403
    assert guarded.post("/v1/sessions/s1/context", json={**as_bob, "max_tokens": 9}, headers=headers).status_code == 403
    chat = {"model": "m", "messages": [{"role": "user", "content": "?"}], "memory_key": "s1", "agent_id": "bob"}
    assert guarded.post("/v1/chat/completions", json=chat, headers=headers).status_code == 403


def test_the_header_names_the_acting_agent(client: Any, container: Any) -> None:
    assert client.get("/v1/sessions", headers={"X-Agent-Id": "ann"}).status_code == 200
    assert caller(container.sessions).agent_id == "ann"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recall", {"query": "?"}),
        ("/v1/sessions/s1/context", {"max_tokens": 9}),
        ("/v1/chat/completions", {"model": "m", "memory_key": "s1", "messages": [{"role": "user", "content": "?"}]}),
    ],
)
def test_a_header_and_a_body_that_name_two_agents_are_refused(client: Any, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json={**body, "agent_id": "bob"}, headers={"X-Agent-Id": "ann"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "ann" in answer.json()["detail"]


def test_an_agent_may_append_what_another_said(client: Any, container: Any) -> None:
    event = {"role": "user", "content": "x", "agent_id": "bob"}
    answer = client.post("/v1/sessions/s1/events", json={"events": [event]}, headers={"X-Agent-Id": "ann"})
    assert answer.status_code == 201


class Tokens:
    """Believes one token."""

    async def verify(self, token: str) -> Principal | None:
        if token == "a.way.off":
            raise IdentityUnavailable("the issuer is away")
        return Principal("acme", SCOPES, subject="user-1") if token == "a.good.one" else None


@pytest.mark.parametrize("needed", [False, True])
def test_where_an_issuer_is_set_its_tokens_are_checked_like_keys(client: Any, guarded: Any, needed: bool) -> None:
    http = guarded if needed else client
    container = http.app.state.container
    container.tokens = Tokens()
    assert http.get("/v1/sessions", headers={"Authorization": "Bearer a.good.one"}).status_code == 200
    assert (caller(container.sessions).tenant_id, caller(container.sessions).caller_id) == ("acme", "sub:user-1")
    refused = http.get("/v1/sessions", headers={"Authorization": "Bearer a.bad.one"})
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    unknown = http.get("/v1/sessions", headers={"Authorization": "Bearer a.way.off"})
    assert (unknown.status_code, unknown.json()["code"]) == (503, "identity_unavailable")
    own = asyncio.run(container.keys.create("globex", SCOPES))
    assert http.get("/v1/sessions", headers={"Authorization": f"Bearer {own.token}"}).status_code == 200
    assert http.get("/v1/sessions", headers={"Authorization": "Bearer sk-openai"}).status_code == (
        401 if needed else 200
    )


def test_a_bad_agent_id_is_bad_input(client: Any) -> None:
    answer = client.get("/v1/sessions", headers={"X-Agent-Id": "no spaces"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["errors"][0]["loc"] == ["header", "X-Agent-Id"]


def test_a_web_page_that_points_its_name_here_is_refused(client: Any) -> None:
    assert client.get("/v1/sessions", headers={"Host": "evil.example:8080"}).status_code == 403


FOREIGN = [
    "https://evil.example",
    "http://evil.example:8080",
    "http://127.0.0.1.evil.example",
    "http://93.184.215.14",
    "http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]",
    "http://[::1",
    "null",
    "file://",
    "",
]
NEARBY = [
    "http://127.0.0.1",
    "http://localhost:3000",
    "http://[::1]:8080",
    "https://app.localhost",
    "http://192.168.1.7",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/sessions"), ("POST", "/v1/admin/codecs/train")])
def test_without_keys_a_page_of_the_web_is_refused(client: Any, method: str, path: str, origin: str) -> None:
    answer = client.request(method, path, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "Origin" in answer.json()["detail"]


@pytest.mark.parametrize("origin", NEARBY)
def test_without_keys_a_page_of_this_machine_is_answered(client: Any, origin: str) -> None:
    assert client.get("/v1/sessions", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize("origin", ["https://chat.example", "null"])
def test_who_has_a_key_may_have_it_in_any_page(client: Any, guarded: Any, origin: str) -> None:
    assert guarded.get("/v1/sessions", headers={**key_of(guarded), "Origin": origin}).status_code == 200
    own = asyncio.run(client.app.state.container.keys.create("acme", SCOPES))
    headers = {"Authorization": f"Bearer {own.token}", "Origin": origin}
    assert client.get("/v1/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/version", "/metrics", "/openapi.json", "/docs"])
def test_probes_and_documentation_need_no_key(guarded: Any, path: str) -> None:
    assert guarded.get(path).status_code == 200
