"""Memories, with a row for every version."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows, versions
from memory.adapters.sql.agents import within
from memory.adapters.sql.lineages import memories_in_any
from memory.adapters.sql.statements import Lookup, is_postgresql, one_of, upsert
from memory.adapters.sql.tables import memories, memory_versions, segments, sessions
from memory.domain.forgetting import Outline
from memory.domain.ids import memory_item
from memory.domain.lineage import Lineage
from memory.domain.memories import Memory, MemorySource, MemoryVisibility
from memory.domain.principals import SHARED, TENANT_WIDE, Reach, private_to
from memory.domain.recall import Use

_SELECT = sa.select(memories, sessions.c.session_id).outerjoin(
    sessions, sessions.c.session_key == memories.c.session_key
)
_BY_KEYS = Lookup(_SELECT, memories.c.memory_key)
_OUTLINE = (
    memories.c.memory_key,
    memories.c.memory_id,
    memories.c.kind,
    sessions.c.session_id,
    memories.c.agent_id,
    memories.c.created_at,
    memories.c.updated_at,
    memories.c.last_accessed_at,
    memories.c.access_count,
    memories.c.pinned,
    memories.c.valid_to,
    memories.c.near_duplicate_of,
)
_LOCK_TEXTS = sa.text("SELECT pg_advisory_xact_lock(place) FROM unnest(:places) AS place").bindparams(
    sa.bindparam("places", type_=postgresql.ARRAY(sa.BigInteger))
)
_STRIPES = 64
"""Of a tenant's texts; a batch holds as many locks at most, whatever its length."""


