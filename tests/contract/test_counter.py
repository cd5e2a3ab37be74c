"""What every counter of usage keeps to: in this process, and in a Redis for all."""

import asyncio
import logging
import uuid

import pytest

from memory.adapters.quotas.windows import WindowCounter
from memory.domain.quotas import Allowance, Holder, Resource, Standing

PATIENCE = 30  # of a busy machine
MINUTE = Allowance(Holder.KEY, Resource.REQUESTS, 3, 60)


@pytest.fixture(params=["process", "redis"])
async def counter(request):
    made = WindowCounter(None if request.param == "process" else request.getfixturevalue("redis_url"), PATIENCE)
    yield made
    await made.close()


@pytest.fixture
def who():
    """Nobody else's: a Redis is shared."""
    return uuid.uuid4().hex


async def test_what_is_used_adds_up_also_beyond_the_allowance(counter, who):
    assert (await counter.look(MINUTE, who)).used == 0
    standings = [await counter.add(MINUTE, who, cost) for cost in (1, 1, 5)]
    assert [(s.used, s.remaining) for s in standings] == [(1, 2), (2, 1), (7, 0)]
    assert (await counter.look(MINUTE, who)).used == 7
    assert all(58 <= s.reset <= 60 for s in standings)


async def test_holders_and_resources_are_counted_apart(counter, who):
    others = [
        Allowance(Holder.TENANT, Resource.REQUESTS, 3, 60),
        Allowance(Holder.KEY, Resource.TOKENS, 3, 60),
        Allowance(Holder.KEY, Resource.REQUESTS, 3, 86_400),
    ]
    await counter.add(MINUTE, who, 2)
    assert [(await counter.add(other, who, 1)).used for other in others] == [1, 1, 1]
    assert (await counter.add(MINUTE, f"{who}-2", 1)).used == 1


async def test_a_window_ends_and_all_is_whole_again(counter, who):
    second = Allowance(Holder.KEY, Resource.REQUESTS, 1, 1)
    assert await counter.add(second, who, 9) == Standing(second, 9, 1)
    await asyncio.sleep(1.1)
    assert (await counter.look(second, who)).used == 0
    assert (await counter.add(second, who, 1)).used == 1


async def test_nothing_is_lost_between_many_at_once(counter, who):
    await asyncio.gather(*(counter.add(MINUTE, who, 2) for _ in range(50)))
    assert (await counter.look(MINUTE, who)).used == 100


async def test_two_processes_see_one_number_in_a_redis(redis_url, who):
    here, there = WindowCounter(redis_url, PATIENCE), WindowCounter(redis_url, PATIENCE)
    await here.add(MINUTE, who, 2)
    assert (await there.add(MINUTE, who, 1)).used == 3
    for one in (here, there):
        await one.close()


async def test_while_the_redis_is_away_each_process_counts_alone_and_says_so_once(who, caplog):
    counter = WindowCounter("redis://127.0.0.1:1/0")
    with caplog.at_level(logging.WARNING):
        assert [(await counter.add(MINUTE, who, 2)).used for _ in range(2)] == [2, 4]
    assert [record.message.count("counts alone") for record in caplog.records] == [1]
