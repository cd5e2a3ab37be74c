"""What every database keeps to about units of work: all or nothing, one view, clear errors."""

import asyncio
import time

import pytest
import sqlalchemy as sa

from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage
from memory.adapters.sql.tables import sessions
from memory.domain.errors import StorageUnavailable
from tests.services import EVERYONE, NOW, TENANT, add_events, add_memory, add_session, new_memory, run_sql


async def test_a_block_that_ends_is_stored(database, storage):
    async with storage.write() as tx:
        await add_session(tx)
    assert await database.rows("SELECT session_id FROM sessions") == [("s",)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError, sa.exc.IntegrityError])
async def test_a_block_that_raises_stores_nothing(database, storage, error):
    raised = error("", None, ValueError()) if error is sa.exc.IntegrityError else error()

    async def fail():
        async with storage.write() as tx:
            await add_events(tx, await add_session(tx), "one", "two")
            await add_memory(tx)
            raise raised

    with pytest.raises(error):
        await fail()
    for table in ("tenants", "sessions", "events", "memories", "memory_versions"):
        assert await database.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    async with storage.write() as tx:
        await add_session(tx)


async def test_one_bad_row_of_many_stores_none(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")

    async def fail():
        async with storage.write() as tx:
            current = await tx.sessions.get(TENANT, "s")
            await add_events(tx, current, *(f"text {n}" for n in range(500)))
            await add_events(tx, session, "its place is taken", event_id="e1")

    with pytest.raises(sa.exc.IntegrityError):
        await fail()
    async with storage.read() as tx:
        assert (await tx.sessions.get(TENANT, "s")).last_seq == 1
        assert len(await tx.events.page(session.lineage, EVERYONE, limit=9)) == 1


async def test_what_is_not_committed_is_not_seen(storage):
    async with storage.write() as tx:
        await add_session(tx)
        async with storage.read() as other:
            assert await other.sessions.get(TENANT, "s") is None
    async with storage.read() as tx:
        assert await tx.sessions.get(TENANT, "s") is not None


async def test_a_read_is_one_view(database, storage):
    """Two questions of one read get answers of the same moment."""
    writer = database.open()
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
    async with storage.read() as tx:
        before = await tx.sessions.get(TENANT, "s")
        async with writer.write() as other:
            await add_events(other, session, "two")
        assert len(await tx.events.page(session.lineage, EVERYONE, limit=9)) == before.last_seq
        assert await tx.sessions.get(TENANT, "s") == before
    async with storage.read() as tx:
        assert len(await tx.events.page(session.lineage, EVERYONE, limit=9)) == 2


async def test_what_is_written_is_seen_within_its_unit(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
        assert (await tx.sessions.get(TENANT, "s")).last_seq == 1


async def test_many_readers_at_once_are_served(database):
    storage = database.open(pool_size=2, connect_timeout=20)
    async with storage.write() as tx:
        await add_session(tx)

    async def read():
        async with storage.read() as tx:
            found = await tx.sessions.get(TENANT, "s")
            await asyncio.sleep(0.01)
            return found

    assert all(await asyncio.gather(*(read() for _ in range(40))))


async def test_readers_beyond_the_pool_are_told_to_try_again(database):
    storage = database.open(pool_size=1, connect_timeout=0.2)
    release = asyncio.Event()

    async def hold():
        async with storage.read() as tx:
            await tx.tenants.ids()
            await release.wait()

    holding = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0.1)
    with pytest.raises(StorageUnavailable):
        await hold()
    with pytest.raises(StorageUnavailable):
        await storage.ping()
    release.set()
    await asyncio.gather(*holding)
    await storage.ping()


async def test_a_locked_session_makes_other_writers_wait(database):
    storages = [database.open(), database.open()]
    async with storages[0].write() as tx:
        await add_session(tx)
    order = []

    async def second():
        async with storages[1].write() as tx:
            await tx.sessions.locked(TENANT, "s")
            order.append("second")

    async with storages[0].write() as tx:
        await tx.sessions.locked(TENANT, "s")
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.2)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_sizes_and_pings_answer(storage):
    await storage.ping()
    assert await storage.bytes_used() > 10_000
    await storage.erase_leftovers()


