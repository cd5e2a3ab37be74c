"""What an operator sees is what its key reaches."""

from memory.domain.operations import OperationKind
from memory.domain.principals import Principal
from memory.services.admin import Admin
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
