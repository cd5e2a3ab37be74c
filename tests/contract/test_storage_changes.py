"""What every database keeps to about the change feed and what its followers read."""

import asyncio
import math
import random
from datetime import timedelta

import pytest

from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.events import EventVisibility
from memory.domain.ids import event_item, memory_item
from memory.domain.memories import MemoryVisibility
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from tests.services import NOW, SPACE, TENANT, add_events, add_memory, add_session, new_segment, segments_of


def change(number, tenant_id=TENANT):
    return NewChange(ChangeKind.EVENTS, tenant_id, session_key=number, first_seq=1, last_seq=2)


class Follower:
    """Follows as `memory.tiers.longterm.opened` does; `seen` holds the session_key of each change, as it came."""

    def __init__(self, storage, page=100):
        self.storage, self.page = storage, page
        self.position, self.ahead, self.seen = Position(), set(), []

    async def follow(self):
        place = self.position
        while True:
            async with self.storage.read() as tx:
                changes = await tx.changes.after(place, tenant_id=TENANT, limit=self.page)
            new = [change for change in changes if change.position not in self.ahead]
            self.seen += [change.session_key for change in new]
            self.ahead |= {change.position for change in new}
            for found in changes:
                if not found.settled or self.position < place:
                    break
                self.position = place = found.position
            self.ahead = {position for position in self.ahead if position > self.position}
            if len(changes) < self.page:
                return
            place = changes[-1].position

    async def settle(self):
        """Follows until all is settled: a transaction in any database of the server may hold that up."""
        async with asyncio.timeout(10):
            await self.follow()
            while self.ahead:
                await asyncio.sleep(0.01)
                await self.follow()


async def test_an_empty_feed_begins_at_nothing(storage):
    async with storage.write() as tx:
        assert await tx.changes.add() == Position()
    async with storage.read() as tx:
        assert await tx.changes.after(Position(), limit=9) == []
        assert await tx.changes.head() == Position()


async def test_changes_come_as_they_were_written(storage):
    written = [
        NewChange(ChangeKind.EVENTS, TENANT, 7, 3, 4),
        NewChange(ChangeKind.MEMORY, TENANT, memory_key=9),
        NewChange(ChangeKind.VECTORS, TENANT, 7, 2**40, 2**41),
        NewChange(ChangeKind.SESSION_PURGED, TENANT, 7),
    ]
    async with storage.write() as tx:
        last = await tx.changes.add(*written)
    await Follower(storage).settle()
    async with storage.read() as tx:
        found = await tx.changes.after(Position(), limit=9)
        assert [
            NewChange(c.kind, c.tenant_id, c.session_key, c.first_seq, c.last_seq, c.memory_key) for c in found
        ] == (written)
        assert all(c.settled for c in found)
        assert found[-1].position == last == await tx.changes.head()
        positions = [c.position for c in found]
        assert positions == sorted(set(positions))
        assert await tx.changes.after(positions[1], limit=1) == found[2:3]
        assert await tx.changes.after(last, limit=9) == []


async def test_tenants_follow_their_own_changes(storage):
    async with storage.write() as tx:
        await tx.changes.add(change(1), change(2, "other"), change(3))
    async with storage.read() as tx:
        assert [c.session_key for c in await tx.changes.after(Position(), tenant_id=TENANT, limit=9)] == [1, 3]
        assert [c.session_key for c in await tx.changes.after(Position(), limit=9)] == [1, 2, 3]


