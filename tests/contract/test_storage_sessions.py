"""What every database keeps to about sessions."""

from memory.domain.agents import AgentRole
from memory.domain.events import EventVisibility, Role
from memory.domain.memories import MemoryVisibility
from memory.domain.principals import Reach
from memory.domain.sessions import Holdings, NewSession, Session
from tests.services import NOW, SPACE, TENANT, add_events, add_memory, add_session, new_event, segments_of


async def test_a_session_is_read_as_it_was_made(storage):
    metadata = {"topic": {"deep": ["é", 1, 2.5, True, None]}, "empty": {}, "quote": "\"\\' \u2028"}
    async with storage.write() as tx:
        made = await add_session(tx, "s1", title="Ü 漢字 🙂", metadata=metadata, window_tokens=10, semantic_turns=3)
    assert made == Session(
        session_key=made.session_key,
        tenant_id=TENANT,
        session_id="s1",
        title="Ü 漢字 🙂",
        metadata=metadata,
        window_tokens=10,
        semantic_turns=3,
        created_at=NOW,
        updated_at=NOW,
        last_seq=0,
        event_count=0,
        token_count=0,
        shared_tokens=0,
        turns=0,
        version=1,
        segmented_seq=0,
        semantic_version=0,
    )
    async with storage.read() as tx:
        assert await tx.sessions.get(TENANT, "s1") == made
        assert await tx.sessions.by_keys([made.session_key, -1]) == {made.session_key: made}
    async with storage.write() as tx:
        assert await tx.sessions.locked(TENANT, "s1") == made
        assert await tx.sessions.locked_by_key(made.session_key) == made


async def test_a_session_that_exists_is_not_made_again(storage):
    async with storage.write() as tx:
        await add_session(tx, "s", title="first")
        assert await tx.sessions.create(TENANT, NewSession("s", title="second"), NOW) is None
        assert (await tx.sessions.get(TENANT, "s")).title == "first"


async def test_tenants_do_not_see_each_other(storage):
    async with storage.write() as tx:
        mine, theirs = await add_session(tx, "s", "mine"), await add_session(tx, "s", "theirs")
        assert mine.session_key != theirs.session_key
    async with storage.read() as tx:
        assert await tx.sessions.get("mine", "s") == mine
        assert await tx.sessions.get("nobody", "s") is None
        assert await tx.sessions.lineages("mine", ["s", "absent"], Reach(None, None)) == {"s": mine.lineage}
        assert await tx.sessions.page("mine", after_key=None, limit=9) == [mine]


async def test_what_is_absent_is_none(storage):
    async with storage.write() as tx:
        assert await tx.sessions.get(TENANT, "s") is None
        assert await tx.sessions.locked(TENANT, "s") is None
        assert await tx.sessions.locked_by_key(7) is None
        assert await tx.sessions.by_keys([]) == {}
        assert await tx.sessions.lineages(TENANT, [], Reach(None, None)) == {}
        assert await tx.sessions.totals(TENANT) == {"sessions": 0, "events": 0, "tokens": 0}


async def test_sessions_are_paged_newest_first(storage):
    async with storage.write() as tx:
        made = [await add_session(tx, f"s{n}") for n in range(7)]
    newest = made[::-1]
    async with storage.read() as tx:
        first = await tx.sessions.page(TENANT, after_key=None, limit=3)
        second = await tx.sessions.page(TENANT, after_key=first[-1].session_key, limit=9)
        assert first + second == newest
        some = await tx.sessions.page(TENANT, after_key=None, limit=9, reach=Reach(frozenset({"s1", "s4", "x"}), None))
        assert [session.session_id for session in some] == ["s4", "s1"]
        assert await tx.sessions.page(TENANT, after_key=None, limit=9, reach=Reach(frozenset(), None)) == []


async def test_an_update_is_the_next_version(storage):
    async with storage.write() as tx:
        made = await add_session(tx, title="before", metadata={"a": 1})
        later = NOW.replace(hour=13)
        changed = await tx.sessions.update(made, {"title": None, "metadata": {"b": 2}, "window_tokens": 5}, later)
        assert (changed.title, changed.metadata, changed.window_tokens) == (None, {"b": 2}, 5)
        assert (changed.version, changed.updated_at, changed.created_at) == (2, later, NOW)
        assert changed.etag != made.etag
        assert await tx.sessions.get(TENANT, "s") == changed


