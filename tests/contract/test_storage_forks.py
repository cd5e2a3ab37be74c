"""What every database keeps to about forks: rows that are shared, and handed over."""

import asyncio

from memory.domain.events import Appended, EventVisibility
from memory.domain.memories import MemoryVisibility
from memory.domain.principals import Reach
from memory.domain.sessions import LogSize
from tests.services import EVERYONE, NOW, SPACE, TENANT, add_events, add_memory, add_session, segments_of

ANN = frozenset({"session", "tenant", "private:ann"})


async def fork(tx, parent, session_id, seq):
    """As `services.sessions` does."""
    parent = (await tx.sessions.by_keys([parent.session_key]))[parent.session_key]
    keys = [stretch.session_key for stretch in parent.lineage.stretches]
    size = await tx.events.size(parent, seq)
    inherited = parent.lineage.up_to(seq, size.shared_tokens, await tx.memories.last_of(keys, seq))
    return await tx.sessions.fork(parent, session_id, size, inherited, NOW)


async def family(tx):
    """p: 1 2 3 4; f left it at 3 and has 4 5; g left f at 4 and has 5."""
    parent = await add_session(tx, "p", title="t", metadata={"m": 1}, window_tokens=7, semantic_turns=9)
    await add_events(tx, parent, "one", "two", "three", "four")
    child = await fork(tx, parent, "f", 3)
    await add_events(tx, child, "four of f", "five of f")
    further = await fork(tx, child, "g", 4)
    await add_events(tx, further, "five of g")
    return [(await tx.sessions.get(TENANT, name)) for name in "pfg"]


async def texts(tx, session, **options):
    return [e.content for e in await tx.events.page(session.lineage, EVERYONE, **{"limit": 9, **options})]


async def test_a_fork_has_the_settings_of_its_parent_and_goes_on_where_it_left(storage):
    async with storage.write() as tx:
        parent, child, further = await family(tx)
        assert (child.title, child.metadata, child.window_tokens, child.semantic_turns) == ("t", {"m": 1}, 7, 9)
        assert (child.parent_key, child.family) == (parent.session_key, parent.session_key)
        assert (further.parent_key, further.family) == (child.session_key, parent.session_key)
        assert (further.last_seq, further.event_count, further.token_count, further.shared_tokens) == (5, 5, 10, 10)
        assert (further.inherited_events, further.inherited_tokens) == (4, 8)
        assert await fork(tx, parent, "f", 1) is None
        assert await tx.sessions.lineages(TENANT, ["g", "absent"], Reach(None, None)) == {"g": further.lineage}


async def test_the_log_of_a_fork_is_read_across_its_stretches(storage):
    async with storage.write() as tx:
        parent, child, further = await family(tx)
        assert await texts(tx, parent) == ["one", "two", "three", "four"]
        assert await texts(tx, child) == ["one", "two", "three", "four of f", "five of f"]
        whole = ["one", "two", "three", "four of f", "five of g"]
        assert await texts(tx, further) == whole
        assert await texts(tx, further, descending=True) == whole[::-1]
        assert await texts(tx, further, after_seq=2, before_seq=5, limit=9) == whole[2:4]
        assert await texts(tx, further, after_seq=2, limit=1) == ["three"]
        assert await texts(tx, further, before_seq=5, limit=2, descending=True) == ["four of f", "three"]
        assert [e.content for e in await tx.events.shared_from(further.lineage, 4, below=8, limit=9)] == whole[2:4]
        assert [e.content for e in await tx.events.shared_from(further.lineage, 0, limit=2)] == whole[:2]
        assert [e.seq for e in await tx.events.extents(further.lineage, 3)] == [3, 4, 5]
        assert [await tx.sessions.window_start(further.lineage, at) for at in (0, 5, 8, 9)] == [0, 6, 8, None]
        found = await tx.events.by_ids(further.lineage, ["e1", "e4", "e5", "absent"])
        assert sorted(event.content for event in found) == ["five of g", "four of f", "one"]


async def test_the_size_of_a_log_is_that_up_to_a_place(storage):
    async with storage.write() as tx:
        parent = await add_session(tx, "p")
        await add_events(tx, parent, "one")
        await add_events(tx, parent, "hidden", visibility=EventVisibility.PRIVATE, agent_id="ann")
        await add_events(tx, parent, "three")
        parent = await tx.sessions.get(TENANT, "p")
        assert await tx.events.size(parent, 0) == LogSize()
        assert await tx.events.size(parent, 2) == LogSize(2, 4, 2, 2)
        assert await tx.events.size(parent, 3) == LogSize(3, 6, 4, 3)
        child = await fork(tx, parent, "f", 2)
        assert [e.content for e in await tx.events.private_from(child.lineage, "ann", 1, limit=9)] == ["hidden"]
        assert [e.content for e in await tx.events.page(child.lineage, ANN, limit=9)] == ["one", "hidden"]


