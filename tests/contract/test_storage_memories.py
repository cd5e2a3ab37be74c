"""What every database keeps to about memories."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from memory.domain.lineage import Lineage
from memory.domain.memories import MemoryKind, MemorySource, MemoryVisibility
from memory.domain.principals import SHARED, TENANT_WIDE, Reach, private_to
from memory.domain.recall import Use
from tests.services import EVERYONE, NOW, SPACE, TENANT, add_memory, add_session, new_memory, new_segment


async def test_a_memory_is_read_as_it_was_written(storage):
    async with storage.write() as tx:
        session = await add_session(tx, "s1")
        written = new_memory(
            "Ann trinkt Tee 🍵\n" * 1_000,
            memory_id="m:1",
            session_key=session.session_key,
            session_id="s1",
            agent_id="ann",
            kind=MemoryKind.PREFERENCE,
            visibility=MemoryVisibility.PRIVATE,
            metadata={"tags": ["tea", None], "n": {"x": 1.5}},
            valid_from=NOW - timedelta(days=1),
            valid_to=datetime.max.replace(tzinfo=UTC),
            expires_at=NOW + timedelta(days=1),
            pinned=True,
            source=MemorySource("s1", ("e1", "e2")),
        )
        stored = await tx.memories.add(written, b"hash", "ann")
        assert stored.memory_key > 0
        assert replace(stored, memory_key=0) == written
    async with storage.read() as tx:
        assert await tx.memories.get(TENANT, "m:1") == stored
        assert await tx.memories.by_keys([stored.memory_key, -1]) == [stored]
        assert await tx.memories.by_scope_hash(TENANT, b"hash") == stored
    async with storage.write() as tx:
        assert await tx.memories.locked(TENANT, "m:1") == stored


async def test_what_is_absent_is_none(storage):
    async with storage.write() as tx:
        assert await tx.memories.get(TENANT, "m") is None
        assert await tx.memories.locked(TENANT, "m") is None
        assert await tx.memories.by_scope_hash(TENANT, b"") is None
        assert await tx.memories.by_keys([]) == []
        assert await tx.versions.as_at([], NOW) == []
        assert await tx.memories.count(TENANT) == 0
        await tx.memories.used({})


@pytest.mark.parametrize("taken", ["memory_id", "scope_hash"])
async def test_a_name_or_a_text_that_is_taken_adds_nothing(storage, taken):
    async with storage.write() as tx:
        first = await add_memory(tx, memory_id="m1")
        memory_id, scope_hash = ("m1", b"other") if taken == "memory_id" else ("m2", b"m1")
        assert await tx.memories.add(new_memory("other", memory_id=memory_id), scope_hash, None) is None
        assert await tx.memories.count(TENANT) == 1
        assert await tx.memories.get(TENANT, "m1") == first


async def test_tenants_may_use_the_same_names_and_texts(storage):
    async with storage.write() as tx:
        mine = await add_memory(tx, memory_id="m", tenant_id="mine")
        theirs = await add_memory(tx, memory_id="m", tenant_id="theirs")
        assert mine.memory_key != theirs.memory_key
        assert await tx.memories.get("mine", "m") == mine
        assert await tx.memories.get("nobody", "m") is None
        assert (await tx.memories.by_scope_hash("theirs", b"m")).tenant_id == "theirs"
        assert await tx.memories.count("mine") == 1


async def test_the_same_text_written_twenty_times_at_once_is_one_memory(database):
    storages = [database.open(), database.open()]
    async with storages[0].write() as tx:
        await tx.tenants.secret(TENANT, NOW)

    async def add(number):
        async with storages[number % 2].write() as tx:
            stored = await tx.memories.add(new_memory(memory_id=f"m{number}"), b"same", None)
            return stored or await tx.memories.by_scope_hash(TENANT, b"same")

    added = await asyncio.gather(*(add(number) for number in range(20)))
    assert len({memory.memory_key for memory in added}) == 1
    assert await database.rows("SELECT count(*) FROM memories") == [(1,)]
    assert await database.rows("SELECT count(*) FROM memory_versions") == [(1,)]


async def test_a_text_that_is_no_longer_valid_may_be_written_again(storage):
    async with storage.write() as tx:
        old = await add_memory(tx, memory_id="old")
        await tx.memories.release_scope_hash(old.memory_key)
        new = await tx.memories.add(new_memory(memory_id="new"), b"old", None)
        assert new is not None
        another = await add_memory(tx, memory_id="another")
        await tx.memories.release_scope_hash(another.memory_key)
        assert (await tx.memories.by_scope_hash(TENANT, b"old")).memory_id == "new"


async def test_every_version_is_kept(storage):
    async with storage.write() as tx:
        first = await add_memory(tx, "one")
        later = [NOW + timedelta(seconds=n) for n in range(4)]
        second = await tx.memories.update(first, {"text": "two", "token_count": 1}, b"2", "bob", later[1])
        third = await tx.memories.update(second, {"pinned": True, "valid_to": NOW}, None, None, later[2])
        assert (third.text, third.version, third.pinned, third.valid_to) == ("two", 3, True, NOW)
        assert (third.updated_at, third.created_at, third.token_count) == (later[2], NOW, 1)
        assert await tx.memories.get(TENANT, first.memory_id) == third
        key = first.memory_key
        before = NOW - timedelta(microseconds=1)
        asked = [before, NOW, later[1] - timedelta(microseconds=1), later[1], later[3]]
        found = [await tx.versions.as_at([third], moment) for moment in asked]
        assert [[m.text for m in memories] for memories in found] == [["one"], ["one"], ["one"], ["two"], ["two"]]
        assert [m.valid_to for memories in found for m in memories] == [None] * 4 + [NOW]
        assert {m.memory_key for memories in found for m in memories} == {key}


async def test_versions_say_who_changed_what(database, storage):
    async with storage.write() as tx:
        first = await add_memory(tx, "one", metadata={"n": 1})
        await tx.memories.update(first, {"visibility": MemoryVisibility.SESSION}, None, "bob", NOW)
    kept = await database.rows("SELECT version, text, visibility, changed_by FROM memory_versions ORDER BY version")
    assert kept == [(1, "one", "tenant", "ann"), (2, "one", "session", "bob")]


async def test_an_edit_may_not_take_another_texts_place(storage):
    async with storage.write() as tx:
        await add_memory(tx, memory_id="a")
        other = await add_memory(tx, memory_id="b")
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.memories.update(other, {"text": "The same."}, b"a", None, NOW)
    async with storage.read() as tx:
        assert await tx.memories.get(TENANT, "b") == other


async def test_what_workers_have_to_cut_is_listed_until_they_did(storage):
    async with storage.write() as tx:
        first, second = await add_memory(tx), await add_memory(tx)
        await add_memory(tx, tenant_id="other")
        assert await tx.memories.unsegmented(TENANT, 9) == [first, second]
        assert await tx.memories.unsegmented(TENANT, 1) == [first]
        await tx.memories.mark_segmented(first)
        assert await tx.memories.unsegmented(TENANT, 9) == [second]
        edited = await tx.memories.update(first, {"text": "x"}, None, None, NOW)
        await tx.memories.mark_segmented(second)
        assert await tx.memories.unsegmented(TENANT, 9) == [edited]


async def test_uses_are_counted_and_the_last_one_is_kept(storage):
    async with storage.write() as tx:
        first, second = await add_memory(tx), await add_memory(tx)
        later = NOW + timedelta(hours=1)
        await tx.memories.used({first.memory_key: Use(1, later), 10**9: Use(1, later)})
        used, unused = await tx.memories.get(TENANT, first.memory_id), await tx.memories.get(TENANT, second.memory_id)
        assert (used.access_count, used.last_accessed_at) == (1, later)
        assert (unused.access_count, unused.last_accessed_at) == (0, None)
        assert used.version == 1
        await tx.memories.used({first.memory_key: Use(3, NOW)})  # another process counted earlier and writes later
        used = await tx.memories.get(TENANT, first.memory_id)
        assert (used.access_count, used.last_accessed_at) == (4, later)


async def test_what_has_expired_is_listed_once_for_whoever_removes_it(database):
    one, other = database.open(), database.open()
    async with one.write() as tx:
        gone = [await add_memory(tx, expires_at=NOW - timedelta(seconds=n), tenant_id=f"t{n % 2}") for n in range(3)]
        await add_memory(tx, expires_at=NOW + timedelta(seconds=1))
        await add_memory(tx)
    async with one.write() as tx:
        assert await tx.memories.expired_of("t0", NOW) == [gone[0].memory_key, gone[2].memory_key]
        assert [memory.memory_key for memory in await tx.memories.expired(NOW, 2)] == [
            gone[2].memory_key,
            gone[1].memory_key,
        ]
        if database.postgresql:
            async with other.write() as beside:
                assert [memory.memory_key for memory in await beside.memories.expired(NOW, 9)] == [gone[0].memory_key]
        await tx.memories.purge(*(memory.memory_key for memory in gone))
        assert await tx.memories.expired(NOW, 9) == []


@pytest.fixture
async def mixed(storage):
    """Five memories by name: tenant, session, ann, bob, foreign (of a second session)."""
    async with storage.write() as tx:
        one, two = await add_session(tx, "s1"), await add_session(tx, "s2")
        await add_memory(tx, memory_id="tenant", kind=MemoryKind.NOTE)
        shared = {"visibility": MemoryVisibility.SESSION, "session_key": one.session_key}
        await add_memory(tx, memory_id="session", agent_id="ann", **shared)
        for agent in ("ann", "bob"):
            await add_memory(tx, memory_id=agent, visibility=MemoryVisibility.PRIVATE, agent_id=agent)
        await add_memory(tx, memory_id="foreign", **{**shared, "session_key": two.session_key})
        await add_memory(tx, memory_id="another tenant's", tenant_id="other")
    return one.session_key


async def test_pages_hold_what_may_be_seen_newest_first(storage, mixed):
    cases = [
        (EVERYONE, {}, ["foreign", "session", "tenant"]),
        (EVERYONE | {private_to("ann")}, {}, ["foreign", "ann", "session", "tenant"]),
        ({TENANT_WIDE}, {}, ["tenant"]),
        ({SHARED}, {}, ["foreign", "session"]),
        ({private_to("bob")}, {}, ["bob"]),
        (set(), {}, []),
        (EVERYONE, {"kind": "note"}, ["tenant"]),
        (EVERYONE | {private_to("ann")}, {"agent_id": "ann"}, ["ann", "session"]),
        (EVERYONE, {"lineage": True}, ["session"]),
        (EVERYONE, {"reach": Reach(frozenset({"s2"}), None)}, ["foreign", "tenant"]),
        (EVERYONE, {"reach": Reach(frozenset(), None)}, ["tenant"]),
        (EVERYONE, {"reach": Reach(frozenset(f"x{n}" for n in range(40_000)) | {"s1"}, None)}, ["session", "tenant"]),
        (EVERYONE, {"limit": 2}, ["foreign", "session"]),
    ]
    async with storage.read() as tx:
        for audiences, options, expected in cases:
            chosen = {"after_key": None, "limit": 9, **options}
            if "lineage" in options:
                chosen["lineage"] = Lineage(mixed)
            found = await tx.memories.page(TENANT, frozenset(audiences), **chosen)
            assert [memory.memory_id for memory in found] == expected, (audiences, options)


async def test_the_next_page_goes_on_after_a_key(storage, mixed):
    async with storage.read() as tx:
        (first,) = await tx.memories.page(TENANT, EVERYONE, after_key=None, limit=1)
        rest = await tx.memories.page(TENANT, EVERYONE, after_key=first.memory_key, limit=9)
        assert [memory.memory_id for memory in rest] == ["session", "tenant"]
        assert {memory.session_id for memory in rest} == {"s1", None}


async def test_memories_derived_from_a_session_are_found(storage):
    async with storage.write() as tx:
        session = await add_session(tx, "s1")
        of_it = await add_memory(tx, session_key=session.session_key, visibility=MemoryVisibility.SESSION)
        derived = await add_memory(tx, source=MemorySource("s1", ("e1",)))
        await add_memory(tx, source=MemorySource("s2", ("e1",)))
        await add_memory(tx, source=MemorySource("s1", ("e1",)), tenant_id="other")
        await add_memory(tx)
        found = await tx.memories.derived_from(session.session_key, "s1", TENANT)
        assert sorted(memory.memory_key for memory in found) == [of_it.memory_key, derived.memory_key]


async def test_a_purged_memory_leaves_no_row(database, storage):
    async with storage.write() as tx:
        gone, stays = await add_memory(tx), await add_memory(tx)
        await tx.memories.update(gone, {"text": "newer"}, None, None, NOW)
        for memory in (gone, stays):
            await tx.segments.add(TENANT, SPACE, [new_segment(memory.item, n) for n in range(2)], NOW)
        first, *_ = await tx.segments.pending(TENANT, SPACE, None, 9)
        await tx.segments.set_vectors({first.segment_key: b"12"}, NOW)
        assert await tx.memories.purge(gone.memory_key) == {"memories": 1, "segments": 2, "vectors": 1}
        assert await tx.memories.purge(gone.memory_key) == {"memories": 0, "segments": 0, "vectors": 0}
    assert await database.rows("SELECT memory_key FROM memories") == [(stays.memory_key,)]
    assert await database.rows("SELECT memory_key FROM memory_versions") == [(stays.memory_key,)]
    assert await database.rows("SELECT DISTINCT item FROM segments") == [(stays.item,)]
