"""Write down, read and edit memories."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import Forbidden, InvalidInput, MemoryExists, NotFound
from memory.domain.ids import new_id
from memory.domain.memories import Memory, MemoryVisibility, NewMemory
from memory.domain.operations import OperationKind
from memory.domain.principals import Principal, Scope
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.secrets import TenantSecrets, keyed_hash
from memory.services.tasks import CONSOLIDATE, SUBJECT_MEMORIES


@dataclass(frozen=True, slots=True)
class Added:
    """`deduplicated`: the text was there already in the same scope; this is the existing memory."""

    memory: Memory
    deduplicated: bool


class Memories:
    def __init__(
        self, storage: Storage, tokenizer: Tokenizer, jobs: JobQueue, secrets: TenantSecrets, clock: Clock
    ) -> None:
        self._storage = storage
        self._tokenizer = tokenizer
        self._jobs = jobs
        self._secrets = secrets
        self._clock = clock

    async def add(self, principal: Principal, new: Sequence[NewMemory]) -> list[Added]:
        """All or none. Raises NotFound for an absent session, MemoryExists, InvalidInput, Forbidden."""
        for memory in new:
            _check(principal, memory)
        secret = await self._secrets.of(principal.tenant_id)
        tokens = await asyncio.to_thread(self._tokenizer.count, [memory.text for memory in new])
        operation: str | None = None
        async with self._storage.write() as tx:
            added = [await self._add_one(tx, principal, m, n, secret) for m, n in zip(new, tokens, strict=True)]
            fresh = [one.memory for one in added if not one.deduplicated]
            if fresh:
                operation = await self._promise(tx, principal.tenant_id, fresh)
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)
        return added

    async def get(self, principal: Principal, memory_id: str) -> Memory:
        """Raises NotFound."""
        async with self._storage.read() as tx:
            return _seen(principal, memory_id, await tx.memories.get(principal.tenant_id, memory_id))

    async def page(
        self,
        principal: Principal,
        *,
        after_key: int | None,
        limit: int,
        session_id: str | None = None,
        kind: str | None = None,
        agent_id: str | None = None,
    ) -> list[Memory]:
        """Newest first, those that the caller may see. Raises NotFound for an absent session."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id) if session_id is not None else None
            return await tx.memories.page(
                principal.tenant_id,
                Scope.of(principal, None).audiences,
                after_key=after_key,
                limit=limit,
                lineage=None if session is None else session.lineage,
                kind=kind,
                agent_id=agent_id,
                only_sessions=principal.session_ids if session is None else None,  # what it inherits is its own
            )

    async def update(
        self, principal: Principal, memory_id: str, changes: Mapping[str, Any], *, if_match: str | None
    ) -> Memory:
        """`changes`: text, metadata, valid_to, pinned, visibility. The old version is kept.

        Raises NotFound, PreconditionFailed, InvalidInput, Forbidden.
        """
        values = dict(changes)
        if "text" in values:
            values["token_count"] = (await asyncio.to_thread(self._tokenizer.count, [values["text"]]))[0]
        secret = await self._secrets.of(principal.tenant_id)
        async with self._storage.write() as tx:
            memory = _seen(principal, memory_id, await tx.memories.locked(principal.tenant_id, memory_id))
            access.check_unchanged(if_match, memory.etag)
            if not values:
                return memory
            _check_validity(memory.valid_from, values.get("valid_to"))
            visibility = values.get("visibility", memory.visibility)
            _check_visibility(visibility, memory.session_id, memory.agent_id)
            if visibility is MemoryVisibility.PRIVATE and principal.agent_id not in (None, memory.agent_id):
                raise Forbidden(f"only the agent '{memory.agent_id}' can make its memory private")
            scope_hash = _scope_hash(
                secret, visibility, memory.session_key, memory.agent_id, memory.kind, values.get("text", memory.text)
            )
            taken = await tx.memories.by_scope_hash(principal.tenant_id, scope_hash)
            free = taken is None or taken.memory_key == memory.memory_key
            now = self._clock.now()
            changed = await tx.memories.update(
                memory, values, scope_hash if free else None, principal.agent_id or principal.key_id, now
            )
            operation = await self._reindex(tx, memory, changed)
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)
        return changed

    async def _reindex(self, tx: UnitOfWork, before: Memory, after: Memory) -> str | None:
        """Old vectors go in the same transaction, so an edited text is never found by what it said before."""
        if (before.text, before.audience) == (after.text, after.audience):
            await tx.memories.mark_segmented(after)
            await tx.changes.add(
                NewChange(ChangeKind.MEMORY, after.tenant_id, after.session_key, memory_key=after.memory_key)
            )
            return None
        await tx.segments.remove_item(after.item)
        return await self._promise(tx, after.tenant_id, [after])

    async def _add_one(self, tx: UnitOfWork, principal: Principal, new: NewMemory, tokens: int, secret: bytes) -> Added:
        session = await access.session(tx, principal, new.session_id) if new.session_id is not None else None
        agent_id = new.agent_id or principal.agent_id
        now = self._clock.now()
        memory = Memory(
            memory_key=0,  # given by the database
            tenant_id=principal.tenant_id,
            memory_id=new.memory_id or new_id(),
            session_key=None if session is None else session.session_key,
            session_id=new.session_id,
            agent_id=agent_id,
            kind=new.kind,
            visibility=new.visibility,
            text=new.text,
            metadata=new.metadata,
            valid_from=new.valid_from,
            valid_to=new.valid_to,
            expires_at=None if new.ttl_seconds is None else now + timedelta(seconds=new.ttl_seconds),
            pinned=new.pinned,
            source=new.source,
            version=1,
            token_count=tokens,
            created_at=now,
            updated_at=now,
            access_count=0,
            last_accessed_at=None,
        )
        scope_hash = _scope_hash(secret, new.visibility, memory.session_key, agent_id, new.kind, new.text)
        await self._release_expired(tx, principal.tenant_id, scope_hash)
        stored = await tx.memories.add(memory, scope_hash, principal.agent_id or principal.key_id)
        if stored is not None:
            return Added(stored, deduplicated=False)
        existing = await tx.memories.by_scope_hash(principal.tenant_id, scope_hash)
        if existing is None or new.memory_id not in (None, existing.memory_id):
            raise MemoryExists(f"the memory '{memory.memory_id}' exists: choose another memory_id, or PATCH it")
        return Added(existing, deduplicated=True)

    async def _release_expired(self, tx: UnitOfWork, tenant_id: str, scope_hash: bytes) -> None:
        existing = await tx.memories.by_scope_hash(tenant_id, scope_hash)
        if existing is None:
            return
        ends = [end for end in (existing.valid_to, existing.expires_at) if end is not None]
        if ends and min(ends) <= self._clock.now():
            await tx.memories.release_scope_hash(existing.memory_key)

    async def _promise(self, tx: UnitOfWork, tenant_id: str, written: Sequence[Memory]) -> str | None:
        for memory in written:
            await tx.changes.add(
                NewChange(ChangeKind.MEMORY, tenant_id, memory.session_key, memory_key=memory.memory_key)
            )
        operation_id, is_new = await tx.operations.enqueue(
            tenant_id,
            OperationKind.INDEX,
            SUBJECT_MEMORIES,
            self._clock.now(),
            total=len(written),
            unit="memories",
        )
        return operation_id if is_new else None


