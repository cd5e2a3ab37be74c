"""Forgetting by a policy over both databases."""

from datetime import timedelta

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.domain.errors import Conflict, InvalidInput, NotFound
from memory.domain.forgetting import ForgetPolicy, ForgetRule
from memory.domain.memories import MemoryKind, MemoryVisibility
from memory.domain.operations import Operation, OperationState, Receipt
from memory.domain.principals import Principal
from memory.domain.recall import AllOf, FieldTest, FilterOp, Not, TierName
from memory.services import policies
from memory.services.operations import Operations
from tests.unit.memory.services.world import ME, World, memory

BOB = Principal("acme", agent_id="bob")
TEA = "in the long dark afternoons of winter she likes to drink a cup of hot green tea"


@pytest.fixture
def world(storage):
    return World(storage)


async def would_go(world, by=ME, **policy):
    forecast = await world.policies.preview(by, ForgetPolicy(**policy))
    return {shown.text: [reason.rule.value for reason in shown.verdict.reasons] for shown in forecast.shown}


async def forget(world, **policy):
    return await world.policies.forget(ME, ForgetPolicy(**policy))


async def left(world):
    async with world.storage.read() as tx:
        found = await tx.memories.page("acme", frozenset({"tenant", "private:ann"}), after_key=None, limit=999)
    return sorted(one.text for one in found)


async def test_a_dry_run_says_what_would_go_and_why_and_changes_nothing(world):
    await world.add("old", "old and pinned", pinned=False)
    pinned = (await world.add("pinned"))[0]
    await world.memories.update(ME, pinned, {"pinned": True}, if_match=None)
    world.clock.pass_time(days=40)
    await world.add("new")
    forecast = await world.policies.preview(ME, ForgetPolicy(max_age_days=30))
    assert (forecast.considered, forecast.pinned) == (4, 1)
    assert [shown.text for shown in forecast.shown] == ["old", "old and pinned"]
    (reason,) = forecast.shown[0].verdict.reasons
    assert (reason.rule, reason.detail) == (ForgetRule.MAX_AGE, "40.0 days old, more than 30")
    assert len(await left(world)) == 4


async def test_what_was_recalled_lately_is_used(world):
    first, _ = await world.add("used", "unused")
    world.clock.pass_time(days=10)
    item = (await world.get(first)).item
    world.usage.note([(item, TierName.LONGTERM)])
    assert await would_go(world, unused_days=7) == {"unused": ["unused_days"]}
    world.clock.pass_time(days=3)
    assert await would_go(world, keep_top=1) == {"unused": ["keep_top"]}


async def test_kinds_and_filter_say_which(world):
    await world.add("tea", metadata={"topic": {"is": "drink"}})
    await world.add("coffee", metadata={"topic": {"is": "drink"}}, kind=MemoryKind.NOTE)
    await world.add("bread", metadata={"topic": {"is": "food"}})
    drink = FieldTest("metadata.topic.is", FilterOp.EQ, "drink")
    assert set(await would_go(world, filter=drink)) == {"tea", "coffee"}
    assert set(await would_go(world, filter=Not(drink))) == {"bread"}
    assert set(await would_go(world, filter=drink, kinds=frozenset({"fact"}))) == {"tea"}
    noted = AllOf((drink, FieldTest("kind", FilterOp.EQ, "note"), FieldTest("agent_id", FilterOp.EQ, "ann")))
    assert await would_go(world, filter=noted) == {"coffee": ["selected"]}
    now = world.clock.now().timestamp()
    assert await would_go(world, filter=FieldTest("created_at", FilterOp.LT, now)) == {}


async def test_another_agents_and_another_tenants_memories_are_not_looked_at(world):
    await world.add("mine", visibility=MemoryVisibility.PRIVATE)
    await world.add("ours")
    assert set(await would_go(world, keep_top=0)) == {"mine", "ours"}
    assert set(await would_go(world, by=BOB, keep_top=0)) == {"ours"}
    assert await would_go(world, by=Principal("other", agent_id="ann"), keep_top=0) == {}


async def test_a_repetition_goes_and_what_it_repeats_stays(world):
    await world.add(TEA, f"{TEA} indeed", f"{TEA} really", "something else")
    await world.work()
    assert await would_go(world, redundancy=0.9) == {
        f"{TEA} indeed": ["redundancy"],
        f"{TEA} really": ["redundancy"],
    }
    assert await would_go(world, redundancy=0.999) == {}


