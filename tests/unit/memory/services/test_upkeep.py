from datetime import timedelta

from memory.adapters.jobs.recording import RecordingQueue
from memory.domain.audit import Entry, Search
from memory.services.upkeep import Upkeep
from tests.unit.memory.services.conftest import ME, say, work

YEAR = timedelta(days=366)


def upkeep(container, idle=timedelta(0), retention=timedelta(days=7)):
    jobs = RecordingQueue()
    return Upkeep(container.storage, jobs, container.clock, idle=idle, retention=retention), jobs


async def test_a_job_whose_message_was_lost_is_sent_again(container):
    await say(container, "s", "hello")
    (operation,) = await container.operations.page(ME, states=None, after_id=None, limit=5)
    sweeper, jobs = upkeep(container)
    assert await sweeper.sweep() == 1
    assert jobs.sent == [("consolidate", (operation.operation_id,))]


async def test_a_job_that_was_just_sent_is_left_alone(container):
    await say(container, "s", "hello")
    sweeper, jobs = upkeep(container, idle=timedelta(hours=1))
    assert await sweeper.sweep() == 0
    assert jobs.sent == []


async def test_a_job_at_which_somebody_works_is_left_alone_until_the_lease_ends(container):
    await say(container, "s", "hello")
    (operation,) = await container.operations.page(ME, states=None, after_id=None, limit=5)
    now = container.clock.now()
    async with container.storage.write() as tx:
        await tx.operations.claim(operation.operation_id, timedelta(seconds=60), now)
    sweeper, _ = upkeep(container)
    assert await sweeper.sweep() == 0
    async with container.storage.write() as tx:
        await tx.operations.progress(operation.operation_id, 0, timedelta(seconds=-1), now)
    assert await sweeper.sweep() == 1


async def test_the_ticket_of_a_turn_that_nobody_asked_after_again_goes(container):
    now, lease = container.clock.now(), timedelta(seconds=30)
    async with container.storage.write() as tx:
        old = await tx.turns.draw("default", "s", lease, now - timedelta(hours=2), most=9)
        new = await tx.turns.draw("default", "s", lease, now - timedelta(minutes=2), most=9)
    await upkeep(container)[0].tidy()
    async with container.storage.write() as tx:
        assert [await tx.turns.give_back(ticket) for ticket in (old, new)] == [False, True]


async def test_old_operations_are_forgotten_and_unfinished_ones_never(container):
    await say(container, "s", "hello")
    await work(container)
    await say(container, "s", "again")
    sweeper, _ = upkeep(container, retention=timedelta(0))
    await sweeper.tidy()
    (left,) = await container.operations.page(ME, states=None, after_id=None, limit=5)
    assert left.state == "queued"


async def test_the_audit_is_kept_longer_than_operations_and_not_for_ever(container):
    now = container.clock.now()
    entries = [Entry(0, "default", now - age, None, None, "x.y", None, None, 200, None) for age in (YEAR, YEAR / 2)]
    async with container.storage.write() as tx:
        await tx.tenants.remove("default", now - 2 * YEAR, keep_secret=True)  # as if it were that old
        await tx.audit.add(entries)
    await upkeep(container)[0].tidy()
    assert [entry.at for entry in await container.audit.page("default", Search(), before=None, limit=9)] == [
        now - YEAR / 2
    ]