class SqlMemories:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def lock_texts(self, tenant_id: str, scope_hashes: Collection[bytes]) -> None:
        if is_postgresql(self._db) and scope_hashes:  # SQLite has one writer anyway
            places = sorted({_stripe(tenant_id, scope_hash) for scope_hash in scope_hashes})
            await self._db.execute(_LOCK_TEXTS, {"places": places})

    async def add(self, memory: Memory, scope_hash: bytes, by: str | None) -> Memory | None:
        values = asdict(memory)
        del values["memory_key"], values["session_id"]
        if memory.source is not None:
            values["source"] = {"session_id": memory.source.session_id, "event_ids": list(memory.source.event_ids)}
        written = sa.select(sessions.c.last_seq).where(sessions.c.session_key == memory.session_key)
        values["session_seq"] = sa.func.coalesce(written.scalar_subquery(), 0)
        statement = upsert(self._db, memories).values(**values, scope_hash=scope_hash)
        statement = statement.on_conflict_do_nothing().returning(memories.c.memory_key)
        memory_key = (await self._db.execute(statement)).scalar_one_or_none()
        if memory_key is None:
            return None
        stored = (await self.by_keys([memory_key]))[0]
        await versions.keep(self._db, stored, by, stored.created_at)
        return stored

    async def get(self, tenant_id: str, memory_id: str) -> Memory | None:
        return await self._one(_by_id(tenant_id, memory_id))

    async def locked(self, tenant_id: str, memory_id: str) -> Memory | None:
        return await self._one(_by_id(tenant_id, memory_id).with_for_update(of=memories))

    async def by_scope_hash(self, tenant_id: str, scope_hash: bytes) -> Memory | None:
        query = _SELECT.where(memories.c.tenant_id == tenant_id, memories.c.scope_hash == scope_hash)
        return await self._one(query)

    async def release_scope_hash(self, memory_key: int) -> None:
        await self._db.execute(memories.update().where(memories.c.memory_key == memory_key).values(scope_hash=None))

    async def by_keys(self, memory_keys: Sequence[int]) -> list[Memory]:
        return [rows.memory(row) for row in await _BY_KEYS.rows(self._db, memory_keys)]

    async def by_ids(self, tenant_id: str, memory_ids: Sequence[str]) -> list[Memory]:
        query = _SELECT.where(memories.c.tenant_id == tenant_id, one_of(self._db, memories.c.memory_id, memory_ids))
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def page(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        after_key: int | None,
        limit: int,
        lineage: Lineage | None = None,
        kind: str | None = None,
        agent_id: str | None = None,
        reach: Reach | None = None,
        alive_at: datetime | None = None,
    ) -> list[Memory]:
        query = _SELECT.where(memories.c.tenant_id == tenant_id, _visible(audiences), _alive(alive_at))
        if after_key is not None:
            query = query.where(memories.c.memory_key < after_key)
        if lineage is not None:
            query = query.where(memories_in_any(lineage.stretches))
        for column, value in ((memories.c.kind, kind), (memories.c.agent_id, agent_id)):
            if value is not None:
                query = query.where(column == value)
        if reach is not None:
            query = query.where(self._within(reach))
        query = query.order_by(memories.c.memory_key.desc()).limit(limit)
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def outlines(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        after_key: int,
        limit: int,
        alive_at: datetime,
        kinds: frozenset[str] | None = None,
        reach: Reach | None = None,
        with_metadata: bool = False,
    ) -> list[Outline]:
        metadata = (memories.c.metadata,) if with_metadata else ()
        query = sa.select(*_OUTLINE, *metadata).outerjoin(sessions, sessions.c.session_key == memories.c.session_key)
        query = query.where(
            memories.c.tenant_id == tenant_id, _visible(audiences), _alive(alive_at), memories.c.memory_key > after_key
        )
        if kinds is not None:
            query = query.where(memories.c.kind.in_(kinds))
        if reach is not None:
            query = query.where(self._within(reach))
        found = await self._db.execute(query.order_by(memories.c.memory_key).limit(limit))
        return [rows.outline(row) for row in found]

    def _within(self, reach: Reach) -> sa.ColumnElement[bool]:
        """And those of no session."""
        return sa.or_(memories.c.session_key.is_(None), within(self._db, reach))

    async def update(
        self,
        memory: Memory,
        changes: Mapping[str, Any],
        scope_hash: bytes | None,
        by: str | None,
        now: datetime,
        reason: str | None = None,
    ) -> Memory:
        await self._db.execute(
            memories.update()
            .where(memories.c.memory_key == memory.memory_key)
            .values(**changes, **self._segmented(memory, changes), scope_hash=scope_hash, updated_at=now)
            .values(version=memory.version + 1)
        )
        stored = (await self.by_keys([memory.memory_key]))[0]
        await versions.keep(self._db, stored, by, now, reason)
        return stored

    def _segmented(self, memory: Memory, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The new version has its segments if the one before had them and no text changed, nor who may see it."""
        if all(
            changes.get(name, value) == value
            for name, value in (("text", memory.text), ("visibility", memory.visibility))
        ):
            had = memories.c.segmented_version == memories.c.version
            return {"segmented_version": sa.case((had, memory.version + 1), else_=memories.c.segmented_version)}
        return {}

    async def successor(self, memory: Memory) -> Memory | None:
        first = sa.select(memories.c.memory_id, memories.c.superseded_by).where(
            memories.c.tenant_id == memory.tenant_id, memories.c.memory_id == memory.superseded_by
        )
        chain = first.cte("chain", recursive=True)
        following = sa.select(memories.c.memory_id, memories.c.superseded_by).where(
            memories.c.tenant_id == memory.tenant_id, memories.c.memory_id == chain.c.superseded_by
        )
        chain = chain.union(following)
        last = sa.select(chain.c.memory_id).where(chain.c.superseded_by.is_(None)).scalar_subquery()
        query = _SELECT.where(memories.c.tenant_id == memory.tenant_id, memories.c.memory_id == last)
        return await self._one(query.with_for_update(of=memories))

    async def unsegmented(self, tenant_id: str, limit: int) -> list[Memory]:
        query = _SELECT.where(memories.c.tenant_id == tenant_id, memories.c.segmented_version < memories.c.version)
        query = query.order_by(memories.c.memory_key).limit(limit)
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def mark_segmented(self, memory: Memory) -> None:
        await self._db.execute(
            memories.update().where(memories.c.memory_key == memory.memory_key).values(segmented_version=memory.version)
        )

    async def uncompared(self, tenant_id: str, space: str, limit: int) -> list[Memory]:
        waiting = sa.exists().where(
            segments.c.item == memories.c.memory_key * 2 + 1, segments.c.space == space, segments.c.vector.is_(None)
        )
        query = _SELECT.where(
            memories.c.tenant_id == tenant_id,
            sa.text("NOT memories.compared"),
            memories.c.segmented_version == memories.c.version,
            sa.not_(waiting),
        )
        query = query.order_by(memories.c.memory_key).limit(limit)
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def mark_compared(self, memory: Memory, near_duplicate_of: str | None) -> bool:
        statement = memories.update().where(
            memories.c.memory_key == memory.memory_key, memories.c.version == memory.version
        )
        marked = await self._db.execute(statement.values(compared=True, near_duplicate_of=near_duplicate_of))
        return marked.rowcount == 1

    async def compare_again(self, memory: Memory) -> None:
        repeating = sa.and_(memories.c.tenant_id == memory.tenant_id, memories.c.near_duplicate_of == memory.memory_id)
        for which in (repeating, memories.c.memory_key == memory.memory_key):
            await self._db.execute(memories.update().where(which).values(compared=False, near_duplicate_of=None))

    async def originals(self, memory_keys: Sequence[int]) -> list[Memory]:
        first = sa.and_(memories.c.compared, memories.c.near_duplicate_of.is_(None))
        query = _SELECT.where(one_of(self._db, memories.c.memory_key, memory_keys), first)
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def used(self, uses: Mapping[int, Use]) -> None:
        if not uses:
            return
        last = sa.bindparam("last", type_=memories.c.last_accessed_at.type)
        earlier = sa.or_(memories.c.last_accessed_at.is_(None), memories.c.last_accessed_at < last)
        statement = (
            memories.update()
            .where(memories.c.memory_key == sa.bindparam("used"))
            .values(
                access_count=memories.c.access_count + sa.bindparam("times"),
                last_accessed_at=sa.case((earlier, last), else_=memories.c.last_accessed_at),
            )
        )
        # In one order, so that two processes that count the same memories never wait for each other.
        values = [{"used": key, "times": use.times, "last": use.last} for key, use in sorted(uses.items())]
        await self._db.execute(statement, values)

    async def expired(self, now: datetime, limit: int) -> list[Memory]:
        query = _SELECT.where(memories.c.expires_at.is_not(None), memories.c.expires_at <= now)
        query = query.order_by(memories.c.expires_at).limit(limit)
        found = await self._db.execute(query.with_for_update(of=memories, skip_locked=True))
        return [rows.memory(row) for row in found]

    async def expired_of(self, tenant_id: str, now: datetime) -> list[int]:
        query = sa.select(memories.c.memory_key).where(
            memories.c.tenant_id == tenant_id, memories.c.expires_at.is_not(None), memories.c.expires_at <= now
        )
        return list((await self._db.execute(query)).scalars())

    async def locked_keys(self, memory_keys: Sequence[int]) -> list[int]:
        query = sa.select(memories.c.memory_key).where(one_of(self._db, memories.c.memory_key, memory_keys))
        return list((await self._db.execute(query.order_by(memories.c.memory_key).with_for_update())).scalars())

    async def unpinned(self, memory_keys: Sequence[int]) -> list[int]:
        query = sa.select(memories.c.memory_key).where(
            one_of(self._db, memories.c.memory_key, memory_keys), sa.not_(memories.c.pinned)
        )
        found = await self._db.execute(query.order_by(memories.c.memory_key).with_for_update())
        return list(found.scalars())

    async def purge(self, *memory_keys: int) -> dict[str, int]:
        going = await self.by_keys(memory_keys)
        await self._leave(going)
        of_memories = one_of(self._db, segments.c.item, [memory_item(key) for key in memory_keys])
        vectors = sa.select(sa.func.count()).where(of_memories, segments.c.vector.is_not(None))
        counts = {"vectors": (await self._db.execute(vectors)).scalar_one()}
        counts["segments"] = (await self._db.execute(segments.delete().where(of_memories))).rowcount
        for table in (memory_versions, memories):
            statement = table.delete().where(one_of(self._db, table.c.memory_key, memory_keys))
            deleted = await self._db.execute(statement)
        return counts | {"memories": deleted.rowcount}

    async def _leave(self, going: Sequence[Memory]) -> None:
        """What repeats them is compared anew; what they took the place of is superseded by what took their own."""
        for tenant_id in {memory.tenant_id for memory in going}:
            names = [memory.memory_id for memory in going if memory.tenant_id == tenant_id]
            repeating = sa.and_(
                memories.c.tenant_id == tenant_id, one_of(self._db, memories.c.near_duplicate_of, names)
            )
            again = memories.update().where(repeating).values(compared=False, near_duplicate_of=None)
            await self._db.execute(again)
        for memory in await self.by_keys([memory.memory_key for memory in going if memory.superseded_by is not None]):
            before = sa.and_(memories.c.tenant_id == memory.tenant_id, memories.c.superseded_by == memory.memory_id)
            await self._db.execute(memories.update().where(before).values(superseded_by=memory.superseded_by))

    async def derived_from(self, session_key: int, session_id: str, tenant_id: str) -> list[Memory]:
        source = memories.c.source["session_id"].as_string()
        query = _SELECT.where(
            memories.c.tenant_id == tenant_id,
            sa.or_(memories.c.session_key == session_key, source == session_id),
        )
        return [rows.memory(row) for row in await self._db.execute(query)]

    async def last_of(self, session_keys: Sequence[int], seq: int) -> dict[int, int]:
        query = sa.select(memories.c.session_key, sa.func.max(memories.c.memory_key)).where(
            one_of(self._db, memories.c.session_key, session_keys), memories.c.session_seq <= seq
        )
        return {row[0]: row[1] for row in await self._db.execute(query.group_by(memories.c.session_key))}

    async def set_source(self, memory_key: int, source: MemorySource) -> None:
        values = {"session_id": source.session_id, "event_ids": list(source.event_ids)}
        await self._db.execute(memories.update().where(memories.c.memory_key == memory_key).values(source=values))

    async def count(self, tenant_id: str) -> int:
        query = sa.select(sa.func.count()).where(memories.c.tenant_id == tenant_id)
        return (await self._db.execute(query)).scalar_one()

    async def _one(self, query: sa.Select[Any]) -> Memory | None:
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else rows.memory(row)


def _stripe(tenant_id: str, scope_hash: bytes) -> int:
    stripe = f"{tenant_id}:{scope_hash[0] % _STRIPES}"
    return int.from_bytes(hashlib.blake2b(stripe.encode(), digest_size=8).digest(), signed=True)


def _by_id(tenant_id: str, memory_id: str) -> sa.Select[Any]:
    return _SELECT.where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)


def _visible(audiences: frozenset[str]) -> sa.ColumnElement[bool]:
    agents = [a.removeprefix(private_to("")) for a in audiences if a.startswith(private_to(""))]
    shared = [
        visibility
        for audience, visibility in ((SHARED, MemoryVisibility.SESSION), (TENANT_WIDE, MemoryVisibility.TENANT))
        if audience in audiences
    ]
    private = sa.and_(memories.c.visibility == MemoryVisibility.PRIVATE, memories.c.agent_id.in_(agents))
    return sa.or_(memories.c.visibility.in_(shared), private)


def _alive(moment: datetime | None) -> sa.ColumnElement[bool]:
    if moment is None:
        return sa.true()
    return sa.or_(memories.c.expires_at.is_(None), memories.c.expires_at > moment)
