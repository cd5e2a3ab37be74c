"""The audit trail: rows are added, read, and removed when they are old."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.statements import is_postgresql, one_of
from memory.adapters.sql.tables import audit, tenants
from memory.domain.audit import Entry, Search

_WRITTEN = tuple(column.name for column in audit.c if not column.primary_key)
_ADD = audit.insert()
_EXACT = ("session_id", "caller", "agent_id", "action")


class SqlAudit:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, entries: Sequence[Entry]) -> None:
        since = await self._standing({entry.tenant_id for entry in entries})
        # What was noted of a tenant before it was purged has gone with it, though another has its name by now.
        standing = [entry for entry in entries if entry.tenant_id in since and entry.at >= since[entry.tenant_id]]
        if standing:
            await self._db.execute(_ADD, [{name: getattr(entry, name) for name in _WRITTEN} for entry in standing])

    async def page(
        self, tenant_id: str, search: Search, *, after: int | None, limit: int, descending: bool
    ) -> list[Entry]:
        query = sa.select(audit).where(audit.c.tenant_id == tenant_id, *_conditions(search))
        if after is not None:
            query = query.where(audit.c.number < after if descending else audit.c.number > after)
        query = query.order_by(audit.c.number.desc() if descending else audit.c.number).limit(limit)
        return [Entry(**row._mapping) for row in await self._db.execute(query)]

    async def _standing(self, tenant_ids: set[str]) -> dict[str, datetime]:
        """Those that nobody begins to purge until this unit of work ends, and since when they are there."""
        query = sa.select(tenants.c.tenant_id, tenants.c.created_at).where(
            one_of(self._db, tenants.c.tenant_id, tenant_ids), tenants.c.purging.is_(None)
        )
        if is_postgresql(self._db):
            query = query.with_for_update(read=True, key_share=True)
        return {row.tenant_id: row.created_at for row in await self._db.execute(query)}

    async def forget(self, before: datetime) -> int:
        return (await self._db.execute(audit.delete().where(audit.c.at < before))).rowcount


def _conditions(search: Search) -> list[sa.ColumnElement[bool]]:
    wanted = {name: getattr(search, name) for name in _EXACT}
    conditions = [audit.c[name] == value for name, value in wanted.items() if value is not None]
    if search.since is not None:
        conditions.append(audit.c.at >= search.since)
    if search.until is not None:
        conditions.append(audit.c.at < search.until)
    return conditions
