"""What the operator does about tenants and receipts on the machine of the database."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage
from tests.services import add_events, add_session


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("STRATAMEM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STRATAMEM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shown(*arguments: str) -> Any:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fill(data: Path) -> None:
    async def filled() -> None:
        storage = SqlStorage(f"sqlite:///{data}/stratamem.db", DatabaseSettings())
        await storage.migrate()
        async with storage.write() as tx:
            for tenant_id in ("acme", "other"):
                await add_events(tx, await add_session(tx, tenant_id=tenant_id), "hello there")
        await storage.close()

    asyncio.run(filled())


def test_a_tenant_is_purged_and_proven_and_nobody_else_is_touched(data: Path) -> None:
    fill(data)
    left_by_nobody = data / "index" / "gone-node" / "words"
    left_by_nobody.mkdir(parents=True)
    (left_by_nobody / "file").write_text("hello there")
    listed = shown("tenants", "list", "--json")["items"]
    assert [(one["tenant_id"], one["events"], one["purging"]) for one in listed] == [
        ("acme", 1, False),
        ("other", 1, False),
    ]
    assert run("tenants", "purge", "acme").exit_code == 2
    receipt = shown("tenants", "purge", "acme", "--yes", "--json")
    assert (receipt["purged"]["events"], receipt["verified"]) == (1, True)
    assert not left_by_nobody.exists()
    assert run("tenants", "purge", "acme", "--yes").exit_code == 1
    assert "other" in run("tenants", "list").stdout
    key = run("receipts", "key").stdout.strip()
    signed = shown("receipts", "show", receipt["receipt_id"])
    assert (signed["public_key"], signed["signature"], signed["tenant_id"]) == (key, receipt["signature"], "acme")
    assert [one["receipt_id"] for one in shown("receipts", "list", "--json")["items"]] == [receipt["receipt_id"]]
    assert shown("verify-purge", receipt["receipt_id"], "--json")["clean"] is True
    assert run("verify-purge", "--no-models", "--marker", "hello there").exit_code == 1


def test_a_receipt_that_was_changed_or_lost_is_noticed(data: Path) -> None:
    fill(data)
    receipt = shown("tenants", "purge", "acme", "--yes", "--json")
    assert run("receipts", "check").exit_code == 0
    file = data / "receipts" / f"{receipt['receipt_id']}.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"statement": content["statement"].replace("acme", "acne")}))
    changed = run("receipts", "check")
    assert (changed.exit_code, "something else" in changed.stdout) == (1, True)
    file.write_text(json.dumps(content | {"receipt_id": "another"}))
    lost = run("receipts", "check")
    assert (lost.exit_code, "not in the database" in lost.stdout) == (1, True)
    assert run("receipts", "show", "nothing").exit_code == 1
    assert run("verify-purge").exit_code == 2
