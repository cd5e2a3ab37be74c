"""Turns of two processes, each with a storage of its own, on one database."""

import asyncio
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from memory.adapters.clock import SystemClock
from memory.domain.errors import SessionBusy, TooManyTurns, TurnLost
from memory.services.turns import Turns
from tests.services import TENANT

HOLD = """
import asyncio, sys
from datetime import timedelta
from memory.adapters.clock import SystemClock
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage
from memory.services.turns import Turns

async def main(url):
    turns = Turns(SqlStorage(url, DatabaseSettings()), SystemClock(), lease=timedelta(seconds=1))
    async with turns.turn("acme", "s"):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def process(database):
    def start(lease=30.0, **options):
        return Turns(database.open(), SystemClock(), lease=timedelta(seconds=lease), **options)

    return start


@pytest.fixture
def tickets(database):
    async def count():
        return (await database.rows("SELECT count(*) FROM turns"))[0][0]

    return count


async def until(there, count):
    while await there() != count:
        await asyncio.sleep(0.01)


async def test_turns_of_two_processes_never_meet(process, tickets):
    processes, inside, met = [process(), process()], [], []

    async def answer(number):
        async with processes[number % 2].turn(TENANT, "s"):
            inside.append(number)
            await asyncio.sleep(0.01)
            met.append(len(inside))
            inside.remove(number)

    await asyncio.gather(*(answer(number) for number in range(12)))
    assert met == [1] * 12
    assert await tickets() == 0


async def test_they_follow_each_other_in_the_order_of_their_coming(process, tickets):
    processes, order, waiting = [process(), process()], [], []

    async def answer(number):
        async with processes[number % 2].turn(TENANT, "s"):
            order.append(number)

    async with processes[0].turn(TENANT, "s"):
        for number in range(6):
            waiting.append(asyncio.create_task(answer(number)))
            await until(tickets, number + 2)
        assert order == []
    await asyncio.gather(*waiting)
    assert order == list(range(6))


async def test_other_sessions_and_other_tenants_wait_for_nobody(process):
    one, other = process(), process(patience=0.1)
    async with one.turn(TENANT, "s"), other.turn(TENANT, "t"), other.turn("other", "s"):
        pass


async def test_a_turn_waits_for_so_long_and_no_longer(process, tickets):
    one, other = process(), process(patience=0.2)
    async with one.turn(TENANT, "s"):
        with pytest.raises(SessionBusy, match=r"0\.2 seconds: ask again") as refused:
            async with other.turn(TENANT, "s"):
                pass
        assert (refused.value.code, refused.value.status) == ("session_busy", 409)
        assert await tickets() == 1


async def test_so_many_turns_wait_and_no_more(process, tickets):
    one, other = process(waiting=1), process(waiting=1)
    async with one.turn(TENANT, "s"):

        async def wait():
            async with other.turn(TENANT, "s"):
                pass

        waiting = asyncio.create_task(wait())
        await until(tickets, 2)
        for refusing in (one, other):
            with pytest.raises(TooManyTurns, match="1 turns of 's' wait already") as refused:
                async with refusing.turn(TENANT, "s"):
                    pass
            assert (refused.value.code, refused.value.status) == ("too_many_turns", 429)
    await waiting
    assert await tickets() == 0


@pytest.mark.parametrize("after", [0, 0.001, 0.003, 0.01, 0.05])
async def test_who_gives_up_leaves_no_ticket(process, tickets, after):
    one, other = process(), process()

    async def wait():
        async with other.turn(TENANT, "s"):
            raise AssertionError("it was not its turn")

    async with one.turn(TENANT, "s"):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(after)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await tickets() == 1
    async with other.turn(TENANT, "s"):
        assert await tickets() == 1


async def test_a_long_turn_keeps_its_place(process):
    one, other = process(lease=0.9), process(lease=0.9, patience=2)
    async with one.turn(TENANT, "s") as held:
        with pytest.raises(SessionBusy):
            async with other.turn(TENANT, "s"):
                pass
        held.check()


async def test_the_ticket_of_a_killed_process_lapses(process, database_url):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, database_url], stdout=subprocess.PIPE, text=True)
    try:
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        with pytest.raises(SessionBusy):  # longer than its lease, which it renews
            async with process(patience=1.2).turn(TENANT, "s"):
                pass
    finally:
        holder.kill()
        holder.communicate()
    killed = time.monotonic()
    async with process(patience=5).turn(TENANT, "s"):
        assert time.monotonic() - killed < 4


async def test_who_was_taken_for_dead_is_told(process, database):
    one, other = process(lease=4.5), process()  # it renews after 1.5 seconds: by then the other has its turn
    async with one.turn(TENANT, "s") as held:
        await database.rows("UPDATE turns SET lease_until = 0")
        async with other.turn(TENANT, "s"), asyncio.timeout(20):
            while not held.lost:
                await asyncio.sleep(0.02)
        with pytest.raises(TurnLost, match="nothing of it is kept"):
            held.check()


async def test_who_was_taken_for_dead_while_it_waited_is_told(process, database, tickets):
    one, other = process(), process()

    async def wait():
        async with other.turn(TENANT, "s"):
            raise AssertionError("it was not its turn")

    async with one.turn(TENANT, "s"):
        waiting = asyncio.create_task(wait())
        await until(tickets, 2)
        await database.rows("DELETE FROM turns")
        with pytest.raises(TurnLost):
            await waiting


async def test_a_turn_ends_even_when_the_database_is_away(sqlite):
    storage = sqlite.open()
    async with Turns(storage, SystemClock(), lease=timedelta(seconds=0.3)).turn(TENANT, "s") as held:
        await storage.close()
        await asyncio.sleep(0.2)  # a renewal that fails is tried again
        held.check()
    assert await sqlite.rows("SELECT count(*) FROM turns") == [(1,)]