async def test_answers_to_inherited_keys_are_the_forks_own(storage):
    async with storage.write() as tx:
        parent = await add_session(tx, "p")
        await add_events(tx, parent, "one", "two")
        for number in (1, 2):
            answer = Appended("p", number, number, (f"e{number}",), 2)
            await tx.events.remember_answer(parent.session_key, b"k%d" % number, b"", answer, NOW)
        child = await fork(tx, parent, "f", 1)
        known = await tx.events.recall_answer(child.lineage, b"k1")
        assert known == (b"", Appended("f", 1, 1, ("e1",), 2))
        assert await tx.events.recall_answer(child.lineage, b"k2") is None


async def test_memories_are_known_by_the_place_where_they_were_written(storage):
    async with storage.write() as tx:
        parent = await add_session(tx, "p")
        of_parent = {"session_key": parent.session_key, "visibility": MemoryVisibility.SESSION}
        first = await add_memory(tx, "first", **of_parent)
        await add_events(tx, parent, "one")
        second = await add_memory(tx, "second", **of_parent)
        key = parent.session_key
        assert await tx.memories.last_of([key], 0) == {key: first.memory_key}
        assert await tx.memories.last_of([key], 1) == {key: second.memory_key}
        assert await tx.memories.last_of([key + 1], 1) == {}
        forks = [await fork(tx, parent, "past", 0), await fork(tx, parent, "now", 1)]
        counted = await tx.sessions.holdings([parent, *forks])
        assert [counted[session.session_key].memories for session in (parent, *forks)] == [2, 1, 2]
        assert [(await tx.sessions.inherited_holdings(session)).memories for session in forks] == [1, 2]


async def test_what_a_tenant_holds_is_counted_once(storage):
    async with storage.write() as tx:
        await family(tx)
        assert await tx.sessions.totals(TENANT) == {"sessions": 3, "events": 7, "tokens": 14}


async def test_what_is_handed_over_is_the_heirs_and_the_rest_goes(storage):
    async with storage.write() as tx:
        parent, child, _ = await family(tx)
        events = await tx.events.page(parent.lineage, EVERYONE, limit=9)
        await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
        pending = await tx.segments.pending(TENANT, SPACE, parent.session_key, 9)
        await tx.segments.set_vectors({segment.segment_key: b"12" for segment in pending[:2]}, NOW)
        cluster = await tx.clusters.add(parent.session_key, "session", b"centroid", 1)
        await tx.segments.hold({pending[0].segment_key: cluster})
        share = child.lineage.share_of(parent.session_key)
        kept = await tx.sessions.hand_over(parent, child.session_key, share)
        assert kept == {"events": 3, "segments": 3, "vectors": 2, "memories": 0}
        counts = await tx.sessions.purge(parent.session_key)
        assert counts == {"events": 1, "segments": 1, "vectors": 0, "clusters": 1, "summaries": 0, "moves": 0}
        child = (await tx.sessions.by_keys([child.session_key]))[child.session_key]
        assert (child.inherited_events, child.inherited_tokens, child.segmented_seq) == (0, 0, 0)
        assert (await tx.sessions.holdings([child]))[child.session_key].segments == 0
        assert [event.seq for event in await tx.events.unsegmented(child.session_key, 0, 9)] == [1, 2, 3, 4, 5]
        assert await tx.sessions.totals(TENANT) == {"sessions": 2, "events": 6, "tokens": 12}


async def test_a_fork_that_was_being_made_is_part_of_the_family_that_is_locked(database):
    """Else its rows would go with the parent's."""
    storage, other = database.open(), database.open()
    async with storage.write() as tx:
        parent = await add_session(tx, "p")
        await add_events(tx, parent, "one")
    forking, purging = asyncio.Event(), asyncio.Event()

    async def make():
        async with storage.write() as tx:
            await tx.sessions.locked(TENANT, "p")
            forking.set()
            await asyncio.wait([asyncio.create_task(purging.wait())], timeout=5)
            await asyncio.sleep(0.2)
            await fork(tx, parent, "f", 1)

    async def look():
        await forking.wait()
        purging.set()
        async with other.write() as tx:
            return [session.session_id for session in await tx.sessions.family_locked(parent)]

    _, found = await asyncio.gather(make(), look())
    assert found == ["p", "f"]


async def test_what_is_written_down_of_the_windows_way_a_fork_does_not_write_down_again(storage):
    async with storage.write() as tx:
        parent = await add_session(tx, "p")
        await add_events(tx, parent, "one", "two", "three")
        await tx.sessions.mark_slid(parent.session_key, 4)
        early, late = await fork(tx, parent, "early", 1), await fork(tx, parent, "late", 3)
        assert (early.slid_tokens, late.slid_tokens) == (2, 4)
