"""Make an index anew, or compare it with the database, while it serves: operations with progress.

Vectors and words are a process's own, so the process that was asked does it, of its own index only; the operation says
which (`node`). When it ends before that is done, it goes on when it is started again. The semantic tier's clusters are
rows of the database: a worker does it for all processes.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from memory.domain.errors import Retryable, StratamemError
from memory.domain.operations import IndexName, Operation, OperationKind, OperationState
from memory.domain.principals import Principal
from memory.domain.sessions import Session
from memory.ports.jobs import Clock, JobQueue
from memory.ports.storage import Storage
from memory.services.tasks import INDEXES
from memory.tiers.longterm.tier import LongTermTier
from memory.tiers.semantic.tier import SemanticTier

logger = logging.getLogger(__name__)

KINDS = (OperationKind.REBUILD, OperationKind.VERIFY)

_GLANCE = 0.5
"""Seconds between two looks at how far it is and whether somebody cancelled it."""
_RESUME_EVERY = 5.0
_ATTEMPTS = 5
_PAGE = 200
_MOST_PROBLEMS = 100


@dataclass(slots=True)
class _Done:
    steps: int = 0

    async def tell(self, steps: int) -> None:
        self.steps = steps


class Indexes:
    """`start` and `close` are for a process that has indexes of its own."""

    def __init__(
        self,
        *,
        storage: Storage,
        longterm: LongTermTier,
        semantic: SemanticTier,
        jobs: JobQueue,
        clock: Clock,
        node: str,
        lease: timedelta,
    ) -> None:
        self._storage = storage
        self._longterm = longterm
        self._semantic = semantic
        self._jobs = jobs
        self._clock = clock
        self._node = node
        self._lease = lease
        self._one_at_a_time = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_working())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def request(self, principal: Principal, kind: OperationKind, index: IndexName) -> Operation:
        """The operation that does it; the one that is not over yet, if there is one."""
        shared = index is IndexName.SEMANTIC
        total = await self._steps(principal.tenant_id, index)
        async with self._storage.write() as tx:
            subject = f"{index}:{'all' if shared else _short(self._node)}"
            known = await tx.operations.unfinished(principal.tenant_id, kind, subject)
            if known is None:
                operation_id, _ = await tx.operations.enqueue(
                    principal.tenant_id, kind, subject, self._clock.now(), total=total, unit=_unit(index)
                )
                covers = {"covers": "all nodes"} if shared else {"covers": "this node", "node": self._node}
                await tx.operations.note(operation_id, {"index": index, **covers})
                known = await tx.operations.by_id(operation_id)
                assert known is not None
        if shared:
            self._jobs.send(INDEXES, known.operation_id)
        self._wake.set()
        return known

    async def run(self, operation_id: str) -> None:
        """Does what the operation says, unless somebody is at it, it is over, or it is another process's."""
        async with self._storage.read() as tx:
            found = await tx.operations.by_id(operation_id)
        if found is None or _node(found) not in (None, self._node):
            return
        async with self._one_at_a_time, self._storage.write() as tx:
            operation = await tx.operations.claim(operation_id, self._lease, self._clock.now())
        if operation is not None:
            await self._watched(operation)

    async def _keep_working(self) -> None:
        """What was asked of this process, also before it was started the last time."""
        while True:
            self._wake.clear()
            try:
                async with self._storage.read() as tx:
                    now = self._clock.now()
                    waiting = await tx.operations.abandoned(now, timedelta(0), _PAGE, kinds=KINDS)
                for operation in waiting:
                    if _node(operation) == self._node:
                        await self.run(operation.operation_id)
            except StratamemError as error:  # it is looked at again soon
                logger.warning("rebuilding and verifying indexes waits: %s", error.detail)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _RESUME_EVERY)

    async def _watched(self, operation: Operation) -> None:
        """Works, keeps the lease, and stops when the operation was cancelled."""
        done = _Done()
        work = asyncio.create_task(self._work(operation, done))
        try:
            told = operation.progress.done  # by an attempt that ended before: this one begins from the beginning
            while True:
                await asyncio.wait({work}, timeout=_GLANCE)
                if not await self._alive(operation, done.steps - told):
                    return
                told = done.steps
                if work.done():
                    break
            await self._finish(operation, work.result())
        except asyncio.CancelledError:  # the process stops: it is taken up when it is started again
            await asyncio.shield(self._put_back(operation, "the process was stopped"))
            raise
        except (StratamemError, OSError, MemoryError) as error:
            await self._failed(operation, error)
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _work(self, operation: Operation, done: _Done) -> dict[str, Any]:
        tenant_id, index = operation.tenant_id, _index(operation)
        if operation.kind is OperationKind.REBUILD:
            if index is IndexName.SEMANTIC:
                await self._recluster(tenant_id, done)
            else:
                await self._longterm.rebuild(tenant_id, index, done.tell)
            return {}
        if index is IndexName.SEMANTIC:
            problems = await self._verify_clusters(tenant_id, done)
        else:
            problems = await self._longterm.compare(tenant_id, index, done.tell)
        return {"sound": not problems, "problems": problems}

    async def _recluster(self, tenant_id: str, done: _Done) -> None:
        async for sessions in self._sessions(tenant_id):
            for session in sessions:
                await self._semantic.recluster(tenant_id, session.session_key)
                done.steps += 1

    async def _verify_clusters(self, tenant_id: str, done: _Done) -> list[str]:
        problems: list[str] = []
        async for sessions in self._sessions(tenant_id):
            problems += await self._semantic.differences(sessions)
            done.steps += len(sessions)
        return problems[:_MOST_PROBLEMS]

    async def _sessions(self, tenant_id: str) -> AsyncIterator[list[Session]]:
        after: int | None = None
        while True:
            async with self._storage.read() as tx:
                page = await tx.sessions.page(tenant_id, after_key=after, limit=_PAGE)
            if not page:
                return
            yield page
            after = page[-1].session_key

    async def _steps(self, tenant_id: str, index: IndexName) -> int:
        if index is not IndexName.SEMANTIC:
            return await self._longterm.steps(tenant_id, index)
        async with self._storage.read() as tx:
            return (await tx.sessions.totals(tenant_id))["sessions"]

    async def _alive(self, operation: Operation, more: int) -> bool:
        async with self._storage.write() as tx:
            return await tx.operations.progress(operation.operation_id, more, self._lease, self._clock.now())

    async def _finish(self, operation: Operation, found: dict[str, Any]) -> None:
        async with self._storage.write() as tx:
            result = (operation.result or {}) | found
            now = self._clock.now()
            await tx.operations.finish(operation.operation_id, OperationState.SUCCEEDED, now, result=result)

    async def _put_back(self, operation: Operation, reason: str) -> None:
        async with self._storage.write() as tx:
            await tx.operations.release(operation.operation_id, reason)

    async def _failed(self, operation: Operation, error: Exception) -> None:
        """Tried again later while that may help; then it is given up and says why."""
        reason = f"{type(error).__name__}: {error}"
        logger.warning("%s of an index failed: %s", operation.kind, reason)
        if operation.attempts < _ATTEMPTS and isinstance(error, Retryable | OSError):
            return await self._put_back(operation, reason)
        async with self._storage.write() as tx:
            now = self._clock.now()
            await tx.operations.finish(operation.operation_id, OperationState.FAILED, now, error=reason)


def _index(operation: Operation) -> IndexName:
    return IndexName((operation.result or {})["index"])


def _node(operation: Operation) -> str | None:
    """The process whose index it is about; None: of all processes."""
    node: str | None = (operation.result or {}).get("node")
    return node


def _short(node: str) -> str:
    """Fits into an operation's subject."""
    return hashlib.blake2b(node.encode(), digest_size=8).hexdigest()


def _unit(index: IndexName) -> str:
    return "sessions" if index is IndexName.SEMANTIC else "steps"
