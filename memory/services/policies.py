"""What would go by a policy, and why? Shown first; when it is meant, purged with a receipt.

What goes is decided once and noted with the operation, so whoever finishes it purges what was shown and nothing else.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.errors import InvalidInput
from memory.domain.forgetting import ForgetPolicy, Outline, Verdict, judge
from memory.domain.ids import memory_item, new_id
from memory.domain.operations import Operation, OperationKind, Receipt
from memory.domain.principals import Principal, Scope
from memory.domain.receipts import ReceiptKind
from memory.ports.jobs import Clock, JobQueue
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage, UnitOfWork
from memory.services.attempts import attempt
from memory.services.erasure import NOTHING, Erasure
from memory.services.likeness import similarity
from memory.services.tasks import FORGET
from memory.services.usage import Usage
from memory.tiers.scan import memory_passes

_PAGE = 1_000
_CONSIDERED = 250_000
_GOING = 50_000
"""Memories that one call purges, the least valuable first."""
SHOWN = 1_000
_PART = 500
"""Memories that go in one transaction."""
_PATIENCE = 2.0
"""Seconds a request purges by itself before it leaves the rest to the workers."""


@dataclass(frozen=True, slots=True)
class Shown:
    """`text`: its first 200 characters."""

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """`considered`: memories that the policy is about, of which `pinned` stay whatever it says.

    `going`: the least valuable first. `shown`: the first of them.
    """

    considered: int
    pinned: int
    going: tuple[Verdict, ...]
    shown: tuple[Shown, ...]


class Policies:
    def __init__(
        self,
        *,
        storage: Storage,
        spaces: Spaces,
        erasure: Erasure,
        usage: Usage,
        jobs: JobQueue,
        clock: Clock,
        lease: timedelta,
    ) -> None:
        self._storage = storage
        self._spaces = spaces
        self._erasure = erasure
        self._usage = usage
        self._jobs = jobs
        self._clock = clock
        self._lease = lease

    async def preview(self, principal: Principal, policy: ForgetPolicy) -> Forecast:
        """Of the memories that the caller may see. Raises InvalidInput for a policy that is about too many."""
        await self._usage.flush()
        now = self._clock.now()
        async with self._storage.read() as tx:
            outlines = await _considered(tx, principal, policy, now)
            alike = {} if policy.redundancy is None else await self._alike(tx, principal.tenant_id, outlines, now)
            going = await asyncio.to_thread(judge, outlines, policy, now, alike)
            shown = going[:SHOWN]
            found = await tx.memories.by_keys([verdict.outline.memory_key for verdict in shown])
        texts = {memory.memory_key: memory.text[:200] for memory in found}
        return Forecast(
            considered=len(outlines),
            pinned=sum(outline.pinned for outline in outlines),
            going=tuple(going),
            shown=tuple(Shown(verdict, texts.get(verdict.outline.memory_key, "")) for verdict in shown),
        )

    async def forget(self, principal: Principal, policy: ForgetPolicy) -> tuple[Forecast, Receipt | Operation]:
        """Purges what `preview` shows, up to 50,000 memories. Raises InvalidInput."""
        forecast = await self.preview(principal, policy)
        keys = [verdict.outline.memory_key for verdict in forecast.going[:_GOING]]
        if not keys:
            return forecast, Receipt(dict(NOTHING), True, self._clock.now())
        async with self._storage.write() as tx:
            operation_id, _ = await tx.operations.enqueue(
                principal.tenant_id,
                OperationKind.FORGET,
                f"policy:{new_id()}",
                self._clock.now(),
                total=len(keys),
                unit="memories",
            )
            what = {"kind": ReceiptKind.POLICY, "memory_keys": []}
            await tx.operations.note(operation_id, {"keys": keys, "purged": NOTHING, "position": [0, 0], "what": what})
        if await self._purge_rows(operation_id, time.monotonic() + _PATIENCE):
            return forecast, await self._erasure.erase(principal.tenant_id, (), operation_id)
        self._jobs.send(FORGET, operation_id)
        async with self._storage.read() as tx:
            operation = await tx.operations.by_id(operation_id)
        assert operation is not None
        return forecast, operation

    async def finish_forget(self, operation_id: str) -> None:
        """Goes on where another was stopped, then writes the receipt as soon as all indexes are clean."""
        if await self._purge_rows(operation_id):
            await self._erasure.finish(operation_id)

    async def _purge_rows(self, operation_id: str, deadline: float | None = None) -> bool:
        """Whether all rows are gone. False: there is more to do, or another is at it."""
        async with attempt(self._storage, self._clock, self._lease, operation_id) as operation:
            left: Sequence[int] | None = None if operation is None else _keys(operation)
            while left and (deadline is None or time.monotonic() < deadline):
                left = await self._purge_part(operation_id)
        if left is None:
            return False
        async with self._storage.write() as tx:
            await tx.operations.release(operation_id, None)
        return not left

    async def _purge_part(self, operation_id: str) -> Sequence[int] | None:
        """What is left; None: the operation is over. What was pinned since it was decided stays."""
        async with self._storage.write() as tx:
            operation = await tx.operations.by_id(operation_id)
            if operation is None or not await tx.operations.progress(
                operation_id, min(_PART, len(_keys(operation))), self._lease, self._clock.now()
            ):
                return None
            noted: dict[str, Any] = operation.result or {}
            keys = _keys(operation)
            going = await tx.memories.unpinned(keys[:_PART])
            counts = Counter(noted["purged"])
            counts.update(await tx.memories.purge(*going))
            counts["lexical"] = counts["memories"]
            gone = [NewChange(ChangeKind.MEMORY, operation.tenant_id, memory_key=key) for key in going]
            position = max(Position(*noted["position"]), await tx.changes.add(*gone))
            place = [position.xid, position.number]
            what = noted["what"] | {"memory_keys": [*noted["what"]["memory_keys"], *going]}
            left = {"keys": keys[_PART:], "purged": dict(counts), "position": place, "what": what}
            await tx.operations.note(operation_id, left)
        return keys[_PART:]

    async def _alike(
        self, tx: UnitOfWork, tenant_id: str, outlines: Sequence[Outline], now: datetime
    ) -> dict[int, tuple[str, float]]:
        """Of those that are marked as repeating a valid memory: that one, and how alike the two are."""
        marked = [(outline, outline.repeats) for outline in outlines if outline.repeats is not None]
        alike: dict[int, tuple[str, float]] = {}
        for at in range(0, len(marked), _PART):
            part = marked[at : at + _PART]
            originals = {m.memory_id: m for m in await tx.memories.by_ids(tenant_id, [name for _, name in part])}
            items = {memory_item(outline.memory_key) for outline, _ in part} | {m.item for m in originals.values()}
            spans = await tx.segments.spans(self._spaces.of(tenant_id).space, sorted(items))
            vectors = {item: [raw for _, raw in of_item if raw is not None] for item, of_item in spans.items()}
            for outline, name in part:
                original = originals.get(name)
                if original is not None and not original.ended(now):
                    own = vectors.get(memory_item(outline.memory_key), [])
                    alike[outline.memory_key] = (name, similarity(own, vectors.get(original.item, [])))
        return alike


async def _considered(tx: UnitOfWork, principal: Principal, policy: ForgetPolicy, now: datetime) -> list[Outline]:
    found: list[Outline] = []
    after = 0
    while True:
        page = await tx.memories.outlines(
            principal.tenant_id,
            Scope.of(principal, None).audiences,
            after_key=after,
            limit=_PAGE,
            alive_at=now,
            kinds=policy.kinds,
            reach=replace(principal.reach, needed=AgentRole.WRITER),
            with_metadata=policy.filter is not None,
        )
        found += [outline for outline in page if policy.filter is None or memory_passes(policy.filter, outline)]
        if len(found) > _CONSIDERED:
            raise InvalidInput(
                f"the policy is about more than {_CONSIDERED:,} memories: narrow it by `kinds` or by a `filter`,"
                " on created_at for example"
            )
        if len(page) < _PAGE:
            return found
        after = page[-1].memory_key


def _keys(operation: Operation) -> list[int]:
    return list((operation.result or {}).get("keys", ()))
