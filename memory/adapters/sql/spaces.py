"""The vector space of each tenant, and segments of others."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.segments import insertable
from memory.adapters.sql.statements import upsert
from memory.adapters.sql.tables import clusters, segments, sessions, spaces, tenants
from memory.domain.segments import NewSegment, Unfilled

_there = segments.alias("there")


class SqlSpaces:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def all(self) -> dict[str, str | None]:
        query = sa.select(tenants.c.tenant_id, tenants.c.space).where(tenants.c.purging.is_(None))
        found = await self._db.execute(query)
        return {row.tenant_id: row.space for row in found}

    async def of(self, tenant_id: str, *, held: bool = False) -> str | None:
        query = sa.select(tenants.c.space).where(tenants.c.tenant_id == tenant_id)
        if held:
            query = query.with_for_update(read=True)
        space: str | None = (await self._db.execute(query)).scalar_one_or_none()
        return space

    async def begin(self, tenant_id: str, space: str) -> None:
        new = sa.and_(tenants.c.tenant_id == tenant_id, tenants.c.space.is_(None))
        await self._db.execute(tenants.update().where(new).values(space=space))

    async def change(self, tenant_id: str, space: str) -> None:
        await self._db.execute(tenants.update().where(tenants.c.tenant_id == tenant_id).values(space=space))

    async def note(self, space: str, embedder: str, now: datetime) -> None:
        statement = upsert(self._db, spaces).values(space=space, embedder=embedder, noted_at=now)
        changed = {"embedder": embedder, "noted_at": now}
        await self._db.execute(statement.on_conflict_do_update(index_elements=["space"], set_=changed))

    async def embedders(self) -> dict[str, str]:
        return {row.space: row.embedder for row in await self._db.execute(sa.select(spaces))}

    async def unfilled(self, tenant_id: str, space: str, after_key: int, limit: int) -> list[Unfilled]:
        if not await self.others(tenant_id, space):  # nearly always, and then all segments would be read for nothing
            return []
        columns = (segments.c[name] for name in ("segment_key", "item", "session_key", "seq", "turn", "audience"))
        query = sa.select(*columns).where(_unfilled(tenant_id, space), segments.c.segment_key > after_key)
        found = await self._db.execute(query.order_by(segments.c.segment_key).limit(limit))
        return [Unfilled(**row._mapping) for row in found]

    async def count_unfilled(self, tenant_id: str, space: str) -> int:
        if not await self.others(tenant_id, space):
            return 0
        query = sa.select(sa.func.count(sa.distinct(segments.c.item))).where(_unfilled(tenant_id, space))
        return (await self._db.execute(query)).scalar_one()

    async def fill(
        self, tenant_id: str, space: str, added: Sequence[NewSegment], vectors: Sequence[bytes], now: datetime
    ) -> None:
        rows = insertable(tenant_id, space, added, now)
        values = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
        if values:
            await self._db.execute(upsert(self._db, segments).on_conflict_do_nothing(), values)

    async def leave(self, tenant_id: str, space: str) -> None:
        seen = sa.or_(segments.c.cluster_key.is_not(None), segments.c.semantic.is_(True))
        elsewhere = sa.and_(segments.c.tenant_id == tenant_id, segments.c.space != space, seen)
        await self._db.execute(segments.update().where(elsewhere).values(cluster_key=None, semantic=None))
        own = sa.select(sessions.c.session_key).where(sessions.c.tenant_id == tenant_id)
        await self._db.execute(clusters.delete().where(clusters.c.session_key.in_(own)))

    async def others(self, tenant_id: str, space: str) -> list[str]:
        """One step of an index for each space, however many segments there are."""
        found: list[str] = []
        while True:
            query = sa.select(sa.func.min(segments.c.space)).where(segments.c.tenant_id == tenant_id)
            if found:
                query = query.where(segments.c.space > found[-1])
            following: Any = (await self._db.execute(query)).scalar_one()
            if following is None:
                return [one for one in found if one != space]
            found.append(following)

    async def drop(self, tenant_id: str, space: str, limit: int) -> int:
        some = sa.select(segments.c.segment_key).where(segments.c.tenant_id == tenant_id, segments.c.space == space)
        statement = segments.delete().where(segments.c.segment_key.in_(some.limit(limit)))
        return (await self._db.execute(statement)).rowcount


def _unfilled(tenant_id: str, space: str) -> sa.ColumnElement[bool]:
    filled = sa.exists().where(_there.c.item == segments.c.item, _there.c.space == space)
    other = sa.and_(segments.c.tenant_id == tenant_id, segments.c.space != space, segments.c.ordinal == 0)
    return sa.and_(other, sa.not_(filled))
