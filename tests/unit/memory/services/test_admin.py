"""What an operator sees is what its key reaches."""

from memory.adapters.clock import SystemClock
from memory.domain.operations import OperationKind
from memory.domain.principals import Principal
from memory.services.activity import Activity
from memory.services.admin import Admin
from memory.services.usage import Usage
from tests.services import NOW, TENANT


async def test_jobs_of_sessions_that_a_key_is_not_bound_to_are_not_named(storage):
    async with storage.write() as tx:
        for number, session_id in enumerate(("mine", "other")):
            subject, about = f"session:{number}", {"session_key": number, "session_id": session_id}
            await tx.operations.enqueue(TENANT, OperationKind.INDEX, subject, NOW, unit="events", **about)
    unused = dict.fromkeys(("tiers", "hot", "kv", "semantic", "clusters", "usage", "activity"))
    admin = Admin(storage=storage, **unused)
    bound = await admin.jobs(Principal(TENANT, session_ids=frozenset({"mine"})))
    assert [job.session_id for job in bound.newest] == ["mine"]
    assert len((await admin.jobs(Principal(TENANT))).newest) == 2


async def test_the_overview_tells_nothing_of_other_tenants(storage):
    unused = dict.fromkeys(("hot", "kv", "semantic", "clusters"))
    admin = Admin(storage=storage, tiers=(), usage=Usage(storage, SystemClock()), activity=Activity(), **unused)
    caller = Principal(TENANT)
    async with storage.write() as tx:
        await tx.tenants.secret(TENANT, NOW)
    alone = await admin.overview(caller)
    assert (alone["tenants"], alone["database_bytes"] > 0) == (1, True)
    async with storage.write() as tx:
        await tx.tenants.secret("other", NOW)
    beside = await admin.overview(caller)
    assert (beside["tenants"], beside["database_bytes"]) == (1, None)
