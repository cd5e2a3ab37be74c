"""How does a tenant get another embedding model? Its texts are embedded anew beside the old vectors, then it is moved.

An operation a tenant (`reembed`): **fill** the new space, a page of items at a time, from the texts in the database;
**move** the tenant, in a transaction that waits for whoever is writing segments and finds nothing unfilled; **settle**
the semantic tier. Until the move the old model serves, and what is new is embedded with it, too. API processes follow
the move by the change feed. Where the old model can't be loaded the tenant is moved first, and words serve meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import Conflict
from memory.domain.operations import Operation, OperationKind, OperationState
from memory.domain.principals import Principal
from memory.ports.jobs import Clock, JobQueue
from memory.ports.storage import Storage, UnitOfWork
from memory.services.attempts import attempt
from memory.services.filling import Filling, TakenAway, noted
from memory.services.secrets import TenantSecrets
from memory.services.spaces import TenantSpaces
from memory.services.tasks import REEMBED, SUBJECT_SPACE
from memory.tiers.semantic.tier import SemanticTier

logger = logging.getLogger(__name__)

_SESSIONS = 200


class _NotYet(Exception):
    """Something came while the tenant was about to be moved."""


class Reembedding:
    def __init__(
        self,
        *,
        storage: Storage,
        spaces: TenantSpaces,
        semantic: SemanticTier,
        jobs: JobQueue,
        secrets: TenantSecrets,
        clock: Clock,
        lease: timedelta,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._spaces = spaces
        self._semantic = semantic
        self._filling = Filling(storage, secrets, clock, lease)
        self._jobs = jobs
        self._clock = clock
        self._lease = lease
        self._give_way = give_way

    async def begin(self) -> list[str]:
        """At the start of a process that serves: what is to be moved to the configured model. Their operations."""
        target = self._spaces.current.embedder.space
        async with self._storage.read() as tx:
            tenants = await tx.spaces.all()
        begun = []
        for tenant_id, space in tenants.items():
            if space is None or space == target:
                going_on = await self._settle_with(tenant_id, target)
                if not going_on and await self._lacks(tenant_id, target):
                    begun.append(await self._promise(tenant_id, target, target))
                continue
            if self._spaces.loaded(space) is not None:
                self._spaces.serve(tenant_id, space)
            begun.append(await self._promise(tenant_id, space, target))
        return begun

    async def request(self, principal: Principal) -> Operation:
        """The operation that moves the caller's tenant to the configured model. Raises Conflict when it has it."""
        tenant_id, target = principal.tenant_id, self._spaces.current.embedder.space
        async with self._storage.read() as tx:
            space = await tx.spaces.of(tenant_id)
            known = await tx.operations.unfinished(tenant_id, OperationKind.REEMBED, SUBJECT_SPACE)
        complete = space == target and known is None and not await self._lacks(tenant_id, target)
        if space is None or complete:
            raise Conflict("everything is embedded with the configured model: set STRATAMEM_EMBEDDER to another")
        began = known is not None and space == target
        operation_id = known.operation_id if known and began else await self._promise(tenant_id, space, target)
        async with self._storage.read() as tx:
            operation = await tx.operations.by_id(operation_id)
        assert operation is not None
        return operation

    async def overview(self, principal: Principal) -> dict[str, Any]:
        tenant_id, target = principal.tenant_id, self._spaces.current.embedder.space
        async with self._storage.read() as tx:
            space = await tx.spaces.of(tenant_id)
            moving = await tx.operations.unfinished(tenant_id, OperationKind.REEMBED, SUBJECT_SPACE)
            others = [] if space is None else await tx.spaces.others(tenant_id, space)
            left = 0 if space is None else await tx.spaces.count_unfilled(tenant_id, target)
        return {
            "configured": target,
            "space": space,
            "served_here": self._spaces.of(tenant_id).space,
            "items_left": left,
            "other_spaces": others,
            "words_only": self._spaces.left_to_words(tenant_id),
            "operation_id": None if moving is None else moving.operation_id,
        }

    async def _lacks(self, tenant_id: str, space: str) -> bool:
        """Whether something is embedded in other spaces only."""
        async with self._storage.read() as tx:
            return bool(await tx.spaces.unfilled(tenant_id, space, 0, 1))

    async def reembed(self, operation_id: str) -> None:
        """May be killed anywhere, and run by two at once."""
        finished = False
        async with attempt(self._storage, self._clock, self._lease, operation_id) as operation:
            with contextlib.suppress(TakenAway):
                finished = operation is not None and await self._work(operation)
        if operation is not None and finished:
            result = {name: noted(operation)[name] for name in ("from", "to")}
            async with self._storage.write() as tx:
                now = self._clock.now()
                await tx.operations.finish(operation_id, OperationState.SUCCEEDED, now, result=result)

    async def _promise(self, tenant_id: str, space: str, target: str) -> str:
        """What another process has begun towards the same space goes on where it was."""
        known = self._spaces.loaded(space) is not None
        async with self._storage.write() as tx:
            operation_id, _ = await tx.operations.enqueue(
                tenant_id, OperationKind.REEMBED, SUBJECT_SPACE, self._clock.now(), total=0, unit="items"
            )
            operation = await tx.operations.by_id(operation_id)
            facts = {} if operation is None else noted(operation)
            if facts.get("to") != target:
                facts = {"from": space, "to": target, "after": 0, "counted": False}
            await tx.operations.note(operation_id, facts | {"words": not known})
            if not known:
                await self._move_rows(tx, tenant_id, target)
        if not known:
            self._leave_to_words(tenant_id, space)
        self._jobs.send(REEMBED, operation_id)
        return operation_id

    async def _settle_with(self, tenant_id: str, target: str) -> bool:
        """At a start: what was under way when the operator set the old model again ends; what goes on is named.

        Whether something goes on towards this space.
        """
        async with self._storage.write() as tx:
            known = await tx.operations.unfinished(tenant_id, OperationKind.REEMBED, SUBJECT_SPACE)
            facts = {} if known is None else noted(known)
            if known is not None and facts.get("to") != target:
                await tx.operations.finish(known.operation_id, OperationState.CANCELLED, self._clock.now())
        going_on = facts.get("to") == target
        if going_on and facts.get("words"):
            self._leave_to_words(tenant_id, facts["from"])
        return going_on

    def _leave_to_words(self, tenant_id: str, space: str) -> None:
        reason = (
            f"the embedding model was changed, and the former one, of the space {space}, can't be loaded: texts that"
            " are not embedded anew yet are found by their words"
        )
        logger.warning("tenant '%s': %s", tenant_id, reason)
        self._spaces.leave_to_words(tenant_id, reason)

    async def _work(self, operation: Operation) -> bool:
        """False: it is left to another worker. Raises TakenAway."""
        target = noted(operation)["to"]
        if target != self._spaces.current.embedder.space:
            async with self._storage.write() as tx:
                reason = f"it waits for a worker with the embedder of {target}"
                await tx.operations.release(operation.operation_id, reason, afresh=True)
            return False
        await self._count(operation, target)
        after = int(noted(operation)["after"])
        while True:
            while (reached := await self._filling.fill(operation, self._spaces.current, after)) is not None:
                after = reached
                await asyncio.to_thread(self._give_way)
            if await self._move(operation.tenant_id, target):
                await self._settle(operation)
                return True
            after = 0  # a transaction that began early may have committed segments before the place that was reached

    async def _count(self, operation: Operation, target: str) -> None:
        facts = noted(operation)
        if facts.get("counted"):
            return
        async with self._storage.read() as tx:
            total = await tx.spaces.count_unfilled(operation.tenant_id, target)
        async with self._storage.write() as tx:
            kind, now = OperationKind.REEMBED, self._clock.now()
            await tx.operations.enqueue(operation.tenant_id, kind, SUBJECT_SPACE, now, total=total, unit="items")
            await tx.operations.note(operation.operation_id, facts | {"counted": True})

    async def _move(self, tenant_id: str, target: str) -> bool:
        """False: something came that is not filled yet."""
        try:
            async with self._storage.write() as tx:
                if await tx.spaces.of(tenant_id) != target:
                    await self._move_rows(tx, tenant_id, target)
                if await tx.spaces.unfilled(tenant_id, target, 0, 1):
                    raise _NotYet
                await tx.changes.add(NewChange(ChangeKind.SPACE, tenant_id))
        except _NotYet:
            return False
        self._spaces.serve(tenant_id, target)
        return True

    async def _move_rows(self, tx: UnitOfWork, tenant_id: str, target: str) -> None:
        await tx.spaces.change(tenant_id, target)  # from here on nobody writes segments of the old space
        await tx.spaces.leave(tenant_id, target)

    async def _settle(self, operation: Operation) -> None:
        """The semantic tier chooses anew from the vectors of the new space."""
        after: int | None = None
        while True:
            async with self._storage.read() as tx:
                page = await tx.sessions.page(operation.tenant_id, after_key=after, limit=_SESSIONS)
            for session in page:
                await self._semantic.recluster(operation.tenant_id, session.session_key)
                await self._stay(operation)
            if len(page) < _SESSIONS:
                return
            after = page[-1].session_key

    async def _stay(self, operation: Operation) -> None:
        """Raises TakenAway."""
        await asyncio.to_thread(self._give_way)
        async with self._storage.write() as tx:
            if not await tx.operations.progress(operation.operation_id, 0, self._lease, self._clock.now()):
                raise TakenAway


async def drop_others(storage: Storage, tenant_id: str, limit: int = 2_000) -> int:
    """Segments of spaces that the tenant has left, once nothing moves it any more; the number of them."""
    dropped = 0
    while True:
        async with storage.write() as tx:
            space = await tx.spaces.of(tenant_id, held=True)
            moving = await tx.operations.unfinished(tenant_id, OperationKind.REEMBED, SUBJECT_SPACE)
            others = [] if space is None or moving is not None else await tx.spaces.others(tenant_id, space)
            if not others or space is None or await tx.spaces.unfilled(tenant_id, space, 0, 1):
                return dropped  # what is in no other space yet would lose its only vector
            for codebook in await tx.codebooks.all(tenant_id, others[0]):
                await tx.codebooks.remove(codebook.codebook_key)
            dropped += await tx.spaces.drop(tenant_id, others[0], limit)
