"""One SQLite database: several engines and processes, damage, locks, kills, and what is left of deleted rows."""

import asyncio
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine
from memory.domain.errors import StorageUnavailable
from memory.domain.principals import Reach
from tests.services import add_session
from tests.unit.memory.adapters.sql.conftest import Turn, names, queued, write

WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage

async def main(url, name, count, writers):
    storage = SqlStorage(url, DatabaseSettings())
    left = iter(range(count))
    async def write():
        for number in left:
            async with storage.write() as tx:
                await tx.tenants.secret(f"{name}{number}", datetime.now(UTC))
            print(f"{name}{number}", flush=True)
    await asyncio.gather(*(write() for _ in range(writers)))
    await storage.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


async def test_every_connection_is_durable_strict_and_erases(sqlite_url):
    engine = make_engine(sqlite_url, DatabaseSettings(pool_size=3))
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    connections = [await engine.connect() for _ in range(4)]
    for connection in connections:
        found = {name: (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one() for name in wanted}
        assert found == wanted
        await connection.close()
    await engine.dispose()


async def test_a_second_engine_and_a_second_process_write_at_the_same_time(sqlite, storage):
    other = sqlite.open()
    command = [sys.executable, "-c", WRITER, sqlite.url, "child", "60", "4"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert await process.stdout.readline()  # it is at it
    await asyncio.gather(*(write(engine, f"{n}{i}") for n in range(100) for i, engine in enumerate((storage, other))))
    await process.communicate()
    assert process.returncode == 0
    assert len(await names(sqlite)) == 260


async def test_a_busy_engine_leaves_room_for_another(sqlite, storage):
    """The API process may write without a pause: a worker gets its turn within a second all the same.

    Counted in transactions of the busy engine: on a machine that others use as well, both take longer.
    """
    other = sqlite.open()
    flushes = written = 0
    pressing = True

    @sa.event.listens_for(storage._engine.sync_engine, "commit")
    def count(_connection):
        nonlocal flushes
        flushes += 1

    async def press(writer):
        nonlocal written
        while pressing:
            await write(storage, f"{writer}-{written}")
            written += 1

    presses = asyncio.gather(*(press(n) for n in range(100)))
    passed = []
    while len(passed) < 5 or written <= 200:
        before = flushes
        await write(other, f"other{len(passed)}")
        passed.append(flushes - before)
    pressing = False
    await presses
    assert sum(passed) >= 2
    assert max(passed) <= 100


async def test_a_database_that_is_read_only_is_unavailable_for_writers_only(sqlite, storage):
    @sa.event.listens_for(storage._engine.sync_engine, "connect")
    def read_only(connection, _record):
        connection.execute("PRAGMA query_only = ON")

    async with asyncio.timeout(5):
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="readonly"):
                await write(storage, "x")
        async with storage.read() as tx:
            assert await tx.tenants.ids() == []


@pytest.mark.parametrize("damage", [b"no database at all" * 1_000, b""])
async def test_a_damaged_file_is_unavailable(sqlite, damage):
    storage = sqlite.open()
    sqlite.file.write_bytes(damage)
    with pytest.raises(StorageUnavailable):
        await write(storage, "x")
    with pytest.raises(StorageUnavailable):
        async with storage.read() as tx:
            await tx.tenants.ids()


async def test_a_lock_that_somebody_keeps_is_unavailable_after_the_time_out(sqlite):
    storage, other = sqlite.open(statement_timeout=0.3), sqlite.open()
    async with Turn(other):
        began = time.monotonic()
        outcomes = await asyncio.gather(*(write(storage, f"t{n}") for n in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
        assert time.monotonic() - began < 3
    await asyncio.sleep(0.05)
    await write(storage, "goes on")
    assert await names(sqlite) == ["first", "goes on"]


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_acknowledged_survives_kill_9(sqlite, seed):
    command = [sys.executable, "-c", WRITER, sqlite.url, "t", "100000", "8"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    acknowledged = [(await process.stdout.readline()).decode().strip() for _ in range(40 + 37 * seed)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [
        line.strip() for line in (await process.stdout.read()).decode().splitlines(True) if line[-1] == "\n"
    ]
    assert await process.wait() == -signal.SIGKILL
    assert len(acknowledged) >= 40
    assert set(acknowledged) <= set(await names(sqlite))
    ((check,),) = await sqlite.rows("PRAGMA integrity_check")
    assert check == "ok"
    await write(sqlite.open(), "goes on")


async def test_a_deleted_text_is_in_no_file_once_leftovers_are_erased(sqlite, storage):
    marker = "xyzzy-marker"

    def holding():
        return {file.name for file in sqlite.file.parent.iterdir() if marker.encode() in file.read_bytes()}

    async with storage.write() as tx:
        for number in range(50):
            await add_session(tx, f"s{number}", title=f"{marker} " * 200)
    assert "stratamem.db-wal" in holding()
    await storage.erase_leftovers()
    assert holding() == {"stratamem.db"}
    async with storage.write() as tx:
        for lineage in (
            await tx.sessions.lineages("acme", [f"s{number}" for number in range(50)], Reach(None, None))
        ).values():
            await tx.sessions.purge(lineage.session_key)
    assert holding()
    await storage.erase_leftovers()
    assert not holding()
    await storage.erase_leftovers()


async def test_leftovers_are_erased_between_writers(sqlite, storage):
    async with Turn(storage) as turn:
        tasks = await queued(write(storage, "second"), storage.erase_leftovers(), write(storage, "third"))
    async with asyncio.timeout(5):
        await asyncio.gather(turn.task, *tasks)
    assert await names(sqlite) == ["first", "second", "third"]


async def test_a_reader_that_stays_does_not_stop_the_writers(sqlite, storage):
    """Its snapshot keeps old pages in the log; erasing waits for it a moment, says so, and gives the turn back."""
    await write(storage, "first")
    async with storage.read() as tx:
        await tx.tenants.ids()
        await write(storage, "second")
        began = time.monotonic()
        erasing, writing = await queued(storage.erase_leftovers(), write(storage, "third"))
        with pytest.raises(StorageUnavailable):
            await erasing
        await writing
        assert time.monotonic() - began < 5
    await storage.erase_leftovers()
