"""After a purge no table holds a row of it, and no key is ever given out again."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from memory.adapters.sql.tables import metadata
from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.codecs import Code, NewCodebook, Retention
from memory.domain.events import Appended, EventVisibility
from memory.domain.memories import MemorySource, MemoryVisibility
from memory.domain.operations import OperationKind
from tests.services import (
    NOW,
    SPACE,
    TENANT,
    add_events,
    add_memory,
    add_session,
    new_move,
    new_segment,
    segments_of,
)

MARK = "xyzzy-marker"

# The feed names what was purged by its key, so that followers forget it; it holds nothing else of it.
NAMES_ONLY = {"changes"}
# Without a session: key, node, ticket, model. A ticket goes with its turn, which adds nothing to what was purged.
# The audit and receipts name a session by its id, and stay: they prove that it was purged.
NOT_OF_A_SESSION = {"keys", "followers", "turns", "audit", "receipts", "spaces"}


async def fill(tx, session_id, mark):
    """A session with a row in every table that can hold one of it."""
    session = await add_session(tx, session_id, title=mark, metadata={"m": mark})
    key = session.session_key
    events = await add_events(tx, session, f"{mark} one", f"{mark} two", metadata={"m": mark}, name=mark)
    events += await add_events(tx, session, f"{mark} three", visibility=EventVisibility.PRIVATE)
    of_it = await add_memory(tx, mark, session_key=key, visibility=MemoryVisibility.SESSION, metadata={"m": mark})
    edited = await tx.memories.update(of_it, {"text": f"{mark} edited"}, None, mark, NOW)
    await add_memory(tx, mark, source=MemorySource(session_id, ("e1",)))
    pieces = [*segments_of(*events), new_segment(edited.item, session_key=key)]
    await tx.segments.add(TENANT, SPACE, pieces, NOW)
    pending = await tx.segments.pending(TENANT, SPACE, key, 9)
    await tx.segments.set_vectors({segment.segment_key: mark.encode() for segment in pending[:2]}, NOW)
    cluster = await tx.clusters.add(key, "session", mark.encode(), 1)
    await tx.segments.hold({pending[0].segment_key: cluster})
    if not await tx.codebooks.all(TENANT, SPACE):
        await tx.codebooks.publish(TENANT, SPACE, [NewCodebook("pq", b"", Retention(1.0, 1, 1.0), 1)], NOW)
    (codebook,) = await tx.codebooks.all(TENANT, SPACE)
    held = (pending[1].segment_key,)
    await tx.codebooks.add_codes(TENANT, [Code(codebook.codebook_key, key, "session", held, mark.encode())])
    await tx.moves.add(TENANT, [new_move(session)], NOW)
    await tx.summaries.add(key, {1: [mark], 2: [mark]})
    await tx.events.remember_answer(key, mark.encode(), b"", Appended(session_id, 1, 1, (mark,), 1), NOW)
    await tx.operations.enqueue(
        TENANT, OperationKind.INDEX, f"session:{key}", NOW, session_key=key, session_id=session_id, unit="events"
    )
    await tx.changes.add(NewChange(ChangeKind.EVENTS, TENANT, key, 1, 3))
    await tx.agents.put(key, mark, AgentRole.OWNER, NOW)
    return session


async def purge(tx, session):
    """As `services.forgetting` does."""
    for memory in await tx.memories.derived_from(session.session_key, session.session_id, TENANT):
        await tx.memories.purge(memory.memory_key)
    return await tx.sessions.purge(session.session_key)


async def everything(database):
    """Every table of the database that exists, by introspection: its rows."""
    query = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        if database.postgresql
        else "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    names = [name for (name,) in await database.rows(query)]
    assert set(metadata.tables) <= set(names)
    return {name: await database.rows(f'SELECT * FROM "{name}"') for name in names}


async def test_a_purged_session_leaves_no_row(database, storage):
    async with storage.write() as tx:
        stays = await fill(tx, "stays", "keep")
    before = await everything(database)
    assert all(before[name] for name in set(metadata.tables) - NOT_OF_A_SESSION)
    async with storage.write() as tx:
        gone = await fill(tx, "goes", MARK)
    assert MARK in str(await everything(database))
    async with storage.write() as tx:
        counts = await purge(tx, gone)
    # the segment of its memory went with the memory
    assert counts == {"events": 3, "segments": 3, "vectors": 2, "clusters": 1, "summaries": 2, "moves": 1}
    after = await everything(database)
    assert MARK not in str(after)
    for name in set(before) - NAMES_ONLY:
        assert after[name] == before[name], name
    async with storage.read() as tx:
        assert await tx.sessions.by_keys([gone.session_key]) == {}
        assert list(await tx.sessions.by_keys([stays.session_key])) == [stays.session_key]


async def test_a_purge_reaches_the_vectors_of_every_space(database, storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        events = await add_events(tx, session, "one")
        of_it = await add_memory(tx, "two", session_key=session.session_key, visibility=MemoryVisibility.SESSION)
        pieces = [*segments_of(*events), new_segment(of_it.item, session_key=session.session_key)]
        for space in (SPACE, "another"):
            await tx.spaces.fill(TENANT, space, pieces, [MARK.encode()] * 2, NOW)
    assert len(await database.rows("SELECT vector FROM segments")) == 4
    async with storage.write() as tx:
        counts = await purge(tx, session)
    assert (counts["segments"], counts["vectors"]) == (2, 2)  # those of its memory went with the memory
    assert await database.rows("SELECT vector FROM segments") == []


async def test_every_column_that_names_a_session_is_known_to_the_purge(database):
    """A new table with a session_key must be added to `purge`, and then here."""
    named = {table.name for table in metadata.tables.values() if "session_key" in table.columns}
    covered = {"sessions", "events", "memories", "segments", "clusters", "summaries", "codes", "moves"}
    covered |= {"idempotency", "operations", "session_agents"}
    assert named == covered | NAMES_ONLY


async def test_a_session_with_memories_is_not_purged_by_half(storage):
    async with storage.write() as tx:
        session = await fill(tx, "s", MARK)
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.sessions.purge(session.session_key)
    async with storage.read() as tx:
        assert (await tx.sessions.get(TENANT, "s")).event_count == 3
        assert len(await tx.segments.pending(TENANT, SPACE, session.session_key, 9)) == 1


async def test_purging_twice_counts_nothing(storage):
    async with storage.write() as tx:
        session = await fill(tx, "s", MARK)
        await purge(tx, session)
        counts = await purge(tx, session)
        assert set(counts.values()) == {0}


async def test_no_key_is_given_out_again(database):
    """Not even the highest ones, and not after all connections were closed."""
    keys = {
        "sessions": "session_key",
        "events": "event_key",
        "memories": "memory_key",
        "segments": "segment_key",
        "clusters": "cluster_key",
        "moves": "move_key",
        "changes": "number",
    }
    highest = dict.fromkeys(keys, 0)
    for _ in range(3):
        storage = database.open()
        async with storage.write() as tx:
            session = await fill(tx, "s", MARK)
        for table, key in keys.items():
            ((low, high),) = await database.rows(f"SELECT min({key}), max({key}) FROM {table}")
            assert low > highest[table] or table == "changes", table
            assert high > highest[table], table
            highest[table] = high
        async with storage.write() as tx:
            await purge(tx, session)
        await storage.close()
    for table in metadata.tables.values():
        if table.name in keys and not database.postgresql:
            ((sql,),) = await database.rows("SELECT sql FROM sqlite_master WHERE name = :name", name=table.name)
            assert "AUTOINCREMENT" in sql


async def test_a_session_made_again_is_another_one(storage):
    async with storage.write() as tx:
        first = await fill(tx, "s", MARK)
        await purge(tx, first)
        second = await add_session(tx, "s")
        assert second.session_key > first.session_key
        assert second.last_seq == 0
        (event,) = await add_events(tx, second, "new")
        assert event.seq == 1


async def test_foreign_keys_hold(database):
    wrong = "INSERT INTO clusters (session_key, audience, centroid, size) VALUES (4711, 's', :c, 1)"
    with pytest.raises(sa.exc.IntegrityError):
        await database.rows(wrong, c=b"")
