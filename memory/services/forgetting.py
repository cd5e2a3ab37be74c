"""Remove for good: the log, everything derived from it, and every trace in the indexes; with a receipt.

The rows go in one transaction. The indexes of this process are cleaned at once; other processes follow the change
feed, and the receipt says `verified` only when all of them have confirmed. Until then the purge is an operation.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.errors import Forbidden, NotFound, Retryable
from memory.domain.operations import Operation, OperationKind, OperationState, Receipt
from memory.domain.principals import Principal, Scope
from memory.ports.jobs import Clock, JobQueue
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.keeping import seen
from memory.services.redaction import redact
from memory.services.removal import Removal, descendants
from memory.services.tasks import CONSOLIDATE, PURGE, subject_of_session
from memory.tiers.base import Tier
from memory.tiers.longterm.tier import live_since

logger = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds a request waits for the other processes before it answers with an operation."""
_GLANCE = 0.1
_RECEIPT = ("purged", "kept", "kept_for")
NOTHING = dict.fromkeys(("events", "segments", "clusters", "memories", "vectors", "lexical", "kv_blocks"), 0)


class Forgetting:
    def __init__(
        self,
        *,
        storage: Storage,
        tiers: Sequence[Tier],
        jobs: JobQueue,
        clock: Clock,
        lease: timedelta,
    ) -> None:
        self._storage = storage
        self._tiers = tiers
        self._jobs = jobs
        self._clock = clock
        self._lease = lease

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
            operation_id = await self._promise(
                tx,
                principal.tenant_id,
                subject_of_session(session.session_key),
                session_id,
                removal.position,
                removal.purged,
                _kept(principal, removal),
            )
        for operation in removal.operations:
            self._jobs.send(CONSOLIDATE, operation)
        return await self.erase(principal.tenant_id, keys, operation_id)

    async def purge_memory(self, principal: Principal, memory_id: str) -> Receipt | Operation:
        """Raises NotFound."""
        async with self._storage.write() as tx:
            found = await tx.memories.locked(principal.tenant_id, memory_id)
            memory = await seen(tx, principal, memory_id, found, self._clock.now(), AgentRole.WRITER)
            counts = Counter(NOTHING)
            counts.update(await tx.memories.purge(memory.memory_key))
            change = NewChange(ChangeKind.MEMORY, memory.tenant_id, memory_key=memory.memory_key)
            position = await tx.changes.add(change)
            subject = f"memory:{memory.memory_key}"
            operation_id = await self._promise(tx, memory.tenant_id, subject, memory.session_id, position, counts)
        return await self.erase(memory.tenant_id, (), operation_id)

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
            counts.update(await redact(tx, event, list(family.values()), tenant_id, now))
            gone = NewChange(ChangeKind.REDACTED, tenant_id, event.session_key, event.seq, event.seq)
            position = await tx.changes.add(gone)
            subject, owner = subject_of_session(event.session_key), family[event.session_key]
            index, is_new = await tx.operations.enqueue(
                tenant_id,
                OperationKind.INDEX,
                subject,
                now,
                session_key=owner.session_key,
                session_id=owner.session_id,
                unit="events",
            )
            operation_id = await self._promise(tx, tenant_id, f"event:{event.event_key}", session_id, position, counts)
        if is_new:
            self._jobs.send(CONSOLIDATE, index)
        return await self.erase(tenant_id, family, operation_id)

    async def finish_purge(self, operation_id: str, *, within: float = math.inf) -> None:
        """Writes the receipt once every live follower has confirmed and the database's files are clean.

        Until then the sweep asks again. `within`: seconds that the caller can wait for the files.
        """
        async with self._storage.write() as tx:
            operation = await tx.operations.claim(operation_id, self._lease, self._clock.now())
        if operation is None:
            return
        left = await self._left_to_do(operation, within)
        async with self._storage.write() as tx:
            if left is None:
                await self._write_receipt(tx, operation)
            else:
                await tx.operations.release(operation_id, left)

    async def _promise(
        self,
        tx: UnitOfWork,
        tenant_id: str,
        subject: str,
        session_id: str | None,
        position: Position,
        counts: Counter[str],
        kept: Mapping[str, Any] | None = None,
    ) -> str:
        operation_id, _ = await tx.operations.enqueue(
            tenant_id,
            OperationKind.PURGE,
            subject,
            self._clock.now(),
            session_id=session_id,
            total=1,
            unit="purges",
        )
        counts["lexical"] = counts["events"] + counts["memories"]
        place = [position.xid, position.number]
        await tx.operations.note(operation_id, {"purged": dict(counts), "position": place, **(kept or {})})
        return operation_id

    async def erase(self, tenant_id: str, session_keys: Collection[int], operation_id: str) -> Receipt | Operation:
        """Of a purge whose rows are gone: cleans what this process keeps, then waits a moment for the others."""
        kept: Counter[str] = Counter()
        try:
            for tier in self._tiers:
                kept.update(await tier.forget(tenant_id, session_keys))
        except Retryable as error:  # the rows are gone; this process's follower goes on cleaning
            logger.warning("purge %s waits for the indexes: %s", operation_id, error.detail)
        async with self._storage.write() as tx:
            operation = await tx.operations.by_id(operation_id)
            assert operation is not None
            noted = operation.result or {}
            await tx.operations.note(operation_id, noted | {"purged": noted["purged"] | dict(kept)})
        until = time.monotonic() + _PATIENCE
        while True:
            await self.finish_purge(operation_id, within=_PATIENCE)
            async with self._storage.read() as tx:
                operation = await tx.operations.by_id(operation_id)
            assert operation is not None
            if operation.state is OperationState.SUCCEEDED:
                return receipt_of(operation)
            if time.monotonic() > until:
                self._jobs.send(PURGE, operation_id)
                return operation
            await asyncio.sleep(_GLANCE)

    async def _left_to_do(self, operation: Operation, within: float) -> str | None:
        """Why the purge can't be called verified yet; None: it can."""
        purged = Position(*(operation.result or {})["position"])
        async with self._storage.read() as tx:
            slowest = await tx.changes.slowest(live_since(self._clock))
        if slowest is not None and slowest < purged:
            return "waiting for other processes to clean their indexes"
        try:
            await self._storage.erase_leftovers(purged, within=within)
        except Retryable as error:
            return f"the database's files are not clean yet: {error.detail}"
        return None

    async def _write_receipt(self, tx: UnitOfWork, operation: Operation) -> None:
        now = self._clock.now()
        found = {name: value for name, value in (operation.result or {}).items() if name in _RECEIPT}
        result = found | {"verified": True, "at": now.isoformat().replace("+00:00", "Z")}
        await tx.operations.finish(operation.operation_id, OperationState.SUCCEEDED, now, result=result)


def receipt_of(operation: Operation) -> Receipt:
    """The receipt of a purge that is over."""
    result: dict[str, Any] = operation.result or {}
    at = datetime.fromisoformat(result["at"])
    return Receipt(result["purged"], result["verified"], at, result.get("kept", {}), tuple(result.get("kept_for", ())))


def _kept(principal: Principal, removal: Removal) -> dict[str, Any]:
    """What the receipt says of it; forks out of the caller's reach are not named."""
    if not removal.kept_for:
        return {}
    named = sorted(session_id for session_id in removal.kept_for if principal.may_reach(session_id))
    return {"kept": dict(removal.kept), "kept_for": named}
