"""Tenants: there, going, or gone with every row that is theirs."""

import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.sessions import SqlSessions
from memory.adapters.sql.statements import is_postgresql, one_of, upsert
from memory.adapters.sql.tables import (
    audit,
    changes,
    codebooks,
    coded_segments,
    codes,
    events,
    keys,
    memories,
    memory_versions,
    operations,
    segments,
    sessions,
    tenants,
    turns,
)
from memory.domain.changes import ChangeKind
from memory.domain.errors import TenantPurged
from memory.domain.tenants import Figures, Highest, Tenant

_SESSIONS_AT_ONCE = 50
_STANDING = tenants.c.purging.is_(None)


class SqlTenants:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def secret(self, tenant_id: str, now: datetime, *, going: bool = False) -> bytes:
        found = await self._secret(tenant_id, held=True)
        if found is None:
            new = {"tenant_id": tenant_id, "secret": secrets.token_bytes(32), "created_at": now}
            await self._db.execute(upsert(self._db, tenants).values(new).on_conflict_do_nothing())
            found = await self._secret(tenant_id, held=True)
        assert found is not None
        return _checked(tenant_id, found, going)

    async def known_secret(self, tenant_id: str) -> bytes | None:
        found = await self._secret(tenant_id)
        return None if found is None else _checked(tenant_id, found)

    async def ids(self) -> list[str]:
        query = sa.select(tenants.c.tenant_id).where(_STANDING).order_by(tenants.c.tenant_id)
        return list((await self._db.execute(query)).scalars())

    async def get(self, tenant_id: str) -> Tenant | None:
        query = sa.select(*_COLUMNS).where(tenants.c.tenant_id == tenant_id)
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else Tenant(**row._mapping)

    async def page(self, *, after: str | None, limit: int) -> list[Tenant]:
        query = sa.select(*_COLUMNS).order_by(tenants.c.tenant_id).limit(limit)
        if after is not None:
            query = query.where(tenants.c.tenant_id > after)
        return [Tenant(**row._mapping) for row in await self._db.execute(query)]

    async def figures(self, tenant_id: str) -> Figures:
        totals = await SqlSessions(self._db).totals(tenant_id)
        of_memories = sa.select(sa.func.count()).where(memories.c.tenant_id == tenant_id)
        of_keys = sa.select(sa.func.count()).where(keys.c.tenant_id == tenant_id)
        counted = [(await self._db.execute(query)).scalar_one() for query in (of_memories, of_keys)]
        return Figures(**totals, memories=counted[0], keys=counted[1])

    async def highest(self) -> Highest:
        columns = (sessions.c.session_key, events.c.event_key, memories.c.memory_key, segments.c.segment_key)
        tops = [sa.select(sa.func.coalesce(sa.func.max(column), 0)).scalar_subquery() for column in columns]
        return Highest(*(await self._db.execute(sa.select(*tops))).one())

    async def begin_purge(self, tenant_id: str, operation_id: str) -> bool:
        # The whole row: whoever is adding something to the tenant holds it, and is waited for.
        query = sa.select(tenants.c.purging).where(tenants.c.tenant_id == tenant_id).with_for_update()
        row = (await self._db.execute(query)).one_or_none()
        if row is None or row.purging is not None:
            return False
        of_tenant = tenants.c.tenant_id == tenant_id
        await self._db.execute(tenants.update().where(of_tenant).values(purging=operation_id, space=None))
        await self._db.execute(keys.delete().where(keys.c.tenant_id == tenant_id))
        return True

    async def erase_some(self, tenant_id: str, limit: int) -> dict[str, int]:
        going = await self._sessions_locked(tenant_id)
        counts: Counter[str] = Counter()
        for table, condition in _in_order(tenant_id):
            counts.update(await self._erase(table, condition, limit - counts.total()))
            if counts.total() >= limit:
                return counts
        return counts + await self._erase_sessions(going, limit - counts.total())

    async def remove(self, tenant_id: str, now: datetime, *, keep_secret: bool) -> None:
        of_tenant = tenants.c.tenant_id == tenant_id
        if keep_secret:
            await self._db.execute(tenants.update().where(of_tenant).values(purging=None, created_at=now))
        else:
            await self._db.execute(tenants.delete().where(of_tenant))

    async def _sessions_locked(self, tenant_id: str) -> list[int]:
        """Some of them: an append to one is over, or finds it gone. First, as appends do: they then lock operations."""
        query = sa.select(sessions.c.session_key).where(sessions.c.tenant_id == tenant_id)
        query = query.order_by(sessions.c.session_key).limit(_SESSIONS_AT_ONCE).with_for_update()
        return list((await self._db.execute(query)).scalars())

    async def _erase_sessions(self, found: Sequence[int], limit: int) -> Counter[str]:
        counts = await self._erase(events, one_of(self._db, events.c.session_key, found), limit)
        if counts.total() >= limit:
            return counts
        for session_key in found:
            counts.update(await SqlSessions(self._db).purge(session_key))
            counts["sessions"] += 1
        return counts

    async def _erase(self, table: sa.Table, condition: sa.ColumnElement[bool], limit: int) -> Counter[str]:
        if limit <= 0:
            return Counter()
        primary = list(table.primary_key.columns)
        some = sa.select(*primary).where(condition).order_by(*primary).limit(limit)
        key: Any = primary[0] if len(primary) == 1 else sa.tuple_(*primary)
        statement = table.delete().where(key.in_(some))
        counts: Counter[str] = Counter()
        if table is segments:
            embedded = sa.select(sa.func.count()).where(key.in_(some), segments.c.vector.is_not(None))
            counts["vectors"] = (await self._db.execute(embedded)).scalar_one()
        counts[table.name] = (await self._db.execute(statement)).rowcount
        return counts

    async def _secret(self, tenant_id: str, *, held: bool = False) -> rows.Row | None:
        """`held`: nobody begins to purge the tenant until this unit of work ends."""
        query = sa.select(tenants.c.secret, tenants.c.purging).where(tenants.c.tenant_id == tenant_id)
        if held and is_postgresql(self._db):
            query = query.with_for_update(read=True, key_share=True)
        return (await self._db.execute(query)).one_or_none()


