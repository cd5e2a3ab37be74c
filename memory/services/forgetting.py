"""Remove for good: the log, everything derived from it, and every trace in the indexes; with a signed receipt.

What goes is decided here, and its rows with it where one transaction can hold them; how a purge goes on from there,
and when its receipt says `verified`, is the same for all of them (`services/erasure.py`).
"""

from collections import Counter
from dataclasses import asdict
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import Forbidden, InvalidInput, NotFound
from memory.domain.ids import new_id
from memory.domain.operations import Operation, Receipt
from memory.domain.principals import KeyScope, Principal, Scope
from memory.domain.receipts import ReceiptKind
from memory.ports.jobs import Clock, JobQueue
from memory.ports.notices import Notices
from memory.ports.storage import Storage
from memory.services import access
from memory.services.erasure import NOTHING, Erasure
from memory.services.keeping import seen
from memory.services.redaction import made_anew, redact
from memory.services.removal import Removal, descendants
from memory.services.tasks import CONSOLIDATE, subject_of_session


class Forgetting:
    def __init__(self, *, storage: Storage, erasure: Erasure, jobs: JobQueue, clock: Clock, notices: Notices) -> None:
        self._storage = storage
        self._erasure = erasure
        self._jobs = jobs
        self._clock = clock
        self._notices = notices

    async def purge_session(
        self, principal: Principal, session_id: str, *, cascade: bool = False
    ) -> Receipt | Operation:
        """Purges a session, its memories, and those derived from it, but for what forks of it still see.

        `cascade` takes its forks along, and theirs. Raises NotFound, and Forbidden when one of them is out of reach.
        """
        async with self._storage.write() as tx:
            session = await access.any_session(tx, principal, session_id)
            family = await tx.sessions.family_locked(session)
            going = [session, *(descendants(session, family) if cascade else ())]
            if hidden := [one for one in going if not principal.may_reach(one.session_id)]:
                raise Forbidden(f"{len(hidden)} of the forks are out of this key's reach: nothing is purged")
            for one in going:
                await access.purgeable(tx, principal, one)
            keys = {one.session_key for one in going}
            codes = await tx.codebooks.forget(principal.tenant_id, self._clock.now())  # they may know what goes
            removal = Removal(tx, self._clock.now(), [one for one in family if one.session_key not in keys])
            for one in going:
                await removal.remove(one)
            removal.purged.update(NOTHING)
            removal.purged.update({kind: count for kind, count in codes.items() if count})
            operation_id = await self._erasure.promise(
                tx,
                principal.tenant_id,
                subject_of_session(session.session_key),
                {
                    "kind": ReceiptKind.SESSION,
                    "session_ids": [one.session_id for one in going],
                    "session_keys": sorted(keys),
                },
                counts=removal.purged,
                position=removal.position,
                session_id=session_id,
                kept=_kept(principal, removal),
            )
        for operation in removal.operations:
            self._jobs.send(CONSOLIDATE, operation)
        self._notices.changed(keys)
        return await self._erasure.erase(principal.tenant_id, keys, operation_id)

    async def purge_memory(self, principal: Principal, memory_id: str) -> Receipt | Operation:
        """Raises NotFound."""
        async with self._storage.write() as tx:
            found = await tx.memories.locked(principal.tenant_id, memory_id)
            memory = await seen(tx, principal, memory_id, found, self._clock.now(), AgentRole.WRITER)
            counts = Counter(NOTHING)
            counts.update(await tx.memories.purge(memory.memory_key))
            change = NewChange(ChangeKind.MEMORY, memory.tenant_id, memory_key=memory.memory_key)
            operation_id = await self._erasure.promise(
                tx,
                memory.tenant_id,
                f"memory:{memory.memory_key}",
                {
                    "kind": ReceiptKind.MEMORY,
                    "session_ids": [] if memory.session_id is None else [memory.session_id],
                    "memory_id": memory_id,
                    "memory_keys": [memory.memory_key],
                },
                counts=counts,
                position=await tx.changes.add(change),
                session_id=memory.session_id,
            )
        return await self._erasure.erase(memory.tenant_id, (), operation_id)

    async def redact_event(self, principal: Principal, session_id: str, event_id: str) -> Receipt | Operation:
        """Takes an event's content out of the log, and of all that was made of it, in every fork; its place stays.

        Raises NotFound, also for what is redacted already, and Forbidden.
        """
        tenant_id, now = principal.tenant_id, self._clock.now()
        async with self._storage.write() as tx:
            session = await access.session(tx, principal, session_id, AgentRole.WRITER)
            family = {one.session_key: one for one in await tx.sessions.family_locked(session)}
            lineage = family[session.session_key].lineage
            event = next(iter(await tx.events.by_ids(lineage, [event_id])), None)
            if event is None or event.redacted or event.audience not in Scope.of(principal, None).audiences:
                raise NotFound(f"there is no event '{event_id}' in '{session_id}' that could be redacted")
            counts = Counter(NOTHING)
            counts.update(await redact(tx, [event], list(family.values()), tenant_id, now))
            gone = NewChange(ChangeKind.REDACTED, tenant_id, event.session_key, event.seq, event.seq)
            again = await made_anew(tx, family[event.session_key], now)
            operation_id = await self._erasure.promise(
                tx,
                tenant_id,
                f"event:{event.event_key}",
                {
                    "kind": ReceiptKind.EVENT,
                    "session_ids": [session_id],
                    "event_id": event_id,
                    "seq": event.seq,
                    "event_keys": [event.event_key],
                },
                counts=counts,
                position=await tx.changes.add(gone),
                session_id=session_id,
            )
        if again is not None:
            self._jobs.send(CONSOLIDATE, again)
        self._notices.changed(family)
        return await self._erasure.erase(tenant_id, family, operation_id)

    async def purge_agent(self, principal: Principal, agent_id: str) -> Receipt | Operation:
        """All that is private to an agent: its events keep their place in the log, all else goes.

        Raises Forbidden, and NotFound when there is nothing.
        """
        _check_agent(principal, agent_id)
        tenant_id = principal.tenant_id
        async with self._storage.write() as tx:
            upto = await tx.tenants.highest()
            if not await tx.private.any(tenant_id, agent_id, upto):
                raise NotFound(f"nothing is kept that is private to '{agent_id}'")
            operation_id = await self._erasure.promise(
                tx,
                tenant_id,
                f"agent:{new_id()}",
                {"kind": ReceiptKind.AGENT, "agent_id": agent_id, "upto": asdict(upto)},
            )
        return await self._erasure.erase(tenant_id, (), operation_id, in_steps=True)

    async def purge_own_tenant(self, principal: Principal, tenant_id: str, confirmed: str) -> Receipt | Operation:
        """The caller's own tenant. Raises NotFound for any other, and InvalidInput when it is not `confirmed`."""
        access.require_unlimited(principal)
        if tenant_id != principal.tenant_id:
            raise NotFound(f"there is no tenant '{tenant_id}'")
        if confirmed != tenant_id:
            raise InvalidInput(
                f"all that '{tenant_id}' has would be gone for good: say ?confirm={tenant_id} if you mean it"
            )
        return await self.purge_tenant(tenant_id)

    async def purge_tenant(self, tenant_id: str) -> Receipt | Operation:
        """From now on nobody comes in as this tenant; its rows go step by step. Raises NotFound."""
        async with self._storage.write() as tx:
            upto, keys = await tx.tenants.highest(), (await tx.tenants.figures(tenant_id)).keys
            what = {"kind": ReceiptKind.TENANT, "tenant_id": tenant_id, "upto": asdict(upto)}
            operation_id = await self._erasure.promise(
                tx, tenant_id, "tenant", what, counts=Counter({**NOTHING, "keys": keys})
            )
            if not await tx.tenants.begin_purge(tenant_id, operation_id):
                raise NotFound(f"there is no tenant '{tenant_id}', or it is being purged already")
        return await self._erasure.erase(tenant_id, (), operation_id, in_steps=True)

    async def resume(self, operation: Operation) -> Receipt | Operation:
        """One more look at a purge that could not be verified yet."""
        return await self._erasure.erase(operation.tenant_id, (), operation.operation_id, in_steps=True)

    async def finish_purge(self, operation_id: str) -> None:
        """For workers: goes on where another was stopped, until the receipt can be written."""
        await self._erasure.finish(operation_id)


def _check_agent(principal: Principal, agent_id: str) -> None:
    """With the scope `admin`, or as the agent itself; a key of some sessions does not reach all of it."""
    access.check_author(principal, agent_id)
    if principal.session_ids is not None:
        raise Forbidden("what is private to an agent may lie in sessions that this key can't reach")
    if KeyScope.ADMIN not in principal.scopes and not principal.bound:
        raise Forbidden(f"this needs a key with the scope 'admin', or one that is bound to '{agent_id}'")


def _kept(principal: Principal, removal: Removal) -> dict[str, Any]:
    """What the receipt says of it; forks out of the caller's reach are not named."""
    if not removal.kept_for:
        return {}
    named = sorted(session_id for session_id in removal.kept_for if principal.may_reach(session_id))
    return {"kept": dict(removal.kept), "kept_for": named}