async def test_counters_follow_the_log(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        added = [
            new_event(session, 1, token_count=5),
            new_event(session, 2, token_count=7, visibility=EventVisibility.PRIVATE),
            new_event(session, 3, token_count=11, role=Role.ASSISTANT),
        ]
        await tx.events.add(added, "words")
        await tx.sessions.advance([session.grown(added)], NOW)
        after = await tx.sessions.get(TENANT, "s")
        assert (after.last_seq, after.event_count, after.turns) == (3, 3, 2)
        assert (after.token_count, after.shared_tokens) == (23, 16)
        assert after.version == session.version
        assert await tx.sessions.totals(TENANT) == {"sessions": 1, "events": 3, "tokens": 23}


async def test_progress_of_consolidation_never_goes_back(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.sessions.mark_segmented(session.session_key, 5)
        await tx.sessions.mark_segmented(session.session_key, 3)
        await tx.sessions.bump_semantic(session.session_key)
        await tx.sessions.bump_semantic(session.session_key)
        after = await tx.sessions.get(TENANT, "s")
        assert (after.segmented_seq, after.semantic_version) == (5, 2)


async def test_what_each_tier_holds_is_counted_by_session(storage):
    async with storage.write() as tx:
        full, empty = await add_session(tx, "full"), await add_session(tx, "empty")
        key = full.session_key
        await add_memory(tx, session_key=key, visibility=MemoryVisibility.SESSION)
        await tx.segments.add(TENANT, SPACE, segments_of(*await add_events(tx, full, "one", "two")), NOW)
        cluster = await tx.clusters.add(key, "session", b"centroid", 1)
        first, _ = await tx.segments.pending(TENANT, SPACE, key, 9)
        await tx.segments.set_vectors({first.segment_key: b"12"}, NOW)
        await tx.segments.hold({first.segment_key: cluster})
        counted = await tx.sessions.holdings([full, empty])
        assert counted == {key: Holdings(1, 1, 1), empty.session_key: Holdings()}
        assert await tx.sessions.holdings([]) == {}


async def test_the_window_starts_at_a_shared_event(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one", "two")
        await add_events(tx, session, "hidden", visibility=EventVisibility.PRIVATE)
        found = [await tx.sessions.window_start(session.lineage, asked) for asked in range(4)]
        assert found == [0, 2, 2, None]


async def test_forty_thousand_keys_are_asked_for_at_once(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
        many = [*range(session.session_key + 1, session.session_key + 40_000), session.session_key]
        assert list(await tx.sessions.by_keys(many)) == [session.session_key]
        names = [f"x{n}" for n in range(40_000)] + ["s"]
        assert await tx.sessions.lineages(TENANT, names, Reach(None, None)) == {"s": session.lineage}
        page = await tx.sessions.page(TENANT, after_key=None, limit=9, reach=Reach(frozenset(names), None))
        assert [found.session_id for found in page] == ["s"]


async def test_several_sessions_are_locked_and_grow_together(storage):
    async with storage.write() as tx:
        one, two = await add_session(tx, "s1"), await add_session(tx, "s2")
        foreign = await add_session(tx, "s1", "other")
        names = [("other", "s1"), (TENANT, "s2"), (TENANT, "absent"), (TENANT, "s1")]
        assert await tx.sessions.all_locked(names) == [one, two, foreign]
        assert await tx.sessions.all_locked(names[1:2]) == [two]
        assert await tx.sessions.all_locked(names[2:3]) == []
        grown = [one.grown([new_event(one, 1)]), two.grown([new_event(two, 1), new_event(two, 2)])]
        later = NOW.replace(hour=13)
        await tx.sessions.advance(grown, later)
        after = await tx.sessions.all_locked(names)
        assert [(session.last_seq, session.token_count) for session in after] == [(1, 2), (2, 4), (0, 0)]
        assert [session.updated_at for session in after] == [later, later, NOW]


async def test_sessions_are_found_by_a_part_of_their_name_or_of_an_open_title(storage):
    async with storage.write() as tx:
        for session_id, title in (("trip-1", "Lisbon"), ("trip_2", None), ("room", "Trip to Rome"), ("x", "50% off")):
            await add_session(tx, session_id, title=title)
        closed = await add_session(tx, "closed", title="A secret trip")
        await tx.agents.put(closed.session_key, "ann", AgentRole.OWNER, NOW)
    async with storage.read() as tx:

        async def found(named, titles=True):
            page = await tx.sessions.page(TENANT, after_key=None, limit=9, named=named, titles=titles)
            return [session.session_id for session in page]

        assert await found("TRIP") == ["room", "trip_2", "trip-1"]
        assert await found("trip", titles=False) == ["trip_2", "trip-1"]
        assert await found("trip_") == ["trip_2"], "a wildcard of SQL is a letter here"
        assert await found("0%") == ["x"]
        assert await found("nowhere") == []
