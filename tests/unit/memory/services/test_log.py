import asyncio

import pytest

from memory.bootstrap import build
from memory.domain.errors import EventConflict, NotFound, QuotaExceeded, SequenceConflict
from memory.domain.events import NewEvent, Role
from memory.domain.principals import Principal
from memory.domain.sessions import NewSession
from memory.services.settings import LimitSettings
from tests.unit.memory.services.conftest import ME


def said(text, event_id=None):
    return NewEvent(Role.USER, text, event_id=event_id)


async def log_of(container, session_id, by=ME):
    return await container.events.page(by, session_id, after_seq=None, limit=1_000)


async def together(container, *appends):
    """All at once, so that they share transactions; answers and errors in order."""
    return await asyncio.gather(
        *(container.events.append(by, session, events, **options) for by, session, events, options in appends),
        return_exceptions=True,
    )


async def test_appends_that_come_together_keep_their_order_and_leave_no_gap(container):
    answers = await together(container, *((ME, "s", [said(f"n{n}")], {}) for n in range(200)))
    assert [answer.first_seq for answer in answers] == list(range(1, 201))
    assert [event.content for event in await log_of(container, "s")] == [f"n{n}" for n in range(200)]


async def test_many_sessions_and_tenants_share_a_transaction_and_nothing_else(container):
    other = Principal("other")
    answers = await together(
        container, *((other if n % 2 else ME, f"s{n % 5}", [said(f"n{n}")], {}) for n in range(60))
    )
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    for session in range(5):
        mine = [event.content for event in await log_of(container, f"s{session}")]
        theirs = [event.content for event in await log_of(container, f"s{session}", by=other)]
        assert mine == [f"n{n}" for n in range(60) if n % 5 == session and n % 2 == 0]
        assert theirs == [f"n{n}" for n in range(60) if n % 5 == session and n % 2 == 1]


async def test_an_event_that_is_named_twice_counts_once(container):
    twice = [said("one two three", "a"), said("one two three", "a")]
    answer = await container.events.append(ME, "s", twice)
    assert (answer.event_ids, answer.token_count) == (("a", "a"), 3)


async def test_what_one_is_refused_for_does_not_touch_the_others(container):
    first, conflict, repeated, unexpected, last = await together(
        container,
        (ME, "s", [said("one", "a")], {}),
        (ME, "s", [said("not one", "a"), said("never stored")], {}),
        (ME, "s", [said("one", "a")], {}),
        (ME, "s", [said("never stored either")], {"expected_seq": 7}),
        (ME, "s", [said("two")], {"expected_seq": 1}),
    )
    assert isinstance(conflict, EventConflict)
    assert isinstance(unexpected, SequenceConflict)
    assert (first.repeated, repeated.repeated, repeated.event_ids) == (False, True, first.event_ids)
    assert last.first_seq == 2
    assert [event.content for event in await log_of(container, "s")] == ["one", "two"]


async def test_a_refused_append_makes_no_session(container):
    with pytest.raises(SequenceConflict):
        await container.events.append(ME, "new", [said("x")], expected_seq=3)
    with pytest.raises(NotFound):
        await log_of(container, "new")


async def test_one_idempotency_key_stores_once_however_many_come_together(container):
    answers = await together(container, *((ME, "s", [said("x")], {"idempotency_key": "k"}) for _ in range(20)))
    assert len({answer.event_ids for answer in answers}) == 1
    assert [answer.repeated for answer in answers].count(False) == 1
    assert len(await log_of(container, "s")) == 1


async def test_a_client_that_goes_away_neither_loses_nor_blocks_anything(container):
    await container.events.append(ME, "s", [said("first")])
    tasks = [asyncio.create_task(container.events.append(ME, "s", [said(f"n{n}")])) for n in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await container.events.append(ME, "s", [said("last")])).first_seq >= 17
    seqs = [event.seq for event in await log_of(container, "s")]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_one_row_of_the_backlog_for_each_session(container):
    await together(container, *((ME, f"s{n % 3}", [said(f"n{n}")], {}) for n in range(30)))
    operations = await container.operations.page(ME, states=None, after_id=None, limit=50)
    assert sorted((o.session_id, o.progress.total) for o in operations) == [("s0", 10), ("s1", 10), ("s2", 10)]


async def test_an_event_that_the_database_refuses_fails_alone(container):
    broken = NewEvent(Role.USER, "a lone surrogate: \ud800")
    good, bad, fine = await together(
        container, (ME, "s", [said("good")], {}), (ME, "s", [broken], {}), (ME, "s", [said("fine")], {})
    )
    assert isinstance(bad, Exception)
    assert (good.first_seq, fine.first_seq) == (1, 2)


async def test_a_tenant_that_has_its_sessions_makes_no_more_and_goes_on_in_those(settings, models):
    limits = LimitSettings(tenant_sessions=2)
    async with build(settings.model_copy(update={"limits": limits}), models=models) as container:
        for session_id in ("a", "b", "a"):
            await container.events.append(ME, session_id, [said("one")])
        with pytest.raises(QuotaExceeded):
            await container.events.append(ME, "c", [said("one")])
        with pytest.raises(QuotaExceeded):
            await container.sessions.create(ME, NewSession("c"))
        with pytest.raises(QuotaExceeded):
            await container.sessions.fork(ME, "a", "c", None)
        other = await container.events.append(Principal("other"), "c", [said("one")])
        assert (other.first_seq, len(await log_of(container, "a"))) == (1, 2)
