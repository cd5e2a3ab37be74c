import asyncio

from memory.domain.operations import Operation, OperationState
from memory.tiers.longterm import follower
from memory.tiers.longterm.rebuilding import rebuild_vectors, verify_vectors, verify_words
from tests.unit.memory.services.conftest import ME, container, models, say, settings, work

__all__ = ["container", "models", "settings"]


async def test_what_came_since_the_last_catching_up_keeps_its_words(container):
    """The new vectors follow the feed further than the index had: the words, which both share, must come along."""
    await say(container, "s", "one")
    async with container.longterm._tenants.using("default") as tenant:
        await say(container, "s", "a zebra")
        await rebuild_vectors(tenant)
        assert await verify_words(tenant) == []
        assert await verify_vectors(tenant) == []


async def test_a_purge_is_confirmed_when_what_is_being_built_has_none_of_it_either(container, monkeypatch):
    reached, go_on, vector_pages = asyncio.Event(), asyncio.Event(), follower.vector_pages

    async def slow(*of):
        async for page in vector_pages(*of):
            yield page
        reached.set()
        await go_on.wait()

    await say(container, "s", *[f"remark {n}" for n in range(9)])
    await say(container, "t", "a zebra", "another")
    await work(container)
    async with container.longterm._tenants.using("default") as tenant:
        monkeypatch.setattr(follower, "vector_pages", slow)
        building = asyncio.create_task(rebuild_vectors(tenant))
        await reached.wait()
        pending = await container.forgetting.purge_session(ME, "t")
        assert isinstance(pending, Operation), "not before what was read of it is gone"
        go_on.set()
        await building
        await container.longterm.forget("default")
        assert not len(tenant.index.owners.unblanked)
        assert (tenant.index.vectors.vectors(tenant.index.owners.owned()) != 0).any(axis=1).sum() == 9
    await container.forgetting.finish_purge(pending.operation_id)
    assert (await container.operations.get(ME, pending.operation_id)).state is OperationState.SUCCEEDED


async def test_two_rebuilds_take_turns(container):
    await say(container, "s", *[f"remark {n}" for n in range(9)])
    await work(container)
    async with container.longterm._tenants.using("default") as tenant:
        await asyncio.gather(rebuild_vectors(tenant), rebuild_vectors(tenant))
        assert await verify_vectors(tenant) == []
        await tenant.save()
