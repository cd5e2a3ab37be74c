"""What every database keeps to about the log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from memory.adapters.sql.columns import Instant
from memory.domain.errors import StorageUnavailable
from memory.domain.events import Appended, EventVisibility, Role
from memory.domain.lineage import Lineage
from memory.domain.principals import SHARED, private_to
from tests.services import EVERYONE, NOW, TENANT, add_events, add_session, new_event

ANN, BOB = private_to("ann"), private_to("bob")


async def test_an_event_is_read_as_it_was_written(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        written = new_event(
            session,
            1,
            "Ünï 漢字 🙂 \u2028 \r\n\t \x7f",
            event_id="a:b.c-d_e",
            agent_id=None,
            role=Role.TOOL,
            name="search",
            metadata={"a": {"b": [1, 2.5, "x", None, True]}, "": "", "big": 2**60, "tiny": 1e-300},
            created_at=datetime(1969, 7, 20, 20, 17, 40, 1, UTC),
            token_start=2**40,
        )
        await tx.events.add([written], "words")
        (read,) = await tx.events.by_ids(session.lineage, ["a:b.c-d_e", "absent"])
        assert read.event_key > 0
        assert replace(read, event_key=0) == written
        assert type(read.metadata["a"]["b"][4]) is bool
        assert await tx.events.by_keys([read.event_key, -1]) == [read]


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
    ids=str,
)
async def test_any_moment_is_kept_to_the_microsecond(storage, moment):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.events.add([new_event(session, 1, created_at=moment)], "words")
    async with storage.read() as tx:
        (read,) = await tx.events.by_ids(session.lineage, ["e1"])
    assert read.created_at == moment
    assert read.created_at.utcoffset() == timedelta(0)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
@settings(max_examples=300, suppress_health_check=[HealthCheck.differing_executors])
def test_moments_order_as_their_numbers(one, other):
    column = Instant()
    numbers = [column.process_bind_param(moment, None) for moment in (one, other)]
    assert [column.process_result_value(number, None) for number in numbers] == [one, other]
    assert (numbers[0] < numbers[1]) == (one < other)


async def test_a_mebibyte_of_text_comes_back_whole(storage):
    content = "漢🙂a\n" * 100_000
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, content)
    async with storage.read() as tx:
        (read,) = await tx.events.page(session.lineage, EVERYONE, limit=1)
    assert read.content == content


async def test_a_thousand_events_at_once_keep_their_order(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, *(f"text {n}" for n in range(1, 1_001)))
        read = await tx.events.page(session.lineage, EVERYONE, limit=2_000)
        assert [event.content for event in read] == [f"text {n}" for n in range(1, 1_001)]
        keys = [event.event_key for event in read]
        assert keys == sorted(set(keys))


async def test_nothing_to_add_adds_nothing(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
        await tx.events.add([], "words")
        assert await tx.events.page(session.lineage, EVERYONE, limit=9) == []


@pytest.mark.parametrize("again", [{"seq": 1, "event_id": "new"}, {"seq": 2, "event_id": "e1"}], ids=["seq", "id"])
async def test_a_place_or_a_name_in_the_log_is_given_once(storage, again):
    async with storage.write() as tx:
        session = await add_session(tx)
        await add_events(tx, session, "one")
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.events.add([replace(new_event(session, 1), **again)], "words")
    async with storage.read() as tx:
        assert len(await tx.events.page(session.lineage, EVERYONE, limit=9)) == 1


async def test_an_event_of_no_session_is_refused(storage):
    async with storage.write() as tx:
        session = await add_session(tx)
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.events.add([replace(new_event(session, 1), session_key=session.session_key + 1)], "words")


@pytest.fixture
async def mixed(storage):
    """seq 1 shared, 2 Ann's, 3 shared, 4 Bob's, 5 Ann's, 6 shared"""
    async with storage.write() as tx:
        session = await add_session(tx)
        for number, owner in enumerate(["", "ann", "", "bob", "ann", ""], 1):
            visibility = EventVisibility.PRIVATE if owner else EventVisibility.SESSION
            await add_events(tx, session, f"text {number}", visibility=visibility, agent_id=owner or "ann")
    return session.session_key


async def test_only_visible_events_are_read(storage, mixed):
    cases = [
        ({SHARED}, [1, 3, 6]),
        ({SHARED, ANN}, [1, 2, 3, 5, 6]),
        ({SHARED, ANN, BOB}, [1, 2, 3, 4, 5, 6]),
        ({BOB}, [4]),
        ({"tenant"}, []),
        (set(), []),
    ]
    async with storage.read() as tx:
        for audiences, expected in cases:
            found = await tx.events.page(Lineage(mixed), frozenset(audiences), limit=9)
            assert [event.seq for event in found] == expected, audiences


