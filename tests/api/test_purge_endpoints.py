"""Who may purge an agent's data or a tenant over HTTP, and who reads a receipt?"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from memory.domain.errors import NotFound, TenantPurged
from memory.domain.operations import Receipt
from memory.domain.principals import ALL_SCOPES, KeyScope
from memory.domain.receipts import SignedReceipt
from memory.settings import AuthMode, Settings

AT = datetime(2026, 3, 31, tzinfo=UTC)
RECEIPT = Receipt({"events": 2}, True, AT, receipt_id="r1", signature="c2ln")


@pytest.fixture
def guarded(make: Any, tmp_path: Any) -> Iterator[Any]:
    container = make.container(Settings(data_dir=tmp_path, auth=AuthMode.REQUIRED, _env_file=None))
    container.forgetting.answers = {"purge_agent": RECEIPT, "purge_own_tenant": RECEIPT}
    with TestClient(create_app(container), base_url="http://127.0.0.1") as client:
        client.container = container  # type: ignore[attr-defined]
        yield client


def bearer(client: Any, scopes: Any = ALL_SCOPES, **bounds: Any) -> dict[str, str]:
    made = asyncio.run(client.container.keys.create("acme", scopes, **bounds))
    return {"Authorization": f"Bearer {made.token}"}


def test_a_tenant_goes_only_when_its_name_is_said_again(guarded: Any) -> None:
    admin, path = bearer(guarded), "/v1/admin/tenants/acme"
    assert guarded.delete(path, headers=admin).status_code == 422
    assert guarded.container.forgetting.calls == []
    answer = guarded.delete(path, params={"confirm": "acme"}, headers=admin)
    assert (answer.status_code, answer.json()["receipt_id"], answer.json()["signature"]) == (200, "r1", "c2ln")
    (_, (caller, tenant, confirmed), _) = guarded.container.forgetting.last
    assert (caller.tenant_id, tenant, confirmed) == ("acme", "acme", "acme")


@pytest.mark.parametrize(
    "bounds",
    [
        {"scopes": [KeyScope.READ, KeyScope.WRITE]},
        {"agent_id": "ann"},
        {"session_ids": ["s"]},
    ],
)
def test_nobody_else_purges_or_lists_a_tenant(guarded: Any, bounds: dict[str, Any]) -> None:
    headers = bearer(guarded, **bounds)
    for answer in (
        guarded.delete("/v1/admin/tenants/acme", params={"confirm": "acme"}, headers=headers),
        guarded.get("/v1/admin/tenants", headers=headers),
    ):
        assert answer.status_code == 403
    assert guarded.container.forgetting.calls == guarded.container.tenants.calls[4:] == []


def test_an_agents_data_needs_more_than_reading(guarded: Any) -> None:
    path = "/v1/agents/ann/data"
    assert guarded.delete(path).status_code == 401
    assert guarded.delete(path, headers=bearer(guarded, [KeyScope.READ])).status_code == 403
    for scopes in ([KeyScope.WRITE], [KeyScope.ADMIN]):
        assert guarded.delete(path, headers=bearer(guarded, scopes)).json()["purged"] == {"events": 2}
    guarded.container.forgetting.answers["purge_agent"] = NotFound("nothing")
    assert guarded.delete(path, headers=bearer(guarded)).status_code == 404


def test_nobody_comes_in_as_a_tenant_that_is_being_purged(guarded: Any) -> None:
    headers = bearer(guarded)
    guarded.container.tenants.answers["check"] = TenantPurged("acme")
    answer = guarded.get("/v1/sessions", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "tenant_purged")


def test_a_receipt_is_read_with_what_was_signed(guarded: Any) -> None:
    signed = SignedReceipt(3, "r1", "acme", '{"what":{"kind":"session"}}', "c2ln", "a2V5", AT)
    guarded.container.receipts.answers["get"] = signed
    answer = guarded.get("/v1/receipts/r1", headers=bearer(guarded, [KeyScope.ADMIN])).json()
    assert answer["statement"] == signed.statement
    assert answer["content"] == {"what": {"kind": "session"}}
    assert (answer["number"], answer["digest"]) == (3, signed.digest)
    assert guarded.get("/v1/receipts/r1", headers=bearer(guarded, [KeyScope.WRITE])).status_code == 403
