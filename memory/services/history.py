"""What did a memory say before, and what took its place? Nothing is overwritten; what was superseded can come back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from memory.domain.agents import AgentRole
from memory.domain.errors import Forbidden, InvalidInput, MemoryExists, MemorySuperseded, NotFound, NotSuperseded
from memory.domain.ids import new_id
from memory.domain.memories import Memory, MemoryVersion, MemoryVisibility
from memory.domain.principals import Principal, Scope, private_to
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.keeping import is_free, keep, promise, scope_hash, seen
from memory.services.secrets import TenantSecrets
from memory.services.tasks import CONSOLIDATE


class History:
    def __init__(
        self, storage: Storage, tokenizer: Tokenizer, jobs: JobQueue, secrets: TenantSecrets, clock: Clock
    ) -> None:
        self._storage = storage
        self._tokenizer = tokenizer
        self._jobs = jobs
        self._secrets = secrets
        self._clock = clock

    async def page(
        self, principal: Principal, memory_id: str, *, after_version: int | None, limit: int
    ) -> list[MemoryVersion]:
        """Oldest first, those that the caller might have seen. Raises NotFound."""
        async with self._storage.read() as tx:
            found = await tx.memories.get(principal.tenant_id, memory_id)
            memory = await seen(tx, principal, memory_id, found, self._clock.now())
            visibilities = set(MemoryVisibility)
            if private_to(memory.agent_id or "") not in Scope.of(principal, None).audiences:
                visibilities.remove(MemoryVisibility.PRIVATE)
            return await tx.versions.page(
                memory.memory_key, visibilities, after_version=after_version or 0, limit=limit
            )

    async def supersede(
        self, principal: Principal, memory_id: str, text: str, reason: str | None, *, if_match: str | None
    ) -> Memory:
        """A new memory with this text, valid from now on; the old one ends. Both are kept.

        Raises NotFound, PreconditionFailed, MemorySuperseded, MemoryExists, InvalidInput.
        """
        tokens = (await asyncio.to_thread(self._tokenizer.count, [text]))[0]
        secret, by = await self._secrets.of(principal.tenant_id), principal.agent_id or principal.caller_id
        async with self._storage.write() as tx:
            now = self._clock.now()
            await tx.tenants.secret(principal.tenant_id, now)  # refused while the tenant is being purged
            found = await tx.memories.locked(principal.tenant_id, memory_id)
            old = await seen(tx, principal, memory_id, found, now, AgentRole.WRITER)
            access.check_unchanged(if_match, old.etag)
            _check_supersedable(old, text)
            wanted = _successor(old, text, tokens, now)
            text_hash = scope_hash(secret, wanted)
            await tx.memories.lock_texts(principal.tenant_id, [text_hash])
            kept = await keep(tx, wanted, text_hash, by, now)
            if kept.deduplicated:
                there = kept.memory.memory_id
                raise MemoryExists(f"the memory '{there}' says that already: end this one by PATCH with `valid_to`")
            ended = await _end(tx, old, kept.memory.memory_id, by, now, reason)
            operation = await promise(tx, principal.tenant_id, [ended, kept.memory], now)
        self._send(operation)
        return kept.memory

    async def restore(
        self, principal: Principal, memory_id: str, reason: str | None, *, if_match: str | None
    ) -> Memory:
        """Undoes `supersede`: what stands in its place ends, and it is valid again, as long as it was before.

        Raises NotFound, PreconditionFailed, NotSuperseded, MemoryExists, Forbidden.
        """
        secret, by = await self._secrets.of(principal.tenant_id), principal.agent_id or principal.caller_id
        async with self._storage.write() as tx:
            now = self._clock.now()
            found = await tx.memories.locked(principal.tenant_id, memory_id)
            old = await seen(tx, principal, memory_id, found, now, AgentRole.WRITER)
            access.check_unchanged(if_match, old.etag)
            if old.superseded_by is None:
                raise NotSuperseded(f"nothing took the place of the memory '{memory_id}'")
            changed = [
                await _end(tx, one, memory_id, by, now, reason) for one in await _standing(tx, principal, old, now)
            ]
            text_hash = scope_hash(secret, old)
            await tx.memories.lock_texts(principal.tenant_id, [text_hash])
            if not await is_free(tx, old, text_hash, now):
                raise MemoryExists("its text was written again meanwhile: that memory is valid")
            values = {"valid_to": await tx.versions.end_before(old), "superseded_by": None}
            restored = await tx.memories.update(old, values, text_hash, by, now, reason)
            await tx.memories.compare_again(restored)
            operation = await promise(tx, principal.tenant_id, [*changed, restored], now)
        self._send(operation)
        return restored

    def _send(self, operation: str | None) -> None:
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)


def _check_supersedable(old: Memory, text: str) -> None:
    if old.superseded_by is not None:
        raise MemorySuperseded(
            f"'{old.superseded_by}' took the place of '{old.memory_id}': supersede that one, or restore this one first"
        )
    if text == old.text:
        raise InvalidInput("the text is the same: nothing would take its place")


def _successor(old: Memory, text: str, tokens: int, now: datetime) -> Memory:
    """Of the same scope, kind and source, as long valid as the old one would have been."""
    return replace(
        old,
        memory_key=0,  # given by the database
        memory_id=new_id(),
        text=text,
        token_count=tokens,
        valid_from=max(now, old.valid_from or now),
        valid_to=None if old.ended(now) else old.valid_to,
        version=1,
        created_at=now,
        updated_at=now,
        access_count=0,
        last_accessed_at=None,
        supersedes=old.memory_id,
        near_duplicate_of=None,
    )


async def _end(
    tx: UnitOfWork, memory: Memory, successor: str, by: str | None, now: datetime, reason: str | None
) -> Memory:
    """Its text may be written again; what was said to repeat it is compared with the others."""
    end = now if memory.valid_to is None else min(now, memory.valid_to)
    ended = await tx.memories.update(memory, {"valid_to": end, "superseded_by": successor}, None, by, now, reason)
    await tx.memories.compare_again(ended)
    return ended


async def _standing(tx: UnitOfWork, principal: Principal, old: Memory, now: datetime) -> Sequence[Memory]:
    """What stands in the place of a superseded memory. Raises Forbidden where the caller can't see it."""
    found = await tx.memories.successor(old)
    if found is None or found.expired(now):
        return ()
    try:
        return (await seen(tx, principal, found.memory_id, found, now),)
    except (NotFound, Forbidden):
        raise Forbidden("what took its place is out of this caller's reach") from None
