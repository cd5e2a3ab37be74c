"""Write down, read and edit memories."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.errors import Forbidden, InvalidInput, MemoryExists, MemorySuperseded, NotFound
from memory.domain.ids import new_id
from memory.domain.memories import Memory, MemoryVisibility, NewMemory
from memory.domain.principals import Principal, Scope
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.keeping import Added, is_free, keep, promise, reindex, scope_hash, seen
from memory.services.secrets import TenantSecrets
from memory.services.tasks import CONSOLIDATE
from memory.services.usage import Usage


class Memories:
    def __init__(
        self,
        storage: Storage,
        tokenizer: Tokenizer,
        jobs: JobQueue,
        secrets: TenantSecrets,
        clock: Clock,
        usage: Usage,
    ) -> None:
        self._storage = storage
        self._usage = usage
        self._tokenizer = tokenizer
        self._jobs = jobs
        self._secrets = secrets
        self._clock = clock

    async def add(
        self, principal: Principal, new: Sequence[NewMemory], *, session_key: int | None = None
    ) -> list[Added]:
        """All or none. `session_key`: of their session, when it must be the one that they were made of.

        Raises NotFound for an absent session, MemoryExists, InvalidInput, Forbidden.
        """
        for memory in new:
            _check(principal, memory)
        secret = await self._secrets.of(principal.tenant_id)
        tokens = await asyncio.to_thread(self._tokenizer.count, [memory.text for memory in new])
        by, now = principal.agent_id or principal.caller_id, self._clock.now()
        operation: str | None = None
        async with self._storage.write() as tx:
            await tx.tenants.secret(principal.tenant_id, now)  # refused while the tenant is being purged
            drafts = [await self._draft(tx, principal, m, n, now) for m, n in zip(new, tokens, strict=True)]
            if session_key is not None and any(draft.session_key != session_key for draft in drafts):
                raise NotFound("the session was purged meanwhile")
            hashes = [scope_hash(secret, draft) for draft in drafts]
            await tx.memories.lock_texts(principal.tenant_id, hashes)
            added = []
            for asked, draft, text_hash in zip(new, drafts, hashes, strict=True):
                kept = await keep(tx, draft, text_hash, by, now)
                if kept.deduplicated and asked.memory_id not in (None, kept.memory.memory_id):
                    raise MemoryExists(f"the text of '{asked.memory_id}' is there: it is '{kept.memory.memory_id}'")
                added.append(kept)
            fresh = [one.memory for one in added if not one.deduplicated]
            if fresh:
                operation = await promise(tx, principal.tenant_id, fresh, now)
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)
        return added

    async def get(self, principal: Principal, memory_id: str) -> Memory:
        """Raises NotFound."""
        async with self._storage.read() as tx:
            found = await tx.memories.get(principal.tenant_id, memory_id)
            return self._usage.counted(await seen(tx, principal, memory_id, found, self._clock.now()))

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
            found = await tx.memories.page(
                principal.tenant_id,
                Scope.of(principal, None).audiences,
                after_key=after_key,
                limit=limit,
                lineage=None if session is None else session.lineage,
                kind=kind,
                agent_id=agent_id,
                reach=principal.reach if session is None else None,  # what it inherits is its own
                alive_at=self._clock.now(),
            )
        return [self._usage.counted(memory) for memory in found]

    async def update(
        self, principal: Principal, memory_id: str, changes: Mapping[str, Any], *, if_match: str | None
    ) -> Memory:
        """`changes`: text, metadata, valid_to, pinned, visibility. The old version is kept.

        Raises NotFound, PreconditionFailed, InvalidInput, Forbidden, MemorySuperseded.
        """
        values = dict(changes)
        if "text" in values:
            values["token_count"] = (await asyncio.to_thread(self._tokenizer.count, [values["text"]]))[0]
        secret = await self._secrets.of(principal.tenant_id)
        async with self._storage.write() as tx:
            now = self._clock.now()
            found = await tx.memories.locked(principal.tenant_id, memory_id)
            memory = await seen(tx, principal, memory_id, found, now, AgentRole.WRITER)
            access.check_unchanged(if_match, memory.etag)
            if not values:
                return memory
            _check_validity(memory.valid_from, values.get("valid_to"))
            if memory.superseded_by is not None and "valid_to" in values:
                raise MemorySuperseded(f"'{memory.superseded_by}' took its place: restore it to make it valid again")
            wanted = replace(memory, **values)
            _check_visibility(wanted.visibility, wanted.session_id, wanted.agent_id)
            if wanted.visibility is MemoryVisibility.PRIVATE and principal.agent_id not in (None, memory.agent_id):
                raise Forbidden(f"only the agent '{memory.agent_id}' can make its memory private")
            text_hash = scope_hash(secret, wanted)
            await tx.memories.lock_texts(principal.tenant_id, [text_hash])
            free = await is_free(tx, memory, text_hash, now)
            changed = await tx.memories.update(
                memory, values, text_hash if free else None, principal.agent_id or principal.caller_id, now
            )
            operation = await reindex(tx, memory, changed, now)
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)
        return self._usage.counted(changed)

    async def _draft(self, tx: UnitOfWork, principal: Principal, new: NewMemory, tokens: int, now: datetime) -> Memory:
        session = None
        if new.session_id is not None:
            session = await access.any_session(tx, principal, new.session_id)
            await access.check_roles(tx, session, [new.agent_id or principal.agent_id], AgentRole.WRITER)
        return Memory(
            memory_key=0,  # given by the database
            tenant_id=principal.tenant_id,
            memory_id=new.memory_id or new_id(),
            session_key=None if session is None else session.session_key,
            session_id=new.session_id,
            agent_id=new.agent_id or principal.agent_id,
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


def _check(principal: Principal, new: NewMemory) -> None:
    access.check_author(principal, new.agent_id)
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
