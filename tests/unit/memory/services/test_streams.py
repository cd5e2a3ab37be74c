"""Every reader gets every event it may see once, in order, whatever it missed and however slow it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.kv.null import NullKVStore
from memory.adapters.notices import LocalNotices
from memory.adapters.sql.storage import SqlStorage
from memory.domain.agents import AgentRole
from memory.domain.errors import NotFound, SequenceConflict, StorageUnavailable, TooManyStreams
from memory.domain.events import Event, EventVisibility
from memory.domain.principals import Principal
from memory.services import streams as module
from memory.services.agents import Agents
from memory.services.streams import Reader, Streams
from memory.testing import SettableClock
from tests.services import TENANT, Database, add_events, add_session, forgetting

ME = Principal(TENANT)
ANN, BOB = Principal(TENANT, agent_id="ann"), Principal(TENANT, agent_id="bob")


class House:
    """A log, who tells of it, and who follows it."""

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self.notices = LocalNotices()
        self.streams = Streams(storage, self.notices)
        self.stack = AsyncExitStack()
        self.session: Any = None

    async def say(self, *contents: str, tell: bool = True, **fields: Any) -> None:
        async with self.storage.write() as tx:
            if self.session is None:
                self.session = await add_session(tx)
            await add_events(tx, self.session, *contents, **fields)
        if tell:
            self.notices.changed([self.session.session_key])

    async def follow(self, who: Principal = ME, after: int | None = 0) -> Reader:
        return await self.stack.enter_async_context(self.streams.reader(who, "s", after))


async def taken(reader: Reader, wanted: int) -> list[str]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        while len(found) < wanted:
            found += await reader.next(10) or []
    seqs = [event.seq for event in found]
    assert seqs == sorted(set(seqs))
    return [event.content for event in found]


@pytest.fixture
async def house(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "_PAGE", 4)
    monkeypatch.setattr(module, "_RECENT", 6)
    made = House(sqlite.open())
    async with made.stack:
        yield made


async def test_a_reader_goes_on_where_it_was_and_hears_what_comes(house: House):
    await house.say(*(f"old {n}" for n in range(1, 11)))
    reader = await house.follow(after=3)
    assert await taken(reader, 7) == [f"old {n}" for n in range(4, 11)]
    assert await reader.next(0.01) == []
    await house.say("new 1", "new 2")
    assert await taken(reader, 2) == ["new 1", "new 2"]
    assert reader.position == 12


async def test_a_reader_without_a_place_hears_only_what_comes(house: House):
    await house.say("old")
    reader = await house.follow(after=None)
    await house.say("new")
    assert await taken(reader, 1) == ["new"]


async def test_a_notice_that_was_lost_costs_a_moment_and_no_event(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)
    await house.say("old")
    reader = await house.follow(after=1)
    await house.say("new", tell=False)
    assert await taken(reader, 1) == ["new"]


async def test_who_is_slower_than_what_is_kept_reads_the_log(house: House):
    await house.say("0")
    slow, quick = await house.follow(), await house.follow()
    said = [str(n) for n in range(30)]
    assert await taken(quick, 1) == said[:1]
    for one in said[1:]:
        await house.say(one)
        assert await taken(quick, 1) == [one]
    assert await taken(slow, 30) == said


async def test_large_events_are_not_kept_for_the_slow(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_RECENT_CHARACTERS", 25)
    await house.say("0")
    slow, quick = await house.follow(after=1), await house.follow(after=1)
    for letter in "abcde":
        await house.say(letter * 10)
    assert await taken(quick, 5) == [letter * 10 for letter in "abcde"]
    (feed,) = house.streams._feeds.values()
    assert feed.characters == sum(len(event.content) for event in feed.recent) == 20
    assert await taken(slow, 5) == [letter * 10 for letter in "abcde"]


async def test_a_private_event_reaches_its_agent_alone(house: House):
    await house.say("shared 1")
    private: dict[str, Any] = {"visibility": EventVisibility.PRIVATE, "agent_id": "ann"}
    ann, bob, nobody = await house.follow(ANN), await house.follow(BOB), await house.follow()
    await house.say(*(f"secret {n}" for n in range(9)), **private)
    await house.say("shared 2")
    assert await taken(ann, 11) == ["shared 1", *(f"secret {n}" for n in range(9)), "shared 2"]
    assert await taken(bob, 2) == await taken(nobody, 2) == ["shared 1", "shared 2"]
    late = await house.follow(BOB)
    assert await taken(late, 2) == ["shared 1", "shared 2"]
    assert len(house.streams._feeds) == 3


async def test_a_log_is_read_once_for_all_who_follow_it(house: House, monkeypatch: pytest.MonkeyPatch):
    await house.say("0")
    readers = [await house.follow(after=1) for _ in range(20)]
    reads = 0
    read = house.storage.read

    def counted() -> Any:
        nonlocal reads
        reads += 1
        return read()

    monkeypatch.setattr(house.storage, "read", counted)
    await house.say("1")
    for reader in readers:
        assert await taken(reader, 1) == ["1"]
    assert reads <= 2


async def test_a_purge_ends_the_stream(house: House):
    await house.say("0")
    reader = await house.follow(after=1)
    async with house.storage.write() as tx:
        await tx.sessions.purge(house.session.session_key)
    house.notices.changed([house.session.session_key])
    assert await reader.next(5) is None
    with pytest.raises(NotFound):
        await house.follow()


async def test_who_may_read_no_more_is_told_at_once(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 60.0)  # nobody looks without a notice
    clock = SettableClock()
    agents = Agents(house.storage, clock, NullKVStore(), house.notices)
    await house.say("0")
    ann, bob = await house.follow(ANN, after=1), await house.follow(BOB, after=1)
    waiting = [asyncio.create_task(reader.next(30)) for reader in (ann, bob)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await agents.put(Principal(TENANT), "s", "bob", AgentRole.OWNER)  # the session is closed to ann
        assert await waiting[0] is None
        await agents.put(Principal(TENANT), "s", "cyd", AgentRole.OWNER)
        await agents.remove(Principal(TENANT), "s", "bob")
        assert await waiting[1] is None


async def test_a_purge_wakes_who_follows(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 60.0)
    await house.say("0")
    waiting = asyncio.create_task((await house.follow(after=1)).next(30))
    await asyncio.sleep(0.1)
    _, service = forgetting(house.storage, RecordingQueue(), SettableClock(), notices=house.notices)
    await service.purge_session(ME, "s")
    async with asyncio.timeout(5):
        assert await waiting is None


async def test_a_process_that_stops_ends_its_streams_and_begins_none(house: House):
    await house.say("0")
    reader = await house.follow(after=1)
    waiting = asyncio.create_task(reader.next(30))
    await asyncio.sleep(0.02)
    house.streams.end()
    assert await waiting is None
    with pytest.raises(TooManyStreams):
        await house.follow()


async def test_a_place_beyond_the_log_is_refused(house: House):
    await house.say("0")
    with pytest.raises(SequenceConflict) as refused:
        await house.follow(after=2)
    assert refused.value.facts == {"last_seq": 1}
    with pytest.raises(NotFound):
        await house.stack.enter_async_context(house.streams.reader(ME, "absent", 0))
    elsewhere = Principal(TENANT, session_ids=frozenset({"another"}))
    with pytest.raises(NotFound):
        await house.follow(elsewhere)


async def test_there_are_only_so_many_and_who_leaves_makes_room(house: House):
    await house.say("0")
    house.streams._most = 1
    async with house.streams.reader(ME, "s", 0):
        with pytest.raises(TooManyStreams):
            await house.follow()
    assert house.streams.readers == 0
    assert not house.streams._feeds
    await house.follow()


async def test_a_database_that_is_away_for_a_moment_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)
    await house.say("0")
    reader = await house.follow(after=1)
    read, failures = house.storage.read, iter([1, 1, 1])

    def failing() -> Any:
        if next(failures, None):
            raise StorageUnavailable("away")
        return read()

    monkeypatch.setattr(house.storage, "read", failing)
    await house.say("1")
    assert await taken(reader, 1) == ["1"]
