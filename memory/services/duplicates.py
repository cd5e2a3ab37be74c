"""Which memories repeat another in slightly other words? They are marked with it, never dropped.

A memory is compared once, when it has its vectors, with those of its scope that were compared before it and repeat none
themselves: so what repeats forms stars, not chains that drift. One worker at a time marks a tenant's memories.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.memories import Memory
from memory.domain.operations import Operation
from memory.domain.segments import PendingSegment
from memory.ports.jobs import Clock
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage, UnitOfWork
from memory.services.likeness import Signatures, may_be_same, near, signatures, similarity

_PAGE = 64
_CANDIDATES = 20
"""Memories with the nearest signatures whose vectors are compared."""
_KNOWN = 4_000_000
"""Signatures of all tenants that a process keeps in memory, 16 bytes each."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """What was read of a tenant up to `last`, a segment_key. items, signatures: int64 [n]."""

    last: int
    items: Signatures
    signatures: Signatures

    @staticmethod
    def none() -> "_Signed":
        return _Signed(0, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def also(self, items: Sequence[ItemId], signed: Sequence[int]) -> "_Signed":
        return _Signed(
            self.last,
            np.concatenate([self.items, np.array(items, np.int64)]),
            np.concatenate([self.signatures, np.array(signed, np.int64)]),
        )

    def more(self, found: Sequence[tuple[int, ItemId, int]]) -> "_Signed":
        if not found:
            return self
        _, items, signed = zip(*found, strict=True)
        return replace(self.also(items, signed), last=found[-1][0])


@dataclass(frozen=True, slots=True)
class _Compared:
    """A memory with the keys of those that are near enough, nearest first."""

    memory: Memory
    alike: tuple[int, ...]


class Duplicates:
    def __init__(self, storage: Storage, spaces: Spaces, clock: Clock, lease: timedelta, threshold: float) -> None:
        self._storage = storage
        self._spaces = spaces
        self._clock = clock
        self._lease = lease
        self._threshold = threshold
        self._signed: OrderedDict[tuple[str, str], _Signed] = OrderedDict()

    async def compare(self, operation: Operation) -> bool:
        """Compares the next memories of the operation's tenant that nobody has compared. False: there are none.

        The operation's row is locked while they are marked, so two workers that both think it is theirs take turns.
        """
        tenant_id = operation.tenant_id
        space = self._spaces.of(tenant_id).space
        async with self._storage.read() as tx:
            page = await tx.memories.uncompared(tenant_id, space, _PAGE)
            if not page:
                return False
            vectors = await _vectors(tx, space, [memory.item for memory in page])
            known = self._signed.get((tenant_id, space), _Signed.none())
            known = known.more(await tx.segments.signatures(tenant_id, space, known.last))
            own = signatures_of({item: of_item[0] for item, of_item in vectors.items() if of_item})
            unsigned = own.keys() - set(known.items[np.isin(known.items, list(own))].tolist())
            known = known.also(sorted(unsigned), [own[item] for item in sorted(unsigned)])
            found = await asyncio.to_thread(_candidates, own, known)
            wanted = {item for items in found.values() for item in items}
            vectors |= await _vectors(tx, space, sorted(wanted - vectors.keys()))
            others = {memory.item: memory for memory in await tx.memories.by_keys([item_key(item) for item in wanted])}
        self._remember((tenant_id, space), known)
        compared = await asyncio.to_thread(self._alike, page, found, others, vectors)
        async with self._storage.write() as tx:
            if not await tx.operations.progress(operation.operation_id, 0, self._lease, self._clock.now()):
                return False
            await tx.segments.sign(space, {item: own[item] for item in unsigned})
            for one in compared:
                await self._mark(tx, one)
        return True

    def _alike(
        self,
        page: Sequence[Memory],
        found: Mapping[ItemId, Sequence[ItemId]],
        others: Mapping[ItemId, Memory],
        vectors: Mapping[ItemId, Sequence[bytes]],
    ) -> list[_Compared]:
        compared = []
        for memory in page:
            near_enough: list[tuple[float, int]] = []
            for item in found.get(memory.item, ()):
                other = others.get(item)
                if other is None or _scope(other) != _scope(memory):
                    continue
                cosine = similarity(vectors[memory.item], vectors.get(item, ()))
                if cosine >= self._threshold and may_be_same(memory.text, other.text):
                    near_enough.append((-cosine, other.memory_key))
            compared.append(_Compared(memory, tuple(key for _, key in sorted(near_enough))))
        return compared

    async def _mark(self, tx: UnitOfWork, compared: _Compared) -> None:
        """With the nearest that is valid and repeats none, as it is by now."""
        memory, now = compared.memory, self._clock.now()
        originals = {other.memory_key: other for other in await tx.memories.originals(compared.alike)}
        valid = [originals[key] for key in compared.alike if key in originals and not originals[key].ended(now)]
        related = {memory.supersedes, memory.superseded_by}
        repeated = next((o.memory_id for o in valid if o.memory_id not in related), None)
        await tx.memories.mark_compared(memory, None if memory.ended(now) else repeated)

    def _remember(self, tenant_in_space: tuple[str, str], signed: _Signed) -> None:
        self._signed[tenant_in_space] = signed
        self._signed.move_to_end(tenant_in_space)
        while len(self._signed) > 1 and sum(len(one.items) for one in self._signed.values()) > _KNOWN:
            self._signed.popitem(last=False)


async def _vectors(tx: UnitOfWork, space: str, items: Sequence[ItemId]) -> dict[ItemId, list[bytes]]:
    spans = await tx.segments.spans(space, items)
    return {item: [vector for _, vector in of_item if vector is not None] for item, of_item in spans.items()}


def signed(pending: Sequence[PendingSegment], vectors: Mapping[int, bytes]) -> dict[ItemId, int]:
    """The signatures of the first segments of memories."""
    first = {s.item: vectors[s.segment_key] for s in pending if is_memory(s.item) and s.ordinal == 0}
    return signatures_of(first)


def signatures_of(vectors: Mapping[ItemId, bytes]) -> dict[ItemId, int]:
    if not vectors:
        return {}
    rows = np.frombuffer(b"".join(vectors.values()), "<f2").astype(np.float32).reshape(len(vectors), -1)
    return dict(zip(vectors, signatures(rows).tolist(), strict=True))


def _candidates(own: Mapping[ItemId, int], known: _Signed) -> dict[ItemId, list[ItemId]]:
    """Of each memory those with the nearest signatures, itself not among them."""
    found = {}
    for item, signature in own.items():
        places = near(signature, known.signatures, _CANDIDATES + 1)
        found[item] = [other for other in dict.fromkeys(known.items[places].tolist()) if other != item]
    return found


def _scope(memory: Memory) -> tuple[object, ...]:
    """What is said in another scope or as another kind is not repeated."""
    return memory.session_key, memory.audience, memory.kind
