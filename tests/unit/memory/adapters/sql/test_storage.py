"""The SQLite writer queue: order, group commit, and what failures and cancellations do to the others in a group."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import sqlalchemy as sa

from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine
from memory.domain.errors import StorageUnavailable
from tests.services import NOW, add_session

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


@pytest.fixture
def storage(sqlite):
    return sqlite.open()


async def write(storage, name):
    async with storage.write() as tx:
        await tx.tenants.secret(name, NOW)


async def names(database):
    """In the order in which they were written."""
    return [name for (name,) in await database.rows("SELECT tenant_id FROM tenants ORDER BY rowid")]


class Turn:
    """A writer that keeps its turn until it is told to go on; who starts meanwhile joins its group."""

    def __init__(self, storage, name="first"):
        self.storage, self.name = storage, name
        self.taken, self.go = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self.storage.write() as tx:
            await tx.tenants.secret(self.name, NOW)
            self.taken.set()
            await self.go.wait()

    async def __aenter__(self):
        await self.taken.wait()
        return self

    async def __aexit__(self, *error):
        self.go.set()


async def queued(*writers):
    """Tasks that have come to the queue, in this order."""
    tasks = [asyncio.ensure_future(writer) for writer in writers]
    await asyncio.sleep(0.02)
    return tasks


async def test_every_connection_is_durable_strict_and_erases(sqlite_url):
    engine = make_engine(sqlite_url, DatabaseSettings(pool_size=3))
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    connections = [await engine.connect() for _ in range(4)]
    for connection in connections:
        found = {name: (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one() for name in wanted}
        assert found == wanted
        await connection.close()
    await engine.dispose()


async def test_two_hundred_writers_are_served_in_the_order_of_their_coming(sqlite, storage):
    await asyncio.gather(*(write(storage, f"t{n:03}") for n in range(200)))
    assert await names(sqlite) == [f"t{n:03}" for n in range(200)]


@pytest.mark.parametrize("group", [1, 3, 64])
async def test_groups_of_any_size_lose_nobody(sqlite, group):
    storage = sqlite.open(group_commit=group)
    await asyncio.gather(*(write(storage, f"t{n}") for n in range(50)))
    assert await names(sqlite) == [f"t{n}" for n in range(50)]


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
    """The API process may write without a pause: a worker gets its turn within a second all the same."""
    other = sqlite.open(statement_timeout=4)
    stop = time.monotonic() + 3
    written = 0

    async def press(writer):
        nonlocal written
        while time.monotonic() < stop:
            await write(storage, f"{writer}-{written}")
            written += 1

    pressing = asyncio.gather(*(press(n) for n in range(100)))
    await asyncio.sleep(0.2)
    waits = []
    while time.monotonic() < stop - 1:
        began = time.monotonic()
        await write(other, f"other{len(waits)}")
        waits.append(time.monotonic() - began)
    await pressing
    assert written > 200
    assert len(waits) >= 2
    assert max(waits) < 1.5


async def test_nobody_is_answered_before_the_commit(sqlite, storage):
    async with Turn(storage) as turn:
        waiting = await queued(write(storage, "second"), write(storage, "third"))
        assert await names(sqlite) == []
        turn.go.set()
        await asyncio.wait([turn.task, *waiting], return_when=asyncio.FIRST_COMPLETED)
        assert await names(sqlite) == ["first", "second", "third"]
    await asyncio.gather(turn.task, *waiting)


async def test_who_fails_in_a_group_takes_nobody_along(sqlite, storage):
    async def fail(number):
        with suppress(ZeroDivisionError):
            async with storage.write() as tx:
                await tx.tenants.secret(f"bad{number}", NOW)
                await add_session(tx, f"bad{number}")
                raise ZeroDivisionError

    await asyncio.gather(*(fail(n) if n % 3 == 0 else write(storage, f"t{n}") for n in range(30)))
    assert await names(sqlite) == [f"t{n}" for n in range(30) if n % 3]
    assert await sqlite.rows("SELECT * FROM sessions") == []


async def test_who_breaks_a_constraint_in_a_group_takes_nobody_along(sqlite, storage):
    async def fail():
        async with storage.write() as tx:
            await tx.tenants.secret("lost", NOW)
            await tx.clusters.add(4711, "s", b"", 1)

    async with Turn(storage) as turn:
        tasks = await queued(fail(), write(storage, "third"))
    outcomes = await asyncio.gather(turn.task, *tasks, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "IntegrityError", "NoneType"]
    assert await names(sqlite) == ["first", "third"]


async def test_a_writer_that_is_cancelled_while_it_waits_is_skipped(sqlite, storage):
    async with Turn(storage) as turn:
        tasks = await queued(*(write(storage, f"t{n}") for n in range(6)))
        for task in tasks[::2]:
            task.cancel()
    outcomes = await asyncio.gather(turn.task, *tasks, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [False, *[True, False] * 3]
    assert await names(sqlite) == ["first", "t1", "t3", "t5"]


async def test_a_writer_that_is_cancelled_as_its_turn_comes_hands_it_on(sqlite, storage):
    async with Turn(storage) as turn:
        tasks = await queued(write(storage, "second"), write(storage, "third"))
    while not turn.task.done() and storage._writers._waiting and not storage._writers._waiting[0].done():
        await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(turn.task, *tasks, return_exceptions=True)
    assert outcomes[2] is None
    assert {"first", "third"} <= set(await names(sqlite))
    await write(storage, "fourth")


@pytest.mark.parametrize("place", range(12))
async def test_a_cancelled_writer_hurts_nobody_wherever_it_is(sqlite, storage, place):
    """It is cancelled after `place` steps of the event loop, in the middle of a group, in whatever statement it is."""

    async def long_write():
        async with storage.write() as tx:
            await add_session(tx, "cancelled")
            await tx.tenants._db.execute(
                sa.text(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
                    " SELECT count(*) FROM n"
                )
            )

    async with Turn(storage) as turn:
        first, cancelled, last = await queued(write(storage, "second"), long_write(), write(storage, "last"))
    while len(storage._writers._unflushed) < 2:
        await asyncio.sleep(0)
    for _ in range(place):
        await asyncio.sleep(0.001)
    cancelled.cancel()
    outcomes = await asyncio.gather(turn.task, first, last, cancelled, return_exceptions=True)
    assert outcomes[:3] == [None, None, None]
    kept = await names(sqlite)
    assert [name for name in kept if name != "acme"] == ["first", "second", "last"]
    stored = {"acme"} & set(kept)
    assert bool(stored) == bool(await sqlite.rows("SELECT * FROM sessions"))
    if outcomes[3] is None:
        assert stored
    await write(storage, "goes on")


async def test_a_first_writer_that_is_cancelled_in_a_statement_hurts_nobody(sqlite, storage):
    started = asyncio.Event()

    async def long_write():
        async with storage.write() as tx:
            await tx.tenants.secret("cancelled", NOW)
            started.set()
            await tx.tenants._db.execute(
                sa.text(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
                    " SELECT count(*) FROM n"
                )
            )

    cancelled = asyncio.create_task(long_write())
    await started.wait()
    waiting = await queued(write(storage, "second"))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await asyncio.gather(*waiting)
    assert await names(sqlite) == ["second"]


async def test_who_is_cancelled_while_it_waits_for_the_flush_hurts_nobody(sqlite, storage):
    async with Turn(storage) as turn:
        (second,) = await queued(write(storage, "second"))
        third = Turn(storage, "third")
        await asyncio.sleep(0.02)
        turn.go.set()
        async with third:
            assert not turn.task.done()
            turn.task.cancel()
    outcomes = await asyncio.gather(turn.task, second, third.task, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["CancelledError", "NoneType", "NoneType"]
    assert await names(sqlite) == ["first", "second", "third"]


async def test_a_commit_that_fails_is_an_error_for_everybody_in_the_group(sqlite, storage):
    async def break_late():
        async with storage.write() as tx:
            await tx.tenants._db.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
            await tx.clusters.add(4711, "s", b"", 1)

    async with Turn(storage) as turn:
        tasks = await queued(break_late(), write(storage, "third"))
    outcomes = await asyncio.gather(turn.task, *tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
    assert await names(sqlite) == []
    await write(storage, "goes on")
    assert await names(sqlite) == ["goes on"]


async def test_a_full_disk_is_an_error_for_everybody_who_lost_a_row(sqlite, storage):
    """SQLite gives up the whole transaction when there is no room: who waits for its flush must hear of it."""

    async def fill():
        async with storage.write() as tx:
            pages = (await tx.tenants._db.execute(sa.text("PRAGMA page_count"))).scalar_one()
            await tx.tenants._db.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
            await tx.tenants._db.execute(
                sa.text("INSERT INTO tenants VALUES ('full', :big, 0)"), {"big": b"x" * 1_000_000}
            )

    async with Turn(storage) as turn:
        tasks = await queued(fill(), write(storage, "third"), write(storage, "fourth"))
    outcomes = await asyncio.gather(turn.task, *tasks, return_exceptions=True)
    kept = set(await names(sqlite))
    assert isinstance(outcomes[1], StorageUnavailable)
    for name, outcome in zip(["first", "full", "third", "fourth"], outcomes, strict=True):
        assert (outcome is None) == (name in kept), (name, outcome, kept)
    with suppress(StorageUnavailable):
        await write(storage, "next")
    await sqlite.open().close()
    other = sqlite.open()
    await write(other, "goes on")
    assert "goes on" in await names(sqlite)


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
        for lineage in (await tx.sessions.lineages("acme", [f"s{number}" for number in range(50)])).values():
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


async def test_closing_flushes_the_open_group_and_refuses_who_comes_later(sqlite):
    storage = sqlite.open()
    async with asyncio.timeout(5):
        async with Turn(storage) as turn:
            second, closing, late = await queued(write(storage, "second"), storage.close(), write(storage, "late"))
        outcomes = await asyncio.gather(turn.task, second, closing, late, return_exceptions=True)
        assert outcomes[:3] == [None] * 3
        assert isinstance(outcomes[3], StorageUnavailable)
        with pytest.raises(StorageUnavailable):
            await write(storage, "later")
        await storage.close()
    assert await names(sqlite) == ["first", "second"]


async def test_no_writer_is_left_behind_after_a_storm_of_cancellations(sqlite, storage):
    tasks = [asyncio.create_task(write(storage, f"t{n}")) for n in range(150)]
    for number, task in enumerate(tasks):
        if number % 4 == 1:
            task.cancel()
        if number % 10 == 0:
            await asyncio.sleep(0.001)
        if number % 7 == 2 and number > 20:
            tasks[number - 20].cancel()
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kept = set(await names(sqlite))
    for number, outcome in enumerate(outcomes):
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        if outcome is None:
            assert f"t{number}" in kept
    await write(storage, "goes on")
