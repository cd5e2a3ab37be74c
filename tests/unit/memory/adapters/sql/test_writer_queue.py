"""The SQLite writer queue: order, group commit, and what failures and cancellations do to the others in a group."""

import asyncio
from contextlib import suppress

import pytest
import sqlalchemy as sa

from memory.domain.errors import StorageUnavailable
from tests.services import NOW, add_session
from tests.unit.memory.adapters.sql.conftest import Turn, names, queued, write


async def test_two_hundred_writers_are_served_in_the_order_of_their_coming(sqlite, storage):
    await asyncio.gather(*(write(storage, f"t{n:03}") for n in range(200)))
    assert await names(sqlite) == [f"t{n:03}" for n in range(200)]


@pytest.mark.parametrize("group", [1, 3, 64])
async def test_groups_of_any_size_lose_nobody(sqlite, group):
    storage = sqlite.open(group_commit=group)
    await asyncio.gather(*(write(storage, f"t{n}") for n in range(50)))
    assert await names(sqlite) == [f"t{n}" for n in range(50)]


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