_COLUMNS = (tenants.c.tenant_id, tenants.c.created_at, tenants.c.space, tenants.c.purging)


def _checked(tenant_id: str, found: rows.Row, going: bool = False) -> bytes:
    if found.purging is not None and not going:
        raise TenantPurged(tenant_id)
    return bytes(found.secret)


def _in_order(tenant_id: str) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    """All but sessions and what hangs on them. Children first: foreign keys are enforced."""
    of_codes = sa.select(codes.c.code_key).where(codes.c.tenant_id == tenant_id)
    of_memories = sa.select(memories.c.memory_key).where(memories.c.tenant_id == tenant_id)
    its_own = sa.select(tenants.c.purging).where(tenants.c.tenant_id == tenant_id).scalar_subquery()
    return [
        (operations, sa.and_(operations.c.tenant_id == tenant_id, operations.c.operation_id != its_own)),
        (coded_segments, coded_segments.c.code_key.in_(of_codes)),
        (codes, codes.c.tenant_id == tenant_id),
        (codebooks, codebooks.c.tenant_id == tenant_id),
        (segments, segments.c.tenant_id == tenant_id),
        (memory_versions, memory_versions.c.memory_key.in_(of_memories)),
        (memories, memories.c.tenant_id == tenant_id),
        (turns, turns.c.tenant_id == tenant_id),
        (audit, audit.c.tenant_id == tenant_id),
        (keys, keys.c.tenant_id == tenant_id),
        (changes, sa.and_(changes.c.tenant_id == tenant_id, changes.c.kind != ChangeKind.TENANT_PURGED)),
    ]
