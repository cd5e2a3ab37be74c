"""Does a statement read what it is asked for, or all that a tenant has? As SQLite plans it, without statistics."""

import pytest
import sqlalchemy as sa

from tests.services import NOW, SPACE, TENANT, add_events, add_memory, add_session, new_segment, segments_of


@pytest.fixture
async def plans(storage):
    """Runs a part of a repository; the plans of its statements."""
    async with storage.write() as tx:
        session = await add_session(tx)
        memory = await add_memory(tx)
        await tx.segments.add(TENANT, SPACE, [*segments_of(*await add_events(tx, session, "one", "two"))], NOW)
        await tx.segments.add(TENANT, SPACE, [new_segment(memory.item, session_key=None, seq=0)], NOW)

    async def planned(work):
        said = []

        def note(connection, cursor, statement, parameters, context, executemany):
            said.append((statement, parameters))

        async with storage.read() as tx:
            engine = tx.segments._db.sync_engine
            sa.event.listen(engine, "before_cursor_execute", note)
            try:
                await work(tx)
            finally:
                sa.event.remove(engine, "before_cursor_execute", note)
            found = []
            for statement, parameters in said:
                rows = await tx.segments._db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found.append([row[-1] for row in rows])
        return found

    return planned


async def test_a_page_of_a_rebuild_reads_its_rows_alone(plans):
    async def page(tx):
        items = await tx.changes.items(TENANT)
        assert len(await tx.changes.facts_of(items)) == len(items) == 3
        await tx.changes.vectors_of(SPACE, items)

    for plan in await plans(page):
        assert all("segments" not in step or "(item=? AND space=?)" in step for step in plan), plan
        assert all("SCAN" not in step or "VIRTUAL TABLE" in step for step in plan), plan


async def test_segments_without_a_vector_are_found_by_the_index_of_those(plans):
    async def pending(tx):
        assert len(await tx.segments.pending(TENANT, SPACE, None, 9)) == 1

    plan = (await plans(pending))[0]
    assert any("ix_segments_pending" in step for step in plan), plan


async def test_segments_are_counted_without_reading_them(plans):
    async def counted(tx):
        assert await tx.segments.counts(TENANT) == {"segments": 3, "pending": 3, "held": 0}

    of_all, of_pending, of_held = await plans(counted)
    assert all("COVERING INDEX" in step for step in [*of_all, *of_held]), (of_all, of_held)
    assert all("ix_segments_pending" in step for step in of_pending), of_pending


async def test_a_tenant_of_one_space_is_not_read_to_find_what_is_only_in_others(plans):
    async def looked_for(tx):
        assert await tx.spaces.unfilled(TENANT, SPACE, 0, 9) == []
        assert await tx.spaces.count_unfilled(TENANT, SPACE) == 0

    assert all("COVERING INDEX" in step for plan in await plans(looked_for) for step in plan)
