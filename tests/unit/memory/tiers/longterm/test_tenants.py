"""A tenant that was purged leaves memory and disk, whoever uses its index at that moment."""

import asyncio

from memory.domain.operations import Receipt
from tests.unit.memory.services.conftest import ME, container, models, say, settings, work

__all__ = ["container", "models", "settings"]


async def test_an_index_that_is_in_use_is_dropped_when_it_is_not_and_writes_nothing_any_more(container):
    await say(container, "s", "a zebra", "another")
    await work(container)
    tenants = container.longterm._tenants
    async with tenants.using("default") as tenant:
        await tenant.save()
        folder = tenant.home.folder
        dropping = asyncio.create_task(tenants.drop("default"))
        await asyncio.sleep(0.05)
        assert not dropping.done()
        assert folder.exists()
    await dropping
    assert not folder.exists()
    tenant.index.unsaved = 1
    await tenant.upkeep()
    await tenant.save()
    assert not await tenant.tend()
    assert not folder.exists()
    async with tenants.using("default") as again:  # made anew, from the database
        assert again is not tenant
        assert again.index.catalogue.live == 2


async def test_a_purged_tenant_is_dropped_and_begins_anew(container):
    await say(container, "s", "a zebra", "another")
    await work(container)
    async with container.longterm._tenants.using("default") as tenant:
        folder = tenant.home.folder
    outcome = await container.forgetting.purge_tenant("default")
    while not isinstance(outcome, Receipt):
        await asyncio.sleep(0.1)
        outcome = await container.forgetting.resume(outcome)
    assert outcome.purged["events"] == 2
    assert not folder.exists()
    await say(container, "s", "a giraffe")
    assert await container.longterm.verify(ME.tenant_id) == []
    async with container.longterm._tenants.using("default") as anew:
        assert anew.index.catalogue.live == 1