async def test_a_closed_storage_says_so_and_may_be_closed_again(database):
    storage = database.open()
    async with storage.write() as tx:
        await add_session(tx)
    await storage.close()
    await storage.close()
    if not database.postgresql:
        with pytest.raises(StorageUnavailable):
            async with asyncio.timeout(2), storage.write() as tx:
                await add_session(tx, "late")


async def test_writers_that_wait_for_each_other_are_told_to_try_again(postgresql):
    storage = postgresql.open()
    async with storage.write() as tx:
        await tx.tenants.secret(TENANT, NOW)
    both = asyncio.Barrier(2)

    async def add(first, second):
        async with storage.write() as tx:
            await tx.memories.add(new_memory(first), first.encode(), None)
            await both.wait()
            await tx.memories.add(new_memory(second), second.encode(), None)

    outcomes = await asyncio.gather(add("a", "b"), add("b", "a"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StorageUnavailable"]


async def test_a_server_that_cuts_the_connection_is_unavailable_once(postgresql):
    storage = postgresql.open(pool_size=1)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"

    async def fail():
        async with storage.write() as tx:
            await add_session(tx)
            await postgresql.rows(f"{cut} AND pid <> pg_backend_pid()")
            await add_session(tx, "other")

    with pytest.raises(StorageUnavailable):
        await fail()
    async with storage.write() as tx:  # the pool gets a new one
        assert await tx.sessions.get(TENANT, "s") is None
    async with storage.read() as tx:
        await tx.tenants.ids()


async def test_a_statement_that_takes_too_long_is_unavailable(postgresql):
    storage = postgresql.open(statement_timeout=0.3)
    holder = postgresql.open()
    async with holder.write() as tx:
        session = await add_session(tx)
    async with holder.write() as tx:
        await tx.sessions.locked(TENANT, "s")
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await lock(storage, session.session_key)
        assert time.monotonic() - began < 3


async def lock(storage, session_key):
    async with storage.write() as tx:
        await tx.sessions.locked_by_key(session_key)


async def _unavailable(url, within=4.0, **settings):
    storage = SqlStorage(url, DatabaseSettings(**settings))
    began = time.monotonic()
    try:
        for ask in (storage.ping, lambda: _one(storage.read), lambda: _one(storage.write), storage.migrate):
            with pytest.raises(StorageUnavailable) as raised:
                await ask()
            assert "secret" not in raised.value.detail
    finally:
        await storage.close()
    assert time.monotonic() - began < within


async def _one(unit):
    async with unit() as tx:
        await tx.tenants.ids()


async def test_nobody_at_the_port_is_unavailable():
    await _unavailable("postgresql://me:secret@127.0.0.1:1/test")


async def test_a_server_that_says_nothing_is_unavailable():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await _unavailable(f"postgresql://me:secret@127.0.0.1:{port}/test", connect_timeout=0.3)


async def test_a_name_that_nobody_knows_is_unavailable():
    await _unavailable("postgresql://me:secret@no-such-host.invalid/test", within=15, connect_timeout=2)


@pytest.mark.parametrize("reason", ["database", "role", "full"])
async def test_a_server_that_refuses_is_unavailable(postgres_url, reason):
    url = sa.make_url(postgres_url)
    role = f"stratamem_test_{url.database[-8:]}"
    if reason == "full":
        await asyncio.to_thread(run_sql, postgres_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    changed = url.set(database="no_such_database") if reason == "database" else url.set(username=role)
    try:
        await _unavailable(changed.render_as_string(hide_password=False))
    finally:
        if reason == "full":
            await asyncio.to_thread(run_sql, postgres_url, f"DROP ROLE {role}")


async def test_errors_do_not_repeat_what_was_said(storage):
    """Logs hold the detail of errors: they are no place for texts."""
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
    with pytest.raises(sa.exc.IntegrityError) as raised:
        async with storage.write() as tx:
            await add_events(tx, session, "very private words", event_id="e1")
    assert "very private words" not in str(raised.value)


async def test_a_caller_of_the_tables_sees_the_same_rows(database, storage):
    """The names of columns are those of the domain: `rows.session` takes a row as it is."""
    async with storage.write() as tx:
        session = await add_session(tx)
    (row,) = await database.rows("SELECT * FROM sessions")
    assert len(row) == len(sessions.columns)
    assert row[0] == session.session_key
