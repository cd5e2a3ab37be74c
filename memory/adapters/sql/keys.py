"""The keys of tenants."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.tables import keys
from memory.domain.principals import Key

_USED = (
    keys.update()
    .where(
        keys.c.key_id == sa.bindparam("used"),
        sa.or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < sa.bindparam("moment")),
    )
    .values(last_used_at=sa.bindparam("moment"))
)


class SqlKeys:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, key: Key) -> None:
        await self._db.execute(
            keys.insert().values(
                key_id=key.key_id,
                tenant_id=key.tenant_id,
                secret_hash=key.secret_hash,
                scopes=sorted(key.scopes),
                agent_id=key.agent_id,
                session_ids=None if key.session_ids is None else sorted(key.session_ids),
                name=key.name,
                created_at=key.created_at,
                expires_at=key.expires_at,
            )
        )

    async def find(self, key_id: str) -> Key | None:
        row = (await self._db.execute(sa.select(keys).where(keys.c.key_id == key_id))).one_or_none()
        return None if row is None else rows.key(row)

    async def any(self, now: datetime) -> bool:
        unexpired = sa.or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
        query = sa.select(keys.c.key_id).where(keys.c.revoked_at.is_(None), unexpired).limit(1)
        return (await self._db.execute(query)).first() is not None

    async def page(self, tenant_id: str | None, *, after: Key | None, limit: int) -> list[Key]:
        query = sa.select(keys).order_by(keys.c.created_at.desc(), keys.c.key_id.desc()).limit(limit)
        if tenant_id is not None:
            query = query.where(keys.c.tenant_id == tenant_id)
        if after is not None:
            same = sa.and_(keys.c.created_at == after.created_at, keys.c.key_id < after.key_id)
            query = query.where(sa.or_(keys.c.created_at < after.created_at, same))
        return [rows.key(row) for row in await self._db.execute(query)]

    async def revoke(self, key_id: str, now: datetime) -> None:
        standing = sa.and_(keys.c.key_id == key_id, keys.c.revoked_at.is_(None))
        await self._db.execute(keys.update().where(standing).values(revoked_at=now))

    async def used(self, moments: Mapping[str, datetime]) -> None:
        if moments:
            # In the order of their names: two processes that write the same rows never wait for each other in a ring.
            uses = [{"used": key_id, "moment": moments[key_id]} for key_id in sorted(moments)]
            await self._db.execute(_USED, uses)
