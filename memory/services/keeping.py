"""How is a memory kept? Once per text and scope, in the change feed, and promised to the workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import MemoryExists, NotFound
from memory.domain.memories import Memory, MemoryVisibility
from memory.domain.operations import OperationKind
from memory.domain.principals import Principal, Scope
from memory.ports.storage import UnitOfWork
from memory.services import access
from memory.services.secrets import keyed_hash
from memory.services.tasks import SUBJECT_MEMORIES


@dataclass(frozen=True, slots=True)
class Added:
    """`deduplicated`: the text was there already in the same scope; this is the existing memory."""

    memory: Memory
    deduplicated: bool


async def seen(
    tx: UnitOfWork,
    principal: Principal,
    memory_id: str,
    found: Memory | None,
    now: datetime,
    needed: AgentRole = AgentRole.READER,
) -> Memory:
    """Raises NotFound for what the caller may not see, and for what has expired: it does not exist for it.

    Forbidden: it belongs to a closed session, in which the caller has not the needed role.
    """
    if found is not None and found.expired(now):
        found = None
    if found is None or found.audience not in Scope.of(principal, None).audiences:
        raise NotFound(f"there is no memory '{memory_id}'")
    if found.session_id is not None:
        try:
            await access.session(tx, principal, found.session_id, needed)
        except NotFound:
            raise NotFound(f"there is no memory '{memory_id}'") from None
    return found


def scope_hash(secret: bytes, memory: Memory) -> bytes:
    """The same for the same text in the same scope, which it names."""
    owner = memory.agent_id if memory.visibility == MemoryVisibility.PRIVATE else None
    scope = ["memory", memory.visibility, memory.session_key, owner, memory.kind, memory.text]
    return keyed_hash(secret, scope)


async def keep(tx: UnitOfWork, memory: Memory, text_hash: bytes, by: str | None, now: datetime) -> Added:
    """Stores it unless its text is there in its scope. The caller holds the lock on the text (`lock_texts`).

    Raises MemoryExists when another text has its memory_id.
    """
    await is_free(tx, memory, text_hash, now)
    stored = await tx.memories.add(memory, text_hash, by)
    if stored is None and await _make_room(tx, memory, text_hash, now):
        stored = await tx.memories.add(memory, text_hash, by)
    if stored is not None:
        return Added(stored, deduplicated=False)
    existing = await tx.memories.by_scope_hash(memory.tenant_id, text_hash)
    if existing is None:
        raise MemoryExists(f"the memory '{memory.memory_id}' exists: choose another memory_id, or PATCH it")
    return Added(existing, deduplicated=True)


async def _make_room(tx: UnitOfWork, memory: Memory, text_hash: bytes, now: datetime) -> bool:
    """Removes what has expired and still has the text or the memory_id. False: that was not what stood in the way."""
    there = (
        await tx.memories.by_scope_hash(memory.tenant_id, text_hash),
        await tx.memories.get(memory.tenant_id, memory.memory_id),
    )
    expired = [one for one in there if one is not None and one.expired(now)]
    await remove(tx, expired)
    return bool(expired)


async def remove(tx: UnitOfWork, memories: Sequence[Memory]) -> None:
    """Their rows go now; the indexes follow."""
    if memories:
        await tx.memories.purge(*{memory.memory_key for memory in memories})
        await tx.changes.add(*(changed(memory) for memory in memories))


async def is_free(tx: UnitOfWork, memory: Memory, text_hash: bytes, now: datetime) -> bool:
    """Whether no other memory has this text in its scope. One that has ended gives it up."""
    existing = await tx.memories.by_scope_hash(memory.tenant_id, text_hash)
    if existing is None or existing.memory_key == memory.memory_key:
        return True
    if not existing.ended(now):
        return False
    await tx.memories.release_scope_hash(existing.memory_key)
    return True


async def reindex(tx: UnitOfWork, before: Memory, after: Memory, now: datetime) -> str | None:
    """Old vectors go in the same transaction, so an edited text is never found by what it said before."""
    if (before.text, before.audience) == (after.text, after.audience):
        await tx.changes.add(changed(after))
        return None
    await tx.segments.remove_items(after.item)
    await tx.memories.compare_again(after)
    return await promise(tx, after.tenant_id, [after], now)


async def promise(tx: UnitOfWork, tenant_id: str, written: Sequence[Memory], now: datetime) -> str | None:
    """The operation to send after the commit; None: one is under way that will see to it."""
    await tx.changes.add(*(changed(memory) for memory in written))
    operation_id, is_new = await tx.operations.enqueue(
        tenant_id, OperationKind.INDEX, SUBJECT_MEMORIES, now, total=len(written), unit="memories"
    )
    return operation_id if is_new else None


def changed(memory: Memory) -> NewChange:
    return NewChange(ChangeKind.MEMORY, memory.tenant_id, memory.session_key, memory_key=memory.memory_key)
