"""Tenants and their keys."""

import secrets
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import upsert
from memory.adapters.sql.tables import keys, tenants
from memory.domain.principals import Key


class SqlTenants:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def secret(self, tenant_id: str, now: datetime) -> bytes:
        found = await self._secret(tenant_id)
        if found is None:
            new = {"tenant_id": tenant_id, "secret": secrets.token_bytes(32), "created_at": now}
            await self._db.execute(upsert(self._db, tenants).values(new).on_conflict_do_nothing())
            found = await self._secret(tenant_id)
        assert found is not None
        return found

    async def ids(self) -> list[str]:
        result = await self._db.execute(sa.select(tenants.c.tenant_id).order_by(tenants.c.tenant_id))
        return list(result.scalars())

    async def _secret(self, tenant_id: str) -> bytes | None:
        query = sa.select(tenants.c.secret).where(tenants.c.tenant_id == tenant_id)
        return (await self._db.execute(query)).scalar_one_or_none()


class SqlKeys:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, key: Key, now: datetime) -> None:
        await self._db.execute(
            keys.insert().values(
                key_id=key.key_id,
                tenant_id=key.tenant_id,
                secret_hash=key.secret_hash,
                scopes=sorted(key.scopes),
                agent_id=key.agent_id,
                session_ids=None if key.session_ids is None else sorted(key.session_ids),
                created_at=now,
            )
        )

    async def find(self, key_id: str) -> Key | None:
        row = (await self._db.execute(sa.select(keys).where(keys.c.key_id == key_id))).one_or_none()
        return None if row is None else rows.key(row)

    async def any(self) -> bool:
        return (await self._db.execute(sa.select(keys.c.key_id).limit(1))).first() is not None
