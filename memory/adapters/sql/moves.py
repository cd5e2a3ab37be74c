"""What left which tier: the newest of each tenant."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import one_of
from memory.adapters.sql.tables import moves, sessions
from memory.domain.moves import Move, NewMove

MOST = 10_000
"""Of one tenant: about 2 MB."""


class SqlMoves:
    def __init__(self, connection: AsyncConnection, most: int = MOST) -> None:
        self._db = connection
        self._most = most

    async def add(self, tenant_id: str, added: Sequence[NewMove], now: datetime) -> None:
        if not added:
            return
        newest = added[-self._most :]
        values = [{**asdict(move), "tenant_id": tenant_id, "at": now} for move in newest]
        await self._db.execute(moves.insert(), values)
        of_tenant = moves.c.tenant_id == tenant_id
        last = sa.select(moves.c.move_key).where(of_tenant).order_by(moves.c.move_key.desc())
        last = last.offset(self._most).limit(1)
        # What another transaction is clearing at this moment is not waited for.
        beyond = sa.select(moves.c.move_key).where(of_tenant, moves.c.move_key <= last.scalar_subquery())
        await self._db.execute(moves.delete().where(moves.c.move_key.in_(beyond.with_for_update(skip_locked=True))))

    async def page(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        session_key: int | None,
        before_key: int | None,
        limit: int,
        only_sessions: frozenset[str] | None = None,
    ) -> list[Move]:
        query = sa.select(moves, sessions.c.session_id).join(sessions, sessions.c.session_key == moves.c.session_key)
        query = query.where(moves.c.tenant_id == tenant_id, one_of(self._db, moves.c.audience, audiences))
        if session_key is not None:
            query = query.where(moves.c.session_key == session_key)
        if before_key is not None:
            query = query.where(moves.c.move_key < before_key)
        if only_sessions is not None:
            query = query.where(one_of(self._db, sessions.c.session_id, only_sessions))
        return [rows.move(row) for row in await self._db.execute(query.order_by(moves.c.move_key.desc()).limit(limit))]

    async def forget(self, before: datetime) -> int:
        return (await self._db.execute(moves.delete().where(moves.c.at < before))).rowcount