async def test_what_goes_is_purged_with_a_receipt(world, database):
    await world.add(*[f"note {number}" for number in range(20)], "kept")
    await world.work()
    forecast, receipt = await forget(world, filter=Not(FieldTest("metadata.no", FilterOp.EXISTS)), keep_top=1)
    assert isinstance(receipt, Receipt)
    assert receipt.verified
    assert (receipt.purged["memories"], receipt.purged["vectors"], receipt.purged["lexical"]) == (20, 20, 20)
    assert len(forecast.going) == 20
    assert await left(world) == ["kept"]
    for table in ("memories", "memory_versions", "segments"):
        assert await database.rows(f"SELECT count(*) FROM {table}") == [(1,)]
    again, empty = await forget(world, keep_top=1)
    assert (again.going, empty.verified, empty.purged["memories"]) == ((), True, 0)


async def test_what_takes_longer_is_finished_by_a_worker(world, monkeypatch):
    await world.add(*[f"note {number}" for number in range(25)])
    monkeypatch.setattr(policies, "_PART", 10)
    monkeypatch.setattr(policies, "_PATIENCE", -1)
    _, pending = await forget(world, keep_top=5)
    assert isinstance(pending, Operation)
    assert (pending.state, pending.progress.total, pending.progress.unit) == (OperationState.QUEUED, 20, "memories")
    assert world.jobs.sent[-1] == ("forget", (pending.operation_id,))
    assert len(await left(world)) == 25
    operations = Operations(world.storage, RecordingQueue(), world.clock)
    with pytest.raises(Conflict):
        await operations.cancel(ME, pending.operation_id)
    await world.policies.finish_forget(pending.operation_id)
    done = await operations.get(ME, pending.operation_id)
    assert (done.state, done.progress.done) == (OperationState.SUCCEEDED, 20)
    assert done.result["purged"]["memories"] == 20
    assert "keys" not in done.result
    assert len(await left(world)) == 5


async def test_a_worker_that_was_killed_half_way_is_followed_by_another(world, database, monkeypatch):
    await world.add(*[f"note {number}" for number in range(30)])
    monkeypatch.setattr(policies, "_PART", 10)
    monkeypatch.setattr(policies, "_PATIENCE", -1)
    _, pending = await forget(world, keep_top=0)
    async with world.storage.write() as tx:
        await tx.operations.claim(pending.operation_id, timedelta(minutes=1), world.clock.now())
    await world.policies._purge_part(pending.operation_id)
    await world.add("written later")
    other = World(database.open(), world.clock)
    await other.policies.finish_forget(pending.operation_id)
    assert len(await left(world)) == 21  # the first one's lease holds
    world.clock.pass_time(minutes=2)
    await other.policies.finish_forget(pending.operation_id)
    done = await Operations(world.storage, RecordingQueue(), world.clock).get(ME, pending.operation_id)
    assert done.result["purged"]["memories"] == 30
    assert await left(world) == ["written later"]


async def test_an_operation_that_is_over_purges_nothing_more(world, monkeypatch):
    await world.add("one", "two")
    monkeypatch.setattr(policies, "_PATIENCE", -1)
    _, pending = await forget(world, keep_top=0)
    purge_part = policies.Policies._purge_part

    async def after_it_was_given_up(self, operation_id):
        async with world.storage.write() as tx:
            await tx.operations.finish(operation_id, OperationState.FAILED, world.clock.now(), error="given up")
        return await purge_part(self, operation_id)

    monkeypatch.setattr(policies.Policies, "_purge_part", after_it_was_given_up)
    await world.policies.finish_forget(pending.operation_id)
    over = await Operations(world.storage, RecordingQueue(), world.clock).get(ME, pending.operation_id)
    assert (over.state, over.error) == (OperationState.FAILED, "given up")
    assert len(await left(world)) == 2


async def test_what_was_pinned_meanwhile_stays(world, monkeypatch):
    ids = await world.add("one", "two")
    monkeypatch.setattr(policies, "_PATIENCE", -1)
    _, pending = await forget(world, keep_top=0)
    await world.memories.update(ME, ids[0], {"pinned": True}, if_match=None)
    await world.policies.finish_forget(pending.operation_id)
    assert await left(world) == ["one"]
    with pytest.raises(NotFound):
        await world.get(ids[1])


async def test_a_policy_about_too_many_is_refused_with_advice(world, monkeypatch):
    monkeypatch.setattr(policies, "_CONSIDERED", 3)
    await world.memories.add(ME, [memory(f"note {number}") for number in range(4)])
    with pytest.raises(InvalidInput, match="narrow"):
        await would_go(world, keep_top=1)


async def test_all_pages_are_looked_at(world, monkeypatch):
    monkeypatch.setattr(policies, "_PAGE", 3)
    await world.add(*[f"note {number}" for number in range(9)])
    assert len(await would_go(world, keep_top=0)) == 9