async def test_pages_go_either_way(storage, mixed):
    async with storage.read() as tx:

        async def seqs(**options):
            return [event.seq for event in await tx.events.page(Lineage(mixed), frozenset({SHARED, ANN}), **options)]

        assert await seqs(limit=2) == [1, 2]
        assert await seqs(after_seq=2, limit=2) == [3, 5]
        assert await seqs(after_seq=0, limit=1) == [1]
        assert await seqs(limit=2, descending=True) == [6, 5]
        assert await seqs(before_seq=5, limit=2, descending=True) == [3, 2]
        assert await seqs(after_seq=2, before_seq=6, limit=9, descending=True) == [5, 3]
        assert await seqs(after_seq=2, before_seq=6, limit=9) == [3, 5]
        assert await seqs(after_seq=6, limit=2) == []


async def test_the_shared_axis_has_shared_events_only(storage, mixed):
    async with storage.read() as tx:

        async def seqs(start, **options):
            return [
                event.seq for event in await tx.events.shared_from(Lineage(mixed), start, **{"limit": 9, **options})
            ]

        assert await seqs(0) == [1, 3, 6]
        assert await seqs(2) == [3, 6]
        assert await seqs(3) == [6]
        assert await seqs(0, below=4) == [1, 3]
        assert await seqs(0, limit=1) == [1]
        assert [extent.seq for extent in await tx.events.extents(Lineage(mixed), 1)][:1] == [3]
        assert await tx.events.extents(Lineage(mixed), 5) == []


async def test_the_newest_private_events_come_oldest_first(storage, mixed):
    async with storage.read() as tx:
        ann = await tx.events.private_from(Lineage(mixed), "ann", 1, limit=9)
        assert [event.seq for event in ann] == [2, 5]
        assert [event.seq for event in await tx.events.private_from(Lineage(mixed), "ann", 1, limit=1)] == [5]
        assert [event.seq for event in await tx.events.private_from(Lineage(mixed), "ann", 3, limit=9)] == [5]
        assert await tx.events.private_from(Lineage(mixed), "cid", 1, limit=9) == []


async def test_unsegmented_events_are_those_after_a_place(storage, mixed):
    async with storage.read() as tx:
        assert [event.seq for event in await tx.events.unsegmented(mixed, 2, 3)] == [3, 4, 5]
        assert await tx.events.unsegmented(mixed, 6, 3) == []


async def test_forty_thousand_events_are_asked_for_at_once(storage, mixed):
    async with storage.read() as tx:
        names = [f"x{n}" for n in range(40_000)] + ["e1"]
        (found,) = await tx.events.by_ids(Lineage(mixed), names)
        keys = [*range(10**9, 10**9 + 40_000), found.event_key]
        assert await tx.events.by_keys(keys) == [found]


async def test_the_first_answer_to_a_key_is_the_one_that_stays(storage):
    answer = Appended("s", 1, 2, ("e1", "e2"), 4)
    async with storage.write() as tx:
        session = await add_session(tx)
        key = session.session_key
        assert await tx.events.recall_answer(Lineage(key), b"key") is None
        await tx.events.remember_answer(key, b"key", b"request", answer, NOW)
        await tx.events.remember_answer(key, b"key", b"other", replace(answer, first_seq=9), NOW)
        assert await tx.events.recall_answer(Lineage(key), b"key") == (b"request", answer)
        assert await tx.events.recall_answer(Lineage(key), b"other key") is None


async def test_old_answers_are_forgotten(storage):
    answer = Appended("s", 1, 1, ("e1",), 2)
    async with storage.write() as tx:
        key = (await add_session(tx)).session_key
        await tx.events.remember_answer(key, b"old", b"", answer, NOW - timedelta(days=2))
        await tx.events.remember_answer(key, b"new", b"", answer, NOW)
        assert await tx.events.forget_answers(NOW - timedelta(days=1)) == 1
        assert await tx.events.recall_answer(Lineage(key), b"old") is None
        assert await tx.events.recall_answer(Lineage(key), b"new") is not None


@pytest.mark.parametrize("bad", ["a\x00b", "a\ud800b"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("place", ["content", "name", "metadata"])
async def test_text_that_no_database_holds_stops_nothing_else(storage, bad, place):
    """The API refuses it; a caller that does not may see an error or get it back unchanged, never something else."""
    async with storage.write() as tx:
        session = await add_session(tx)
    event = new_event(session, 1, **{place: {"key": bad} if place == "metadata" else bad})
    stored = [event]
    try:
        async with storage.write() as tx:
            await tx.events.add(stored, "words")
    except StorageUnavailable:
        pytest.fail("it is of no use to try again")
    except (sa.exc.StatementError, UnicodeEncodeError):
        stored = []
    async with storage.write() as tx:
        read = await tx.events.page(session.lineage, EVERYONE, limit=9)
        assert [replace(event, event_key=0) for event in read] == stored
        await add_session(tx, "next")
    async with storage.read() as tx:
        assert await tx.sessions.get(TENANT, "next") is not None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_json_lacks_is_refused(storage, number):
    async with storage.write() as tx:
        session = await add_session(tx)
    with pytest.raises(Exception, match=r"(?i)json"):
        async with storage.write() as tx:
            await tx.events.add([new_event(session, 1, metadata={"x": number})], "words")
    async with storage.read() as tx:
        assert await tx.changes.metadata_values(TENANT, None, ["x"]) == []
