"""Watch, cancel and retry asynchronous work."""

from collections.abc import Sequence

from memory.domain.agents import AgentRole
from memory.domain.errors import Conflict, NotFound
from memory.domain.operations import UNFINISHED, Operation, OperationKind, OperationState
from memory.domain.principals import KeyScope, Principal
from memory.ports.jobs import Clock, JobQueue
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.tasks import FIRST_STEP, of_one_process


class Operations:
    def __init__(self, storage: Storage, jobs: JobQueue, clock: Clock) -> None:
        self._storage = storage
        self._jobs = jobs
        self._clock = clock

    async def get(self, principal: Principal, operation_id: str) -> Operation:
        """Raises NotFound."""
        async with self._storage.read() as tx:
            found = await tx.operations.get(principal.tenant_id, operation_id)
            return await _reachable(tx, principal, operation_id, found, AgentRole.READER)

    async def page(
        self,
        principal: Principal,
        *,
        states: Sequence[OperationState] | None,
        after_id: str | None,
        limit: int,
    ) -> list[Operation]:
        """Newest first."""
        async with self._storage.read() as tx:
            return await tx.operations.page(
                principal.tenant_id,
                states=states,
                after_id=after_id,
                limit=limit,
                reach=principal.reach,
            )

    async def cancel(self, principal: Principal, operation_id: str) -> Operation:
        """Raises NotFound, and Conflict for what is over or must not stay half done."""
        async with self._storage.write() as tx:
            found = await tx.operations.get(principal.tenant_id, operation_id)
            found = await _reachable(tx, principal, operation_id, found, AgentRole.WRITER)
            if found.state not in UNFINISHED:
                raise Conflict(f"the operation is over: {found.state}")
            if found.kind in (OperationKind.PURGE, OperationKind.FORGET):
                raise Conflict("a purge can't be cancelled: it must not stay half done")
            if found.kind is OperationKind.REEMBED:
                raise Conflict("set STRATAMEM_EMBEDDER back to the old model and start again: that calls it off")
            await tx.operations.finish(operation_id, OperationState.CANCELLED, self._clock.now())
        return await self.get(principal, operation_id)

    async def retry(self, principal: Principal, operation_id: str) -> Operation:
        """A failed one begins again. Raises NotFound, and Conflict for what has not failed or is done by another."""
        async with self._storage.write() as tx:
            found = await tx.operations.get(principal.tenant_id, operation_id)
            found = await _reachable(tx, principal, operation_id, found, AgentRole.WRITER)
            if found.state is not OperationState.FAILED:
                raise Conflict(f"only what has failed can be tried again: this operation is {found.state}")
            if not await tx.operations.retry(operation_id):
                raise Conflict("another operation does the same already")
        if not of_one_process(found):
            self._jobs.send(FIRST_STEP[found.kind], operation_id)
        return await self.get(principal, operation_id)


async def _reachable(
    tx: UnitOfWork, principal: Principal, operation_id: str, found: Operation | None, needed: AgentRole
) -> Operation:
    """Raises NotFound, and Forbidden for what is done in a closed session without that role."""
    hidden = found is not None and found.session_id is not None and not principal.may_reach(found.session_id)
    if found is None or hidden:
        raise NotFound(f"there is no operation '{operation_id}'")
    session = (await tx.sessions.by_keys([found.session_key])).get(found.session_key) if found.session_key else None
    if session is not None and KeyScope.ADMIN not in principal.scopes:
        await access.check_roles(tx, session, [principal.agent_id], needed)
    return found
