"""What a redaction leaves of an event, and what it takes along."""

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.memories import MemorySource
from memory.services.redaction import redact
from tests.services import EVERYONE, NOW, SPACE, TENANT, add_events, add_memory, add_session, segments_of

SECRET = "the tangerine password"


async def test_an_event_keeps_its_place_and_its_count_and_nothing_else(storage, database):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
        (event,) = await add_events(tx, session, SECRET, metadata={"secret": SECRET}, name="tangerine")
        await tx.events.redact(event)
        await tx.sessions.redacted(session.session_key)
        after = (await tx.events.page(session.lineage, EVERYONE, limit=9))[1]
        kept = ("event_key", "seq", "event_id", "agent_id", "role", "created_at", "token_count", "token_start", "turn")
        assert {name: getattr(after, name) for name in kept} == {name: getattr(event, name) for name in kept}
        assert (after.content, after.name, after.metadata, after.redacted) == ("", None, {}, True)
        assert (await tx.sessions.get(TENANT, "s")).redactions == 1
        assert await tx.sessions.all_redactions(TENANT) == 1
        assert await tx.sessions.all_redactions("other") == 0
    assert not [row for row in await database.rows("SELECT * FROM events") if "tangerine" in str(row)]


async def test_followers_find_it_among_what_is_gone_and_nowhere_else(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        one, event, three = await add_events(tx, session, "one", SECRET, "three")
        await tx.events.redact(event)
        key = session.session_key
        assert await tx.changes.redacted_items(key, 1, 3) == [event.item]
        assert await tx.changes.redacted_items(key, 3, 3) == []
        assert [facts.item for facts in await tx.changes.event_facts(key, 1, 3)] == [one.item, three.item]
        assert [facts.item for facts in await tx.changes.facts_of(await tx.changes.items(TENANT))] == [
            one.item,
            three.item,
        ]


async def test_all_that_was_made_of_it_goes_along(storage):
    async with storage.write() as tx:
        session, other = await add_session(tx), await add_session(tx, "other")
        key = session.session_key
        events = await add_events(tx, session, "one", SECRET)
        await tx.segments.add(TENANT, SPACE, segments_of(*events), NOW)
        pending = await tx.segments.pending(TENANT, SPACE, key, 9)
        await tx.segments.set_vectors({segment.segment_key: b"12" for segment in pending}, NOW)
        cluster = await tx.clusters.add(key, "session", b"centroid", 2)
        await tx.segments.hold({segment.segment_key: cluster for segment in pending})
        await tx.summaries.add(key, {1: [SECRET]})
        await tx.summaries.add(other.session_key, {1: ["stays"]})
        named = await add_memory(tx, SECRET, source=MemorySource("s", ("e1", "e2")))
        stays = await add_memory(tx, "stays", source=MemorySource("s", ("e1",)))
        elsewhere = await add_memory(tx, "stays, too", source=MemorySource("other", ("e2",)))
        purged = await redact(tx, [events[1]], [session], TENANT, NOW)
        assert (purged["events"], purged["segments"], purged["vectors"], purged["memories"]) == (1, 1, 1, 1)
        assert await tx.memories.get(TENANT, named.memory_id) is None
        for memory in (stays, elsewhere):
            assert await tx.memories.get(TENANT, memory.memory_id) is not None
        assert await tx.clusters.of_session(key) == []
        assert await tx.segments.held(key, SPACE) == []
        assert [v.item for v in await tx.changes.vectors_of(SPACE, [event.item for event in events])] == [
            events[0].item
        ]
        assert await tx.summaries.newest(key, up_to=9) == (0, [])
        assert await tx.summaries.newest(other.session_key, up_to=9) == (1, ["stays"])


async def test_a_redaction_is_a_change_like_any_other(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        head = await tx.changes.head()
        await tx.changes.add(NewChange(ChangeKind.REDACTED, TENANT, session.session_key, 2, 2))
    async with storage.read() as tx:
        (change,) = await tx.changes.after(head, limit=9)
    assert (change.kind, change.session_key, change.first_seq) == (ChangeKind.REDACTED, session.session_key, 2)