def _check(principal: Principal, new: NewMemory) -> None:
    access.act_as(principal, new.agent_id)
    _check_visibility(new.visibility, new.session_id, new.agent_id or principal.agent_id)
    if new.source is not None and not principal.may_reach(new.source.session_id):
        raise NotFound(f"there is no session '{new.source.session_id}'")
    _check_validity(new.valid_from, new.valid_to)


def _check_validity(valid_from: datetime | None, valid_to: datetime | None) -> None:
    if valid_from is not None and valid_to is not None and valid_to <= valid_from:
        raise InvalidInput("valid_to must be after valid_from")


def _check_visibility(visibility: MemoryVisibility, session_id: str | None, agent_id: str | None) -> None:
    if visibility is MemoryVisibility.SESSION and session_id is None:
        raise InvalidInput("a memory with the visibility 'session' needs a session_id")
    if visibility is MemoryVisibility.PRIVATE and agent_id is None:
        raise InvalidInput("a memory with the visibility 'private' needs an agent_id")


def _seen(principal: Principal, memory_id: str, found: Memory | None) -> Memory:
    reachable = found is not None and (found.session_id is None or principal.may_reach(found.session_id))
    if found is None or not reachable or found.audience not in Scope.of(principal, None).audiences:
        raise NotFound(f"there is no memory '{memory_id}'")
    return found


def _scope_hash(
    secret: bytes, visibility: str, session_key: int | None, agent_id: str | None, kind: str, text: str
) -> bytes:
    owner = agent_id if visibility == MemoryVisibility.PRIVATE else None
    return keyed_hash(secret, ["memory", visibility, session_key, owner, kind, text])
