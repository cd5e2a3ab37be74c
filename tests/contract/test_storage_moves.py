"""What every database keeps to about moves between tiers: a ring of each tenant's newest."""

from datetime import timedelta

import pytest

from memory.adapters.sql.moves import SqlMoves
from memory.domain.moves import Reason
from tests.services import NOW, TENANT, add_session, new_move

EVERYBODY = frozenset({"session"})


async def page(tx, tenant_id=TENANT, audiences=EVERYBODY, **options):
    wanted = {"session_key": None, "before_key": None, "limit": 100} | options
    return await tx.moves.page(tenant_id, audiences, **wanted)


async def test_a_move_comes_back_as_it_was_written(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        slid = new_move(session, reason=Reason.WINDOW_SLID, score=None, parts=None, cluster_key=None, unit="tokens")
        await tx.moves.add(TENANT, [new_move(session), slid], NOW)
        await tx.moves.add(TENANT, [], NOW)
    async with storage.read() as tx:
        newest, first = await page(tx)
    assert (first.what, newest.what) == (new_move(session), slid)
    assert (first.session_id, first.at) == (session.session_id, NOW)
    assert newest.move_key > first.move_key


async def test_pages_go_on_where_the_last_ended(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.moves.add(TENANT, [new_move(session, seq) for seq in range(1, 6)], NOW)
    async with storage.read() as tx:
        first = await page(tx, limit=2)
        second = await page(tx, limit=2, before_key=first[-1].move_key)
        last = await page(tx, limit=2, before_key=second[-1].move_key)
    assert [move.what.first_seq for move in first + second + last] == [5, 4, 3, 2, 1]


async def test_only_what_the_caller_may_see_comes(storage):
    async with storage.write() as tx:
        ours, another = await add_session(tx, "ours"), await add_session(tx, "another")
        foreign = await add_session(tx, "ours", tenant_id="other")
        await tx.moves.add(TENANT, [new_move(ours), new_move(another, 2)], NOW)
        await tx.moves.add(TENANT, [new_move(ours, 3, audience="private:ann")], NOW)
        await tx.moves.add("other", [new_move(foreign, 4)], NOW)
    async with storage.read() as tx:
        assert [move.what.first_seq for move in await page(tx)] == [2, 1]
        assert [move.what.first_seq for move in await page(tx, session_key=ours.session_key)] == [1]
        assert [move.what.first_seq for move in await page(tx, only_sessions=frozenset({"another"}))] == [2]
        anns = EVERYBODY | {"private:ann"}
        assert [move.what.first_seq for move in await page(tx, audiences=anns)] == [3, 2, 1]
        assert [move.what.first_seq for move in await page(tx, "other")] == [4]
        assert await page(tx, only_sessions=frozenset()) == []


async def test_of_each_tenant_the_newest_are_kept(storage):
    async with storage.write() as tx:
        session, foreign = await add_session(tx), await add_session(tx, tenant_id="other")
        few = SqlMoves(tx.moves._db, most=3)
        await few.add("other", [new_move(foreign)], NOW)
        for seq in range(1, 6):
            await few.add(TENANT, [new_move(session, seq)], NOW)
    async with storage.read() as tx:
        assert [move.what.first_seq for move in await page(tx)] == [5, 4, 3]
        assert len(await page(tx, "other")) == 1


async def test_more_at_once_than_are_kept_leaves_the_last_of_them(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        few = SqlMoves(tx.moves._db, most=3)
        await few.add(TENANT, [new_move(session, seq) for seq in range(1, 9)], NOW)
    async with storage.read() as tx:
        assert [move.what.first_seq for move in await page(tx)] == [8, 7, 6]


async def test_what_is_old_is_forgotten(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.moves.add(TENANT, [new_move(session, 1)], NOW - timedelta(days=8))
        await tx.moves.add(TENANT, [new_move(session, 2)], NOW)
        assert await tx.moves.forget(NOW - timedelta(days=7)) == 1
        assert [move.what.first_seq for move in await page(tx)] == [2]


async def test_moves_go_with_their_session(storage):
    async with storage.write() as tx:
        gone, stays = await add_session(tx, "gone"), await add_session(tx, "stays")
        await tx.moves.add(TENANT, [new_move(gone), new_move(stays), new_move(gone)], NOW)
        assert (await tx.sessions.purge(gone.session_key))["moves"] == 2
        assert [move.session_id for move in await page(tx)] == ["stays"]


async def test_how_far_the_window_has_slid_is_kept(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        assert session.slid_tokens == 0
        await tx.sessions.mark_slid(session.session_key, 4_096)
        found = await tx.sessions.by_keys([session.session_key])
        assert found[session.session_key].slid_tokens == 4_096


@pytest.mark.parametrize("field", ["first_seq", "size"])
async def test_numbers_beyond_32_bits_are_kept(storage, field):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.moves.add(TENANT, [new_move(session, **{field: 2**40})], NOW)
        (found,) = await page(tx)
        assert getattr(found.what, field) == 2**40
