"""What memories said before: a row for every version."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import one_of
from memory.adapters.sql.tables import memory_versions
from memory.domain.memories import Memory, MemoryVisibility


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

    async def as_at(self, current: Sequence[Memory], moment: datetime) -> list[Memory]:
        query = (
            sa.select(memory_versions)
            .where(
                one_of(self._db, memory_versions.c.memory_key, [memory.memory_key for memory in current]),
                memory_versions.c.changed_at <= moment,
            )
            .order_by(memory_versions.c.memory_key, memory_versions.c.version)
        )
        versions = {row.memory_key: row for row in await self._db.execute(query)}
        return [_as(memory, versions[memory.memory_key]) for memory in current if memory.memory_key in versions]


def _as(memory: Memory, version: rows.Row) -> Memory:
    visibility = MemoryVisibility(version.visibility)
    return replace(memory, text=version.text, metadata=version.metadata, visibility=visibility, version=version.version)
