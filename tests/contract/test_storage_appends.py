"""Appends through `memory.services.events`, many at once and from two engines."""

import asyncio
from datetime import timedelta

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.notices import LocalNotices
from memory.domain.changes import Position
from memory.domain.errors import SequenceConflict
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.principals import Principal
from memory.services.activity import Activity
from memory.services.events import Events
from memory.services.log import Log
from memory.services.secrets import TenantSecrets
from memory.testing import SettableClock, WordTokenizer
from tests.services import EVERYONE, TENANT

ANN = Principal(TENANT, agent_id="ann")


class Service:
    """The append service over one engine."""

    def __init__(self, storage):
        clock, self.jobs = SettableClock(), RecordingQueue()
        self.events = Events(
            storage,
            Log(storage, self.jobs, clock, "words", Activity(), LocalNotices()),
            WordTokenizer(),
            TenantSecrets(storage, clock),
        )

    async def append(self, session_id, *contents, **options):
        new = [NewEvent(Role.USER, content) for content in contents]
        return await self.events.append(ANN, session_id, new, **options)


@pytest.fixture
def services(database):
    return [Service(database.open()), Service(database.open())]


async def log(database, session_id="s"):
    async with database.open().read() as tx:
        session = await tx.sessions.get(TENANT, session_id)
        return session, await tx.events.page(session.lineage, EVERYONE, limit=10_000)


async def test_sixteen_writers_of_two_engines_leave_no_gap(database, services):
    """Each appends ten batches of one to three events to a session that nobody has made before."""

    async def write(writer):
        answers = []
        for batch in range(10):
            contents = [f"{writer} {batch} {n}" for n in range(batch % 3 + 1)]
            answers.append(await services[writer % 2].append("s", *contents))
        return answers

    answers = [answer for written in await asyncio.gather(*map(write, range(16))) for answer in written]
    session, events = await log(database)
    assert [event.seq for event in events] == list(range(1, 16 * 19 + 1))
    assert (session.last_seq, session.event_count, session.turns) == (304, 304, 304)
    # whole batches, and every answer is true
    taken = sorted((answer.first_seq, answer.last_seq) for answer in answers)
    assert [first for first, _ in taken] == [1] + [last + 1 for _, last in taken[:-1]]
    ids = {event.seq: event.event_id for event in events}
    assert all(
        answer.event_ids == tuple(ids[n] for n in range(answer.first_seq, answer.last_seq + 1)) for answer in answers
    )
    # places on the token axis are gapless as well
    places = [event.token_start for event in events]
    assert places == [3 * n for n in range(304)]
    assert [event.turn for event in events] == list(range(1, 305))
    for writer in range(16):
        own = [event.content for event in events if event.content.startswith(f"{writer} ")]
        assert own == [f"{writer} {batch} {n}" for batch in range(10) for n in range(batch % 3 + 1)]


async def test_what_is_promised_is_in_the_outbox_and_the_feed(database, services):
    await asyncio.gather(*(services[n % 2].append("s", f"text {n}") for n in range(16)))
    async with database.open().read() as tx:
        (operation,) = await tx.operations.abandoned(SettableClock().now().replace(year=2027), timedelta(), 9)
        assert operation.progress.total == 16
        feed = await tx.changes.after(Position(), limit=99)
    told = sorted(seq for change in feed for seq in range(change.first_seq, change.last_seq + 1))
    assert told == list(range(1, 17))  # appends that share a transaction share a change
    assert [job for service in services for job in service.jobs.sent] == [("consolidate", (operation.operation_id,))]


async def test_sessions_do_not_mix(database, services):
    await asyncio.gather(*(services[n % 2].append(f"s{n % 4}", f"{n % 4}") for n in range(32)))
    for number in range(4):
        _, events = await log(database, f"s{number}")
        assert [event.seq for event in events] == list(range(1, 9))
        assert {event.content for event in events} == {str(number)}


async def test_one_of_many_that_expect_the_same_seq_wins(database, services):
    await services[0].append("s", "first")
    outcomes = await asyncio.gather(
        *(services[n % 2].append("s", f"second {n}", expected_seq=1) for n in range(8)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(won) == 1
    assert all(isinstance(outcome, SequenceConflict) for outcome in outcomes if outcome not in won)
    _, events = await log(database)
    assert len(events) == 2


async def test_one_key_sent_many_times_at_once_is_stored_once(database, services):
    answers = await asyncio.gather(
        *(services[n % 2].append("s", "one", "two", idempotency_key="retry") for n in range(8))
    )
    assert len({(answer.first_seq, answer.last_seq, answer.event_ids) for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1
    _, events = await log(database)
    assert [event.content for event in events] == ["one", "two"]


async def test_the_same_event_ids_from_both_engines_are_stored_once(database, services):
    new = [NewEvent(Role.USER, f"text {n}", event_id=f"id{n}") for n in range(20)]
    batches = [new[start : start + 10] for start in (0, 5, 10, 0, 5, 10)]
    await asyncio.gather(*(services[n % 2].events.append(ANN, "s", batch) for n, batch in enumerate(batches)))
    session, events = await log(database)
    assert sorted(event.event_id for event in events) == sorted(event.event_id for event in new)
    assert session.event_count == 20


async def test_private_events_take_no_place_on_the_shared_axis(database, services):
    hidden = NewEvent(Role.USER, "a b c", visibility=EventVisibility.PRIVATE)
    await services[0].events.append(ANN, "s", [NewEvent(Role.USER, "one two"), hidden, NewEvent(Role.USER, "x")])
    session, events = await log(database)
    assert [event.token_start for event in events] == [0, 2]
    assert (session.shared_tokens, session.token_count, session.last_seq) == (3, 6, 3)
