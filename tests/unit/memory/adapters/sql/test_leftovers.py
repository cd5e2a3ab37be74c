"""What is left in the files of a SQLite database of rows that were deleted, once their leftovers are erased?"""

import asyncio
import random
import sqlite3
import threading
import time

import pytest

from memory.adapters.sql import leftovers, sqlite_driver
from memory.adapters.sql.sqlite_driver import Connection
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import StorageUnavailable
from tests.services import NOW, SPACE, TENANT, add_events, add_session, segments_of
from tests.unit.memory.adapters.sql.conftest import queued, write

MARKER = b"xyzzy"


def holding(database):
    """The database's files that hold a piece of what was marked."""
    return {file.name for file in database.file.parent.iterdir() if MARKER in file.read_bytes()}


async def lives(storage, rounds, chance):
    """Two sessions that grow side by side, as agents write and workers embed; all of the second is marked."""
    async with storage.write() as tx:
        kept, going = await add_session(tx, "kept"), await add_session(tx, "going")
    for _ in range(rounds):
        for session, word in ((kept, "plain"), (going, MARKER.decode())):
            texts = [f"{word} " * chance.randint(1, 12) for _ in range(chance.randint(1, 12))]
            async with storage.write() as tx:
                events = await add_events(tx, session, *texts)
                await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
            async with storage.write() as tx:
                pending = await tx.segments.pending(TENANT, SPACE, session.session_key, 99)
                vector = (word * 200).encode()[:768]
                await tx.segments.set_vectors({segment.segment_key: vector for segment in pending}, NOW)
    return going


@pytest.mark.parametrize("seed", range(5))
async def test_rows_that_grew_and_were_moved_leave_nothing(sqlite, storage, seed):
    """A page that SQLite fills anew keeps old bytes between its rows: secure_delete overwrites what is deleted, not
    what is moved."""
    going = await lives(storage, 8, random.Random(seed))
    assert holding(sqlite)
    async with storage.write() as tx:
        await tx.sessions.purge(going.session_key)
    await storage.erase_leftovers()
    assert not holding(sqlite)


@pytest.fixture
def rewritings(monkeypatch):
    """When the file was written anew, by the test's own clock."""
    made, vacuum = [], Connection.vacuum

    async def counting(self, patience):
        await vacuum(self, patience)
        made.append(time.monotonic())

    monkeypatch.setattr(Connection, "vacuum", counting)
    return made


async def change(storage):
    """Something is deleted; its place in the feed."""
    async with storage.write() as tx:
        return await tx.changes.add(NewChange(ChangeKind.MEMORY, TENANT, memory_key=1))


async def test_one_rewriting_serves_all_that_was_deleted_before_it(storage, rewritings):
    first, second = await change(storage), await change(storage)
    await storage.erase_leftovers(second)
    await storage.erase_leftovers(first)
    await storage.erase_leftovers(second)
    assert len(rewritings) == 1
    await storage.erase_leftovers(await change(storage))
    assert len(rewritings) == 2
    await storage.erase_leftovers()
    assert len(rewritings) == 3


async def test_a_reader_that_stays_does_not_have_the_file_written_again_and_again(storage, rewritings):
    deleted = await change(storage)
    async with storage.read() as tx:
        await tx.tenants.ids()
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="write-ahead log"):
                await storage.erase_leftovers(deleted)
    await storage.erase_leftovers(deleted)
    assert len(rewritings) == 1


async def test_long_rewritings_leave_writers_room(storage, rewritings, monkeypatch):
    monkeypatch.setattr(leftovers, "_SHORT", 0.0)
    monkeypatch.setattr(leftovers, "_SPACING", 1_000_000)
    await storage.erase_leftovers(await change(storage))
    with pytest.raises(StorageUnavailable, match="after a pause"):
        await storage.erase_leftovers(await change(storage))
    await write(storage, "goes on")
    assert len(rewritings) == 1


async def test_who_cannot_wait_for_a_large_file_is_told_at_once(storage, rewritings, monkeypatch):
    deleted = await change(storage)
    monkeypatch.setattr(leftovers, "_BYTES_A_SECOND", 1)
    with pytest.raises(StorageUnavailable, match="so large"):
        await storage.erase_leftovers(deleted, within=2)
    assert not rewritings
    await storage.erase_leftovers(deleted)
    await storage.erase_leftovers(deleted, within=2)
    assert len(rewritings) == 1


async def test_a_rewriting_waits_for_the_writers_of_other_processes(sqlite, storage, rewritings):
    other = sqlite.open()
    async with other.write() as tx:
        await tx.tenants.secret("other", NOW)
        (erasing,) = await queued(storage.erase_leftovers())
        assert not rewritings
    await erasing
    assert len(rewritings) == 1


async def test_a_rewriting_whose_caller_is_cancelled_stops(sqlite, storage, monkeypatch):
    """A process that ends does not wait for it."""
    begun, cancelled, vacuum = threading.Event(), threading.Event(), Connection.vacuum

    def hold_up(_action, _one, _two, database, _trigger):
        if database == "vacuum_db":  # where the rows are about to be copied to
            begun.set()
            cancelled.wait(10)
        return sqlite3.SQLITE_OK

    async def held_up(self, patience):
        await self.answer_of(lambda connection: connection.set_authorizer(hold_up))
        await vacuum(self, patience)

    monkeypatch.setattr(sqlite_driver, "_LOOK_STEPS", 1)
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, *(["hello"] * 500))
    async with storage.write() as tx:
        await tx.sessions.purge(session.session_key)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "vacuum", held_up)
        erasing = asyncio.create_task(storage.erase_leftovers())
        assert await asyncio.to_thread(begun.wait, 10)
        erasing.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await erasing
    assert await sqlite.rows("PRAGMA freelist_count") > [(0,)]
    await storage.erase_leftovers()
    assert await sqlite.rows("PRAGMA freelist_count") == [(0,)]
