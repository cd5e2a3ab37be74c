"""What is saved while others write comes back whole, and nothing is put in the place of what somebody still uses."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from memory.adapters.archive import BackupRefused
from memory.adapters.node_folders import held
from memory.adapters.sql import copies
from memory.adapters.sql.migrate import upgrade
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage, make_engine
from memory.adapters.sql.tables import metadata
from memory.bootstrap.backups import back_up, restore
from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.errors import StorageUnavailable
from memory.domain.operations import OperationKind
from memory.settings import Settings
from tests.services import NOW, TENANT, add_events, add_memory, add_session

ANEW = {"changes", "followers", "turns", "operations"}
"""What a restored database begins anew, or was queued meanwhile."""


def untold(what: str, done: int, total: int | None) -> None: ...


def settings_in(folder: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **changes)


async def filled(settings: Settings, *contents: str) -> None:
    """A session with these events, a memory, and a purge that still waits for a follower of another machine."""
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        await storage.migrate()
        async with storage.write() as tx:
            session = await add_session(tx)
            await add_events(tx, session, *contents)
            await add_memory(tx)
            place = await tx.changes.add(NewChange(ChangeKind.EVENTS, TENANT, session.session_key, 1, len(contents)))
            await tx.changes.follow("elsewhere", place, NOW)
            purge, _ = await tx.operations.enqueue(
                TENANT, OperationKind.PURGE, "session:9", NOW, total=1, unit="purges"
            )
            await tx.operations.note(purge, {"purged": {"events": 1}, "position": [place.xid, place.number]})
    finally:
        await storage.close()


async def rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    engine = make_engine(settings.storage_url, DatabaseSettings(pool_size=1))
    try:
        async with engine.connect() as connection:
            found = {}
            for table in metadata.sorted_tables:
                key = list(table.primary_key.columns)
                found[table.name] = [tuple(row) for row in await connection.execute(sa.select(table).order_by(*key))]
            return found
    finally:
        await engine.dispose()


async def check_restored(before: dict[str, list[tuple[Any, ...]]], settings: Settings) -> None:
    after = await rows(settings)
    assert {name: after[name] for name in after.keys() - ANEW} == {name: before[name] for name in before.keys() - ANEW}
    assert len(after["events"]) == 3
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        async with storage.read() as tx:
            feed = await tx.changes.after(Position(), limit=10)
            assert [(change.kind, change.tenant_id) for change in feed] == [(ChangeKind.RESTORED, TENANT)]
            assert await tx.changes.followed("elsewhere") is None
        found, newest = await storage.schema()
        assert found == newest
    finally:
        await storage.close()
    (purge,) = after["operations"]
    assert {"purged": {"events": 1}, "position": [0, 0]} in purge


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Settings, Path]:
    """A data folder, and a backup of it."""
    settings = settings_in(tmp_path / "data")
    asyncio.run(filled(settings, "one", "two", "three"))
    receipts = settings.data_dir / "receipts"
    (receipts / "2026").mkdir(parents=True)
    (receipts / "2026" / "r1.json").write_text('{"receipt": 1}')
    (receipts / "link").symlink_to("/etc/passwd")
    (settings.data_dir / "index" / "node").mkdir(parents=True)
    (settings.data_dir / "index" / "node" / "vectors").write_text("a cache")
    file = tmp_path / "backup.tar.gz"
    asyncio.run(back_up(settings, file, "1.2.3", untold))
    return settings, file


async def test_a_restored_sqlite_has_every_row_and_every_receipt(saved: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, file = saved
    there = settings_in(tmp_path / "elsewhere")
    manifest = await restore(there, file, untold)
    assert [part.name for part in manifest.parts] == ["stratamem.db", "receipts/2026/r1.json"]
    assert (manifest.version, manifest.database) == ("1.2.3", "sqlite")
    await check_restored(await rows(settings), there)
    assert (there.data_dir / "receipts/2026/r1.json").read_text() == '{"receipt": 1}'
    left = {path.name for path in there.data_dir.rglob("*") if path.is_file()}
    assert left == {"stratamem.db", "r1.json", ".lock"}


@pytest.fixture
def two_of_postgres(new_postgres: Callable[[], str], tmp_path: Path) -> list[Settings]:
    """With an empty database each."""
    return [settings_in(tmp_path / name, database_url=new_postgres()) for name in "ab"]


async def test_a_restored_postgresql_has_every_row(two_of_postgres: list[Settings], tmp_path: Path) -> None:
    settings, there = two_of_postgres
    await filled(settings, "one", "two", "three")
    await back_up(settings, tmp_path / "backup", "1.2.3", untold)
    manifest = await restore(there, tmp_path / "backup", untold)
    assert (manifest.database, [part.name for part in manifest.parts]) == ("postgresql", ["stratamem.dump"])
    await check_restored(await rows(settings), there)
    with pytest.raises(BackupRefused, match="the database has tables"):
        await restore(there, tmp_path / "backup", untold, replace=True)
    with pytest.raises(BackupRefused, match="STRATAMEM_DATABASE_URL says otherwise"):
        await restore(settings_in(tmp_path / "c"), tmp_path / "backup", untold)


async def test_postgresql_s_own_tools_are_named_where_they_are_missing_or_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    away = settings_in(tmp_path, database_url="postgresql://nobody:hunter2@127.0.0.1:1/x")
    with pytest.raises(BackupRefused, match="pg_dump: error") as refused:
        await back_up(away, tmp_path / "backup", "1", untold)
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackupRefused, match="postgresql-client"):
        await back_up(settings_in(tmp_path, database_url=postgres_url), tmp_path / "backup", "1", untold)
    assert not (tmp_path / "backup").exists()


def test_a_copy_is_of_one_moment_and_ends_though_others_write_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_PAGES", 1)
    source = tmp_path / "source.db"
    with closing(sqlite3.connect(source)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE pairs (a, b)")
        database.executemany("INSERT INTO pairs VALUES (?, ?)", [(n, "x" * 1_000) for n in range(-400, 0)])
        database.commit()
    done = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(source, timeout=30)) as database:
            number = 0
            while not done.is_set():
                number += 1
                with database:
                    database.execute("INSERT INTO pairs VALUES (?, ?)", (number, "first"))
                    database.execute("INSERT INTO pairs VALUES (?, ?)", (number, "second"))

    writer = threading.Thread(target=write)
    writer.start()
    steps: list[tuple[str, int, int | None]] = []
    try:
        copies.copy_sqlite(source, tmp_path / "copy.db", lambda *step: steps.append(step))
    finally:
        done.set()
        writer.join()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        numbers = [row[0] for row in copy.execute("SELECT a FROM pairs WHERE a > 0 ORDER BY rowid")]
    assert numbers == [n for n in range(1, len(numbers) // 2 + 1) for _ in "ab"]
    assert len(steps) > 100
    assert steps[-1][1] == steps[-1][2]


async def test_a_backup_that_is_given_up_ends_at_once_and_leaves_nothing(
    saved: tuple[Settings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_PAGES", 1)
    steps = []

    def told(what: str, done: int, total: int | None) -> None:
        steps.append(what)
        loop.call_soon_threadsafe(work.cancel)
        time.sleep(0.05)

    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(back_up(saved[0], tmp_path / "given-up", "1", told))
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(steps) < 10
    assert {path.name for path in tmp_path.iterdir()} == {"data", "backup.tar.gz"}


async def test_a_database_that_is_not_there_is_said(tmp_path: Path, saved: tuple[Settings, Path]) -> None:
    away = settings_in(tmp_path / "away", database_url="postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(StorageUnavailable):
        await restore(away, saved[1], untold)


async def test_a_folder_with_something_in_it_is_left_alone(saved: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, file = saved
    before = (settings.data_dir / "stratamem.db").read_bytes()
    with pytest.raises(BackupRefused, match=r"there is .*/stratamem.db already"):
        await restore(settings, file, untold)
    (tmp_path / "receipts-only" / "receipts").mkdir(parents=True)
    with pytest.raises(BackupRefused, match=r"there is .*/receipts already"):
        await restore(settings_in(tmp_path / "receipts-only"), file, untold)
    apart = settings_in(tmp_path / "apart", database_url=settings.storage_url)  # the database is not in the data folder
    with pytest.raises(BackupRefused, match=r"there is .*/stratamem.db already"):
        await restore(apart, file, untold)
    with pytest.raises(BackupRefused, match="is there already"):
        await back_up(settings, file, "1", untold)
    assert (settings.data_dir / "stratamem.db").read_bytes() == before
    caches = settings_in(tmp_path / "caches")
    (caches.data_dir / "models").mkdir(parents=True)
    (caches.data_dir / "worker-host-7.alive").touch()
    await restore(caches, file, untold)


async def test_with_force_the_old_database_and_its_caches_are_gone_and_its_receipts_stay(
    saved: tuple[Settings, Path],
) -> None:
    settings, file = saved
    storage = SqlStorage(settings.storage_url, settings.database)
    async with storage.write() as tx:
        await add_session(tx, "of-the-future")
    await storage.close()
    receipts = settings.data_dir / "receipts"
    (receipts / "2026" / "r2.json").write_text('{"receipt": 2}')
    await restore(settings, file, untold, replace=True)
    assert [row[2] for row in (await rows(settings))["sessions"]] == ["s"]
    assert not (settings.data_dir / "index/node/vectors").exists()
    assert sorted(path.name for path in receipts.rglob("*.json")) == ["r1.json", "r2.json"]


async def test_nothing_is_restored_where_a_process_is_at_work(saved: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, file = saved
    with held(settings.data_dir / "index" / "node"), pytest.raises(BackupRefused, match="a service runs on"):
        await restore(settings, file, untold, replace=True)
    storage = SqlStorage(settings.storage_url, settings.database)
    async with storage.read() as tx:
        await tx.changes.head()
    with pytest.raises(BackupRefused, match="a process uses the database"):
        await restore(settings, file, untold, replace=True)
    await storage.close()
    assert (settings.data_dir / "index/node/vectors").exists()
    await restore(settings, file, untold, replace=True)


async def test_a_schema_that_is_not_known_here_is_refused(
    saved: tuple[Settings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = saved
    with closing(sqlite3.connect(settings.data_dir / "stratamem.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    await back_up(settings, tmp_path / "newer", "9.0.0", untold)
    there = settings_in(tmp_path / "there")
    with pytest.raises(BackupRefused, match=r"schema 9999 is not known here: it was made by version 9\.0\.0"):
        await restore(there, tmp_path / "newer", untold)
    assert not list(there.data_dir.glob("*.db"))
    assert not list(there.data_dir.glob(".restore-*"))


async def test_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    settings, there = settings_in(tmp_path / "old"), settings_in(tmp_path / "new")
    engine = make_engine(settings.storage_url, DatabaseSettings(pool_size=1))
    await upgrade(engine, "0009")
    await engine.dispose()
    manifest = await back_up(settings, tmp_path / "backup", "0.0.1", untold)
    assert manifest.revision == "0009"
    await restore(there, tmp_path / "backup", untold)
    storage = SqlStorage(there.storage_url, there.database)
    found, newest = await storage.schema()
    await storage.close()
    assert found == newest


async def test_there_is_nothing_to_save_where_no_database_is(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="there is no database"):
        await back_up(settings_in(tmp_path / "nothing"), tmp_path / "backup", "1", untold)
    (tmp_path / "empty").mkdir()
    sqlite3.connect(tmp_path / "empty" / "stratamem.db").close()
    with pytest.raises(BackupRefused, match="the database is empty"):
        await back_up(settings_in(tmp_path / "empty"), tmp_path / "backup", "1", untold)
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}