async def test_numbers_of_a_rolled_back_change_are_no_gap_to_wait_for(storage):

    async def fail():
        async with storage.write() as tx:
            await tx.changes.add(change(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with storage.write() as tx:
        await tx.changes.add(change(2))
    follower = Follower(storage)
    await follower.settle()
    assert follower.seen == [2]


async def test_an_earlier_number_that_commits_later_is_not_skipped(postgresql):
    storage = postgresql.open()
    follower = Follower(storage)
    async with storage.write() as slow:
        early = await slow.changes.add(change(1))
        async with storage.write() as quick:
            late = await quick.changes.add(change(2))
        assert early.number < late.number
        await follower.follow()
        assert follower.seen == [2]  # read at once, but not passed over
        assert follower.position < early
        async with storage.read() as tx:
            assert [c.settled for c in await tx.changes.after(Position(), limit=9)] == [False]
            assert await tx.changes.head() < early
        await follower.follow()
        assert follower.seen == [2]  # nothing twice
    await follower.settle()
    assert follower.seen == [2, 1]
    assert follower.position >= late


async def test_a_transaction_that_began_early_and_wrote_late_is_not_skipped(postgresql):
    """Its changes get a later number than those of a transaction that began after it: order is by transaction."""
    storage = postgresql.open()
    follower = Follower(storage)
    async with storage.write() as slow:
        await slow.tenants.secret("first write: takes the transaction's id", NOW)
        async with storage.write() as quick:
            await quick.changes.add(change(1))
        await follower.follow()
        early = await slow.changes.add(change(2))
    async with storage.read() as tx:
        assert [c.session_key for c in await tx.changes.after(Position(), limit=9)] == [2, 1]
    await follower.settle()
    assert follower.seen == [1, 2]
    assert follower.position > early


async def test_a_long_transaction_hides_nothing_that_comes_after_it(postgresql):
    """Not even when more than a page waits for its end."""
    storage = postgresql.open()
    follower = Follower(storage, page=3)
    async with storage.write() as slow:
        await slow.changes.add(change(0))
        for number in range(1, 9):
            async with storage.write() as quick:
                await quick.changes.add(change(number))
            await follower.follow()
            assert follower.seen == list(range(1, number + 1))
    await follower.settle()
    assert follower.seen == [*range(1, 9), 0]


async def test_a_long_transaction_that_rolls_back_holds_nothing_up_afterwards(postgresql):
    storage = postgresql.open()
    follower = Follower(storage)

    async def fail():
        async with storage.write() as slow:
            await slow.changes.add(change(1))
            async with storage.write() as quick:
                await quick.changes.add(change(2))
            await follower.follow()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await follower.settle()
    assert follower.seen == [2]


async def test_a_reader_holds_no_follower_up(postgresql):
    storage = postgresql.open()
    follower = Follower(storage)
    async with storage.read() as reader:
        await reader.tenants.ids()
        async with storage.write() as tx:
            last = await tx.changes.add(change(1))
        await follower.settle()
        assert follower.position == last


async def test_many_writers_in_any_order_are_all_followed_once(database):
    """Sixty transactions of random lengths, from two engines, while a follower with a small page keeps reading."""
    storages = [database.open(), database.open()]
    follower = Follower(storages[0], page=7)
    random_length = random.Random(7)

    async def write(number):
        await asyncio.sleep(random_length.random() * 0.3)
        async with storages[number % 2].write() as tx:
            if random_length.random() < 0.5:
                await tx.tenants.secret(f"t{number}", NOW)
            pause = random_length.random() * 0.05 if database.postgresql else 0
            await asyncio.sleep(pause)
            await tx.changes.add(change(number))
            await asyncio.sleep(pause)

    writing = asyncio.gather(*(write(number) for number in range(60)))
    while not writing.done():
        await follower.follow()
        await asyncio.sleep(0.003)
    await writing
    await follower.settle()
    assert sorted(follower.seen) == list(range(60))


async def test_followers_say_where_they_are(storage):
    async with storage.write() as tx:
        assert await tx.changes.followed("a") is None
        assert await tx.changes.slowest(NOW) is None
        await tx.changes.follow("a", Position(5, 9), NOW)
        await tx.changes.follow("b", Position(5, 10), NOW)
        await tx.changes.follow("dead", Position(1, 1), NOW - timedelta(hours=1))
        assert await tx.changes.followed("a") == Position(5, 9)
        assert await tx.changes.slowest(NOW) == Position(5, 9)
        await tx.changes.follow("a", Position(6, 1), NOW)
        assert await tx.changes.slowest(NOW) == Position(5, 10)
        await tx.changes.unfollow("b")
        assert await tx.changes.slowest(NOW) == Position(6, 1)
        assert await tx.changes.followed("b") == Position(5, 10)
        await tx.changes.unfollow("a")
        assert await tx.changes.slowest(NOW) is None


async def test_facts_of_events_are_read_in_their_order(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        one, two = await add_events(tx, session, "one", "two")
        (three,) = await add_events(tx, session, "three", visibility=EventVisibility.PRIVATE)
        facts = await tx.changes.event_facts(session.session_key, 2, 9)
        assert [(f.item, f.seq, f.audience) for f in facts] == [
            (two.item, 2, "session"),
            (three.item, 3, "private:ann"),
        ]
        (first,) = await tx.changes.event_facts(session.session_key, 1, 1)
        expected = (session.session_key, 1, "session", "event", "user", "ann", NOW.timestamp(), -math.inf, math.inf)
        assert first == ItemFacts(one.item, *expected, "one")
        assert await tx.changes.event_facts(session.session_key + 1, 1, 9) == []


@pytest.mark.parametrize(
    ("valid_to", "expires_at", "ends"),
    [(None, None, math.inf), (2, None, 2), (None, 3, 3), (2, 3, 2), (4, 3, 3)],
)
async def test_facts_of_a_memory_end_with_the_first_of_its_ends(storage, valid_to, expires_at, ends):
    moments = [hours and NOW + timedelta(hours=hours) for hours in (valid_to, expires_at)]
    async with storage.write() as tx:
        memory = await add_memory(
            tx, "text", valid_from=NOW, valid_to=moments[0], expires_at=moments[1], agent_id="ann"
        )
        facts = await tx.changes.memory_facts(memory.memory_key)
        ended = NOW.timestamp() + ends * 3600
        times = (NOW.timestamp(), NOW.timestamp(), ended)
        assert facts == ItemFacts(memory.item, None, 0, "tenant", "fact", None, "ann", *times, "text")
        assert await tx.changes.memory_facts(memory.memory_key + 1) is None


async def test_vectors_are_read_by_what_they_belong_to(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        events = await add_events(tx, session, "one", "two", "three")
        memory = await add_memory(tx, session_key=session.session_key, visibility=MemoryVisibility.SESSION)
        pieces = [*segments_of(*events), new_segment(memory.item, session_key=session.session_key, seq=2)]
        await tx.segments.add(TENANT, SPACE, pieces, NOW)
        pending = await tx.segments.pending(TENANT, SPACE, session.session_key, 9)
        pending += await tx.segments.pending(TENANT, SPACE, None, 9)
        await tx.segments.set_vectors({p.segment_key: b"%d" % n for n, p in enumerate(pending) if n != 0}, NOW)
        key = session.session_key
        two, three, of_memory = [
            SegmentVector(item, 0, b"%d" % n) for n, item in enumerate([*(e.item for e in events[1:]), memory.item], 1)
        ]
        assert await tx.changes.vectors_of_events(SPACE, key, 1, 3) == [two, three]
        assert await tx.changes.vectors_of_events(SPACE, key, 3, 9) == [three]
        assert await tx.changes.vectors_of_events("other", key, 1, 3) == []
        assert await tx.changes.vectors_of_memory(SPACE, memory.memory_key) == [of_memory]
        everything = await tx.changes.items(TENANT)
        assert await tx.changes.vectors_of(SPACE, everything) == sorted(
            [two, three, of_memory], key=lambda vector: vector.item
        )
        assert await tx.changes.vectors_of(SPACE, [memory.item, events[0].item]) == [of_memory]
        assert await tx.changes.vectors_of("other", everything) == []


async def test_a_rebuild_reads_everything_of_one_tenant_by_key(storage):
    async with storage.write() as tx:
        for tenant_id in (TENANT, "other"):
            for name in ("s", "t"):
                session = await add_session(tx, name, tenant_id)
                await add_events(tx, session, *(f"{tenant_id} {name}{n}" for n in range(3)))
            for n in range(3):
                await add_memory(tx, f"{tenant_id} m{n}", tenant_id=tenant_id)
        items = await tx.changes.items(TENANT)
        everything = [f"{TENANT} {name}" for name in ("s0", "s1", "s2", "t0", "t1", "t2", "m0", "m1", "m2")]
        assert [facts.text for facts in await tx.changes.facts_of(items)] == everything
        assert [facts.text for facts in await tx.changes.facts_of(items[4:8])] == everything[4:8]
        assert [facts.item for facts in await tx.changes.facts_of(items)] == list(items)
        assert list(await tx.changes.items("nobody")) == []
        assert await tx.changes.facts_of([]) == []


VALUES = {
    "string": "x",
    "number": 1,
    "float": 2.5,
    "huge": 2**60,
    "true": True,
    "false": False,
    "empty": "",
    "list": [1, "two", None],
    "object": {"deep": {"er": "value"}},
    "": "no name",
    'quo"te': "quoted",
    "back\\slash": "slashed",
    "sp ace's": "spaced",
    "ünï漢🙂": "unicode",
    "[0]": "bracket",
    "0": "digit",
    "$": "dollar",
    "#": "hash",
}


async def test_values_of_the_metadata_are_found_as_they_were_stored(storage):
    async with storage.write() as tx:
        event, _ = await add_events(tx, await add_session(tx), "one", "two", metadata=VALUES)
        await add_events(tx, await add_session(tx, "bare"), "three")
        memory = await add_memory(tx, metadata={"outer": VALUES})
    async with storage.read() as tx:
        for name, value in VALUES.items():
            found = dict(await tx.changes.metadata_values(TENANT, None, [name]))
            assert found == {event.item: value, event.item + 2: value}, name
            assert type(found[event.item]) is type(value), name
            assert await tx.changes.metadata_values(TENANT, None, ["outer", name]) == [(memory.item, value)], name


async def test_where_there_is_no_value_nothing_is_found(storage):
    async with storage.write() as tx:
        await add_events(tx, await add_session(tx), "one", metadata=VALUES | {"null": None})
        await add_memory(tx, metadata={})
    async with storage.read() as tx:
        for path in ("absent", "string.deeper", "object.x", "list.deep", "list.0", "null.x", "number.x"):
            assert await tx.changes.metadata_values(TENANT, None, path.split(".")) == [], path


async def test_a_null_in_the_metadata_is_found_as_none_or_not_at_all(storage):
    """Either way it reads as None; both databases say the same."""
    async with storage.write() as tx:
        (event,) = await add_events(tx, await add_session(tx), "one", metadata={"a": {"b": None}})
    async with storage.read() as tx:
        assert await tx.changes.metadata_values(TENANT, None, ["a", "b"]) == [(event.item, None)]


async def test_values_are_those_of_the_asked_sessions_and_of_the_tenants_memories(storage):
    async with storage.write() as tx:
        mine, other = await add_session(tx, "s1"), await add_session(tx, "s2")
        (event,) = await add_events(tx, mine, "one", metadata={"n": 1})
        await add_events(tx, other, "two", metadata={"n": 2})
        await add_events(tx, await add_session(tx, "s", "other"), "three", metadata={"n": 3})
        memory = await add_memory(tx, metadata={"n": 4})
        many = (*range(10**9, 10**9 + 40_000), mine.session_key)
        found = await tx.changes.metadata_values(TENANT, many, ["n"])
        assert dict(found) == {event_item(event.event_key): 1, memory_item(memory.memory_key): 4}
        assert dict(await tx.changes.metadata_values(TENANT, (), ["n"])) == {memory.item: 4}


async def test_values_of_the_metadata_of_given_items_are_those_of_all(storage):
    async with storage.write() as tx:
        one, two, _ = await add_events(tx, await add_session(tx), "one", "two", "three", metadata={"n": {"m": 1}})
        memory = await add_memory(tx, metadata={"n": {"m": "x"}})
        without = await add_memory(tx, metadata={"n": 2})
    async with storage.read() as tx:
        asked = [memory.item, two.item, without.item, one.item, one.item + 2**40]
        assert dict(await tx.changes.metadata_of(asked, ["n", "m"])) == {one.item: 1, two.item: 1, memory.item: "x"}
        assert await tx.changes.metadata_of([], ["n"]) == []
