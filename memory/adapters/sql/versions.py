"""What memories said before: a row for every version."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.columns import Instant
from memory.adapters.sql.statements import one_of
from memory.adapters.sql.tables import memories, memory_versions, sessions
from memory.domain.memories import Memory, MemoryVersion, MemoryVisibility, Then

_OF_VERSION = ("text", "metadata", "visibility", "valid_to", "pinned", "version", "superseded_by")
_then = memory_versions.alias("then")
_earlier = memory_versions.alias("earlier")
# What was written down later with an earlier `valid_from` was then as it was written.
_version_then = (
    sa.select(sa.func.coalesce(sa.func.max(_earlier.c.version), 1))
    .where(_earlier.c.memory_key == memories.c.memory_key)
    .where(_earlier.c.changed_at <= sa.bindparam("moment", type_=Instant))
    .scalar_subquery()
)
_COLUMNS = [_then.c[c.name] if c.name in _OF_VERSION else c for c in memories.c]
_JOINED = memories.join(_then, sa.and_(_then.c.memory_key == memories.c.memory_key, _then.c.version == _version_then))
_AS_AT = sa.select(*_COLUMNS).select_from(_JOINED)
_reworded = sa.or_(_then.c.text != memories.c.text, _then.c.metadata != memories.c.metadata)
_COMPARED = 4_000
_CHANGED = (
    sa.select(
        *(c for c in _COLUMNS if c.name != "text"),
        sessions.c.session_id,
        sa.case((_reworded, sa.func.substr(_then.c.text, 1, _COMPARED)), else_="").label("text"),
        _reworded.label("reworded"),
        memories.c.visibility.label("visibility_now"),
    )
    .select_from(_JOINED.outerjoin(sessions, sessions.c.session_key == memories.c.session_key))
    .where(sa.text("(memories.version > 1 OR memories.valid_from IS NOT NULL)"))
)


async def keep(db: AsyncConnection, memory: Memory, by: str | None, now: datetime, reason: str | None = None) -> None:
    """The memory as it is from now on."""
    await db.execute(
        memory_versions.insert().values(
            memory_key=memory.memory_key,
            version=memory.version,
            text=memory.text,
            metadata=memory.metadata,
            visibility=memory.visibility,
            valid_to=memory.valid_to,
            pinned=memory.pinned,
            superseded_by=memory.superseded_by,
            changed_at=now,
            changed_by=by,
            reason=reason,
        )
    )


class SqlVersions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def page(
        self, memory_key: int, visibilities: Collection[MemoryVisibility], *, after_version: int, limit: int
    ) -> list[MemoryVersion]:
        query = sa.select(memory_versions).where(
            memory_versions.c.memory_key == memory_key,
            memory_versions.c.version > after_version,
            memory_versions.c.visibility.in_(visibilities),
        )
        query = query.order_by(memory_versions.c.version).limit(limit)
        return [rows.memory_version(row) for row in await self._db.execute(query)]

    async def end_before(self, memory: Memory) -> datetime | None:
        query = (
            sa.select(memory_versions.c.valid_to)
            .where(memory_versions.c.memory_key == memory.memory_key, memory_versions.c.superseded_by.is_(None))
            .order_by(memory_versions.c.version.desc())
            .limit(1)
        )
        end: datetime | None = (await self._db.execute(query)).scalar_one()
        return end

    async def as_at(self, current: Sequence[Memory], moment: datetime) -> list[Memory]:
        keys = [memory.memory_key for memory in current]
        query = _AS_AT.where(one_of(self._db, memories.c.memory_key, keys))
        found = [rows.memory(row) for row in await self._db.execute(query, {"moment": moment})]
        session_ids = {memory.memory_key: memory.session_id for memory in current}
        return [replace(memory, session_id=session_ids[memory.memory_key]) for memory in found]

    async def changed_since(self, tenant_id: str, moment: datetime, limit: int) -> list[Then]:
        query = _CHANGED.where(
            memories.c.tenant_id == tenant_id, memories.c.updated_at > sa.bindparam("moment", type_=Instant)
        )
        query = query.order_by(memories.c.updated_at.desc()).limit(limit)
        found = await self._db.execute(query, {"moment": moment})
        return [Then(rows.memory(row), row.reworded, MemoryVisibility(row.visibility_now)) for row in found]
