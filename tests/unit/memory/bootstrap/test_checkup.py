"""What a check-up finds when something is missing, and what it says to do."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memory.adapters.sql import migrate as history
from memory.bootstrap import checkup
from memory.bootstrap.checkup import CHECKS, Finding, _found
from memory.domain.errors import BrokerUnavailable
from memory.services.health import HealthState
from memory.settings import Settings
from memory.testing import WordHashEmbedder
from tests.services import TENANT, Database, add_session, migrate

OK, DEGRADED, DOWN = HealthState.OK, HealthState.DEGRADED, HealthState.DOWN


def settings_in(folder: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **changes)


async def found(name: str, settings: Settings) -> Finding:
    finding = await _found(name, CHECKS[name], settings)
    assert finding.name == name
    assert (finding.remedy is not None) or finding.state is OK
    return finding


@pytest.mark.parametrize("name", ["database", "background work", "keys", "broker", "data folder", "model", "python"])
async def test_a_new_machine_is_well_and_stays_as_it_was(tmp_path: Path, name: str):
    assert (await found(name, settings_in(tmp_path / "data"))).state is OK
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_can_not_be_written_to(tmp_path: Path):
    (tmp_path / "file").touch()
    finding = await found("data folder", settings_in(tmp_path / "file" / "data"))
    assert (finding.state, "STRATAMEM_DATA_DIR" in (finding.remedy or "")) == (DOWN, True)


async def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path):
    url = "postgresql://someone:secret@127.0.0.1:1/none"
    finding = await found("database", settings_in(tmp_path, database_url=url))
    assert finding.state is DOWN
    assert "secret" not in f"{finding.detail} {finding.remedy}"


async def test_a_database_of_an_older_version_is_told_apart(tmp_path: Path, database: Database):
    settings = settings_in(tmp_path, database_url=database.url)
    assert (await found("database", settings)).detail.endswith(f"schema {history.newest()}")
    await migrate(database.url, history.downgrade, "0001")
    try:
        finding = await found("database", settings)
        assert (finding.state, "stratamem migrate" in (finding.remedy or "")) == (DEGRADED, True)
        assert (await found("background work", settings)).state is OK
    finally:
        await migrate(database.url)


async def test_work_that_was_given_up_is_pointed_at(tmp_path: Path, database: Database):
    settings = settings_in(tmp_path, database_url=database.url)
    async with database.open().write() as tx:
        await add_session(tx)
    assert (await found("background work", settings)).detail == "none"
    await database.rows(
        "INSERT INTO operations"
        " (operation_id, tenant_id, kind, subject, state, created_at, done, total, unit, attempts)"
        " VALUES ('o', 'default', 'index', 's', 'failed', 0, 0, 1, 'events', 8)"
    )
    finding = await found("background work", settings)
    assert (finding.state, finding.detail) == (DEGRADED, "1 failed")


async def test_tenants_that_another_embedder_serves_are_counted(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
):
    class Embedder(WordHashEmbedder):
        def close(self) -> None:
            """Nothing is held."""

    monkeypatch.setattr(checkup, "load_models", lambda *_, **options: SimpleNamespace(embedder=Embedder(96)))
    settings = settings_in(tmp_path, database_url=database.url)
    async with database.open().write() as tx:
        await add_session(tx)
        await tx.spaces.begin(TENANT, "word-hash-96")
    assert (await found("embedder", settings)).state is OK
    async with database.open().write() as tx:
        await tx.spaces.change(TENANT, "word-hash-64")
    finding = await found("embedder", settings)
    assert (finding.state, "1 tenant" in finding.detail) == (DEGRADED, True)
    assert "/v1/admin/embedder" in (finding.remedy or "")


async def test_keys_are_missed_only_where_they_are_needed(tmp_path: Path):
    finding = await found("keys", settings_in(tmp_path, host="0.0.0.0"))
    assert (finding.state, "stratamem keys create" in (finding.remedy or "")) == (DOWN, True)


async def test_a_port_that_is_taken(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = await found("port", settings_in(tmp_path, port=taken.getsockname()[1]))
    assert finding.state is DEGRADED


async def test_a_broker_that_can_not_be_reached(tmp_path: Path):
    finding = await found("broker", settings_in(tmp_path, broker_url="redis://:secret@127.0.0.1:1/0"))
    assert finding.state is DOWN
    assert "secret" not in finding.detail


async def test_a_folder_that_is_no_model(tmp_path: Path):
    finding = await found("model", settings_in(tmp_path / "data", model=str(tmp_path)))
    assert (finding.state, "config.json" in finding.detail) == (DOWN, True)


async def test_a_runtime_that_is_away(tmp_path: Path):
    assert (await found("model", settings_in(tmp_path, runtime_url="http://127.0.0.1:1"))).state is DOWN


async def test_a_check_that_fails_in_any_way_is_a_finding(tmp_path: Path):
    async def fails(settings: Settings) -> Finding:
        raise ZeroDivisionError("by zero")

    async def is_away(settings: Settings) -> Finding:
        raise BrokerUnavailable("away")

    settings = settings_in(tmp_path)
    assert (await _found("x", fails, settings)).detail == "ZeroDivisionError: by zero"
    assert (await _found("x", is_away, settings)).detail == "away"
