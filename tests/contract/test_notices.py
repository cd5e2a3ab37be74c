"""Every way of telling that a log has grown. What is told may get lost, so nothing here counts notices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from memory.adapters.notices import LocalNotices
from memory.adapters.sql.notices import CHANNEL, PostgresNotices
from memory.adapters.sql.settings import DatabaseSettings
from memory.ports.notices import Notices
from tests.services import Database, run_sql

_SOON = 5.0


async def connected(notices: PostgresNotices) -> PostgresNotices:
    async with asyncio.timeout(_SOON):
        while not notices.connected:
            await asyncio.sleep(0.01)
    return notices


async def heard(told: asyncio.Event, seconds: float = _SOON) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return False
    told.clear()
    return True


@pytest.fixture
async def processes(postgres_url: str) -> AsyncIterator[list[PostgresNotices]]:
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            notices = PostgresNotices(postgres_url, DatabaseSettings())
            stack.push_async_callback(notices.close)
            await notices.start()
            opened.append(await connected(notices))
        yield opened


@pytest.fixture(params=["local", "postgresql", "postgresql, another process"])
def pair(request: pytest.FixtureRequest) -> tuple[Notices, Notices]:
    """Who tells, and who hears."""
    if request.param == "local":
        one = LocalNotices()
        return one, one
    one, other = request.getfixturevalue("processes")
    return one, one if request.param == "postgresql" else other


async def test_who_listens_to_a_log_is_told_of_it_and_of_no_other(pair):
    tells, hears = pair
    with hears.listening(7) as seven, hears.listening(8) as eight, hears.listening(7) as again:
        for told in (seven, eight, again):
            told.clear()
        tells.changed([7, 9])
        assert await heard(seven)
        assert await heard(again)
        assert not eight.is_set()


async def test_nobody_is_told_after_it_left(pair):
    tells, hears = pair
    with hears.listening(7) as left:
        pass
    with hears.listening(7) as stays:
        tells.changed([7])
        assert await heard(stays)
    assert not left.is_set()


async def test_a_thousand_logs_at_once_are_all_told(pair):
    """More than one notice of PostgreSQL may hold."""
    tells, hears = pair
    keys = [2**62 + number for number in range(1_000)]
    with hears.listening(keys[0]) as first, hears.listening(keys[-1]) as last:
        tells.changed(keys)
        assert await heard(first)
        assert await heard(last)


async def test_a_connection_that_was_cut_comes_back_and_everybody_looks(processes, postgresql: Database):
    tells, hears = processes
    with hears.listening(7) as told:
        await postgresql.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE '%LISTEN%' AND pid <> pg_backend_pid()"
        )
        async with asyncio.timeout(_SOON):
            while hears.connected or tells.connected:
                await asyncio.sleep(0.01)
        tells.changed([7])  # said to nobody
        told.clear()
        await connected(tells)
        await connected(hears)
        assert await heard(told)  # may have missed something
        tells.changed([7])
        assert await heard(told)


@pytest.mark.parametrize("payload", ["", "no json", "7", '{"a": 1}', '["7", null, 7.5]'])
async def test_nonsense_on_the_channel_is_passed_over(processes, postgres_url: str, payload: str):
    tells, hears = processes
    with hears.listening(7) as told:
        await asyncio.to_thread(run_sql, postgres_url, f"SELECT pg_notify('{CHANNEL}', '{payload}')")
        tells.changed([7])
        assert await heard(told)
    assert hears.connected


async def test_a_database_that_is_away_at_the_start_is_no_failure():
    notices = PostgresNotices("postgresql://root@127.0.0.1:1/none", DatabaseSettings(connect_timeout=1))
    await notices.start()
    with notices.listening(7) as told:
        notices.changed([7])
        assert await heard(told)
    assert not notices.connected
    await notices.close()
