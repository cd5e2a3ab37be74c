"""What every database keeps to about the queue of a session's turns."""

import asyncio
from datetime import timedelta

from tests.services import NOW, TENANT

LEASE = timedelta(seconds=30)
LATER = NOW + LEASE + timedelta(microseconds=1)


async def draw(storage, session_id="s", tenant_id=TENANT, at=NOW, most=99):
    async with storage.write() as tx:
        return await tx.turns.draw(tenant_id, session_id, LEASE, at, most=most)


async def step_up(storage, ticket, at=NOW):
    async with storage.write() as tx:
        return await tx.turns.step_up(ticket, LEASE, at)


async def give_back(storage, ticket):
    async with storage.write() as tx:
        return await tx.turns.give_back(ticket)


async def test_a_queue_is_one_sessions_of_one_tenant(storage):
    first, second = await draw(storage), await draw(storage)
    assert (first.ahead, second.ahead) == (0, 1)
    assert (first.tenant_id, first.session_id) == (TENANT, "s")
    assert first.key < second.key
    assert (await draw(storage, "t")).ahead == 0
    assert (await draw(storage, tenant_id="other")).ahead == 0
    async with storage.read() as tx:
        assert await tx.turns.ahead(first, NOW) == 0
        assert await tx.turns.ahead(second, NOW) == 1


async def test_tickets_drawn_at_once_are_one_queue(database):
    storages = [database.open(), database.open()]
    drawn = await asyncio.gather(*(draw(storages[number % 2]) for number in range(20)))
    assert [ticket.ahead for ticket in sorted(drawn, key=lambda ticket: ticket.key)] == list(range(20))


async def test_a_key_is_never_given_out_again(storage):
    keys = []
    for _ in range(3):
        ticket = await draw(storage)
        keys.append(ticket.key)
        assert await give_back(storage, ticket)
    assert keys == sorted(set(keys))


async def test_the_queue_has_an_end(storage):
    tickets = [await draw(storage, most=2) for _ in range(2)]
    assert await draw(storage, most=2) is None
    assert await draw(storage, "t", most=2) is not None
    await give_back(storage, tickets[0])
    assert await draw(storage, most=2) is not None


async def test_what_has_lapsed_takes_no_room_but_is_still_ahead(storage):
    await draw(storage, most=1)
    ticket = await draw(storage, most=1, at=LATER)
    assert ticket.ahead == 1  # it may be kept yet: it has to be removed first
    async with storage.read() as tx:
        assert await tx.turns.ahead(ticket, LATER) == 0


async def test_who_steps_up_removes_what_lapsed_before_it_and_nothing_else(storage):
    lapsed, living, mine, behind = [await draw(storage) for _ in range(4)]
    async with storage.write() as tx:
        assert await tx.turns.renew(living, LEASE, LATER)
    assert await step_up(storage, mine, LATER) == 1
    async with storage.write() as tx:
        assert not await tx.turns.renew(lapsed, LEASE, LATER)
    assert await step_up(storage, lapsed, LATER) is None
    assert not await give_back(storage, lapsed)
    assert await give_back(storage, living)
    assert await step_up(storage, mine, LATER) == 0
    assert await give_back(storage, behind)


async def test_stepping_up_renews(storage):
    first = await draw(storage)
    await step_up(storage, first, LATER)
    second = await draw(storage, at=LATER)
    assert await step_up(storage, second, LATER + LEASE / 2) == 1


async def test_a_ticket_that_is_given_back_in_vain_is_still_there(storage):
    ticket = await draw(storage)
    try:
        async with storage.write() as tx:
            assert await tx.turns.give_back(ticket)
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert await give_back(storage, ticket)
    assert not await give_back(storage, ticket)


async def test_who_takes_over_waits_for_a_turn_that_is_just_being_kept(database):
    storages = [database.open(), database.open()]
    first, second = await draw(storages[0]), await draw(storages[1])
    order = []

    async def take_over():
        order.append(await step_up(storages[1], second, LATER))

    async with storages[0].write() as tx:
        assert await tx.turns.give_back(first)
        waiting = asyncio.create_task(take_over())
        await asyncio.sleep(0.2)
        order.append("kept")
    await waiting
    assert order == ["kept", 0]


async def test_only_what_lapsed_long_ago_is_forgotten(storage):
    tickets = [await draw(storage), await draw(storage, at=NOW + LEASE)]
    async with storage.write() as tx:
        assert await tx.turns.forget(LATER) == 1
    assert [await give_back(storage, ticket) for ticket in tickets] == [False, True]
