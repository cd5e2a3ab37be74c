"""What have all purges in common? Rows first, then the indexes of every process, then the files; a receipt at the end.

A purge is an operation. Where its rows are too many for one transaction they go step by step. The indexes of this
process are cleaned at once; other processes follow the change feed, and the receipt says `verified` only when all of
them have confirmed. Whoever is stopped in between leaves it to the sweep: what is left is seen in the rows.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from memory.domain.changes import Position
from memory.domain.errors import Retryable, TenantPurged
from memory.domain.operations import UNFINISHED, Operation, OperationKind, OperationState, Receipt
from memory.domain.receipts import ReceiptKind, SignedReceipt
from memory.ports.jobs import Clock, JobQueue
from memory.ports.notices import Notices
from memory.ports.storage import Storage, UnitOfWork
from memory.services.attempts import attempt
from memory.services.receipts import Receipts
from memory.services.tasks import CONSOLIDATE, PURGE
from memory.tiers.longterm.tier import live_since

logger = logging.getLogger(__name__)

NOTHING = dict.fromkeys(("events", "segments", "clusters", "memories", "vectors", "lexical", "kv_blocks"), 0)
_PATIENCE = 2.0
"""Seconds a request waits for the other processes before it answers with an operation."""
_GLANCE = 0.1
_IN_A_RECEIPT = ("purged", "kept")


@dataclass(slots=True)
class Step:
    """What one transaction of a purge did. `done`: no row is left. `promised`: operations to send after the commit;
    `changed`: logs (session_keys)."""

    purged: Counter[str] = field(default_factory=Counter)
    position: Position = field(default_factory=Position)
    done: bool = False
    promised: list[str] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)


TakeStep = Callable[[UnitOfWork, Operation, datetime], Awaitable[Step]]
AtEnd = Callable[[UnitOfWork, Operation, datetime], Awaitable[Position | None]]
"""In the transaction of the receipt, before it. A place in the feed: something came in, and is waited for again."""


class Forgetful(Protocol):
    """A tier, or whatever else of this process may hold some of it."""

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]: ...


class Erasure:
    """`steps`: how rows go that are too many for one transaction; `ends`: what goes with the receipt."""

    def __init__(
        self,
        *,
        storage: Storage,
        tiers: Sequence[Forgetful],
        jobs: JobQueue,
        clock: Clock,
        lease: timedelta,
        receipts: Receipts,
        notices: Notices,
        steps: Mapping[ReceiptKind, TakeStep],
        ends: Mapping[ReceiptKind, AtEnd],
    ) -> None:
        self._storage = storage
        self._tiers = tiers
        self._jobs = jobs
        self._clock = clock
        self._lease = lease
        self._receipts = receipts
        self._notices = notices
        self._steps = steps
        self._ends = ends

    async def promise(
        self,
        tx: UnitOfWork,
        tenant_id: str,
        subject: str,
        what: Mapping[str, Any],
        *,
        counts: Counter[str] | None = None,
        position: Position | None = None,
        session_id: str | None = None,
        kept: Mapping[str, Any] | None = None,
    ) -> str:
        """The operation. `what`: the kind and the ids that the receipt will name. `position` None: rows go in steps."""
        operation_id, _ = await tx.operations.enqueue(
            tenant_id,
            OperationKind.PURGE,
            subject,
            self._clock.now(),
            session_id=session_id,
            total=1,
            unit="purges",
        )
        counts = Counter(NOTHING) if counts is None else counts
        counts["lexical"] = counts["events"] + counts["memories"]
        noted: dict[str, Any] = {"what": dict(what), "purged": dict(counts), "position": _place(position or Position())}
        noted |= {"in_steps": position is None, **(kept or {})}
        await tx.operations.note(operation_id, noted)
        return operation_id

    async def erase(
        self, tenant_id: str, session_keys: Collection[int], operation_id: str, *, in_steps: bool = False
    ) -> Receipt | Operation:
        """What was promised: takes its steps, cleans what this process keeps, waits a moment for the others."""
        if in_steps:
            await self._finish(operation_id, time.monotonic() + _PATIENCE, only_rows=True)
        await self._clean(tenant_id, session_keys, operation_id)
        until = time.monotonic() + _PATIENCE
        while True:
            await self._finish(operation_id, until)
            async with self._storage.read() as tx:
                operation = await tx.operations.by_id(operation_id)
                signed = await tx.receipts.get(operation_id)
            if signed is not None:
                return receipt_of(signed, operation)
            if operation is None:
                raise TenantPurged(tenant_id)  # the purge of all went over this one
            if time.monotonic() > until:
                self._jobs.send(PURGE, operation_id)
                return operation
            await asyncio.sleep(_GLANCE)

    async def finish(self, operation_id: str) -> None:
        """Writes the receipt once every live follower has confirmed and the database's files are clean.

        Until then the sweep asks again.
        """
        await self._finish(operation_id, math.inf)

    async def _finish(self, operation_id: str, until: float, *, only_rows: bool = False) -> None:
        """`until`: monotonic seconds that the caller can wait."""
        async with attempt(self._storage, self._clock, self._lease, operation_id, most=None) as operation:
            if operation is None:
                return
            try:
                left = await self._take_steps(operation, until)
            except Retryable as error:  # such as a deadlock with somebody who was at it before
                left = error.detail
            if not only_rows:
                left = left or await self._left_to_do(operation_id, max(0.0, until - time.monotonic()))
                left = left or await self._conclude(operation_id)
            if left is not None or only_rows:
                async with self._storage.write() as tx:
                    await tx.operations.release(operation_id, left)

    async def _take_steps(self, operation: Operation, until: float) -> str | None:
        """Why there are still rows; None: there are none."""
        while (operation.result or {}).get("in_steps"):
            if time.monotonic() > until:
                return "rows are still being deleted"
            async with self._storage.write() as tx:
                found = await tx.operations.by_id(operation.operation_id, locked=True)
                if found is None:
                    raise TenantPurged(operation.tenant_id)
                operation = found
                if not (operation.result or {}).get("in_steps"):  # somebody else took the last one
                    return None
                step = await self._steps[_kind(operation)](tx, operation, self._clock.now())
                await tx.operations.progress(operation.operation_id, 0, self._lease, self._clock.now())
                noted: dict[str, Any] = operation.result or {}
                counts = Counter(noted["purged"])
                counts.update({kind: count for kind, count in step.purged.items() if count})
                counts["lexical"] = counts["events"] + counts["memories"]
                position = max(Position(*noted["position"]), step.position)
                noted |= {"purged": dict(counts), "position": _place(position), "in_steps": not step.done}
                await tx.operations.note(operation.operation_id, noted)
                found = await tx.operations.by_id(operation.operation_id)
            for promised in step.promised:
                self._jobs.send(CONSOLIDATE, promised)
            self._notices.changed(step.changed)
            operation = found or operation
        return None

    async def _clean(self, tenant_id: str, session_keys: Collection[int], operation_id: str) -> None:
        kept: Counter[str] = Counter()
        try:
            for tier in self._tiers:
                kept.update(await tier.forget(tenant_id, session_keys))
        except Retryable as error:  # the rows are going; this process's follower goes on cleaning
            logger.warning("purge %s waits for the indexes: %s", operation_id, error.detail)
        async with self._storage.write() as tx:
            operation = await tx.operations.by_id(operation_id, locked=True)
            if operation is not None:
                noted = operation.result or {}
                await tx.operations.note(operation_id, noted | {"purged": noted["purged"] | dict(kept)})

    async def _left_to_do(self, operation_id: str, within: float) -> str | None:
        """Why the purge can't be called verified yet; None: it can."""
        async with self._storage.read() as tx:
            operation = await tx.operations.by_id(operation_id)
            slowest = await tx.changes.slowest(live_since(self._clock))
        if operation is None:
            return "it is over"
        purged = Position(*(operation.result or {})["position"])
        if slowest is not None and slowest < purged:
            return "waiting for other processes to clean their indexes"
        try:
            await self._storage.erase_leftovers(purged, within=within)
        except Retryable as error:
            return f"the database's files are not clean yet: {error.detail}"
        return None

    async def _conclude(self, operation_id: str) -> str | None:
        """The receipt, signed and on disk; None: it is written."""
        async with self._storage.write() as tx:
            operation = await tx.operations.by_id(operation_id, locked=True)
            if operation is None or operation.state not in UNFINISHED:  # by another, or the tenant was purged with it
                return None
            now, noted = self._clock.now(), operation.result or {}
            end = self._ends.get(_kind(operation))
            late = None if end is None else await end(tx, operation, now)
            if late is not None:
                await tx.operations.note(operation_id, noted | {"position": _place(late)})
                return "something came in meanwhile"
            facts = {name: noted[name] for name in _IN_A_RECEIPT if name in noted}
            facts |= {"what": noted["what"], "feed": noted["position"]}
            signed = await self._receipts.issue(tx, operation, facts, now)
            result = {**facts, "verified": True, "at": signed.content["at"], "signature": signed.signature}
            result |= {"receipt_id": signed.receipt_id} | {n: noted[n] for n in ("kept_for",) if n in noted}
            await tx.operations.finish(operation_id, OperationState.SUCCEEDED, now, result=result)
            if _kind(operation) is ReceiptKind.TENANT:
                await tx.operations.remove(operation_id)  # the receipt is all that stays
        return None


def receipt_of(signed: SignedReceipt, operation: Operation | None = None) -> Receipt:
    """`operation`: knows which forks its caller may be told of."""
    content, noted = signed.content, {} if operation is None else operation.result or {}
    return Receipt(
        content["purged"],
        content["verified"],
        signed.at,
        content.get("kept", {}),
        tuple(noted.get("kept_for", ())),
        signed.receipt_id,
        signed.signature,
    )


def _kind(operation: Operation) -> ReceiptKind:
    return ReceiptKind((operation.result or {})["what"]["kind"])


def _place(position: Position) -> list[int]:
    return [position.xid, position.number]
