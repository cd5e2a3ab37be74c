"""The queue of each session's turns: who drew the lowest ticket is next."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.statements import is_postgresql
from memory.adapters.sql.tables import turns
from memory.domain.generation import Ticket

_QUEUE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


class SqlTurns:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def draw(
        self, tenant_id: str, session_id: str, lease: timedelta, now: datetime, *, most: int
    ) -> Ticket | None:
        await self._hold_queue(tenant_id, session_id)
        of_session = sa.and_(turns.c.tenant_id == tenant_id, turns.c.session_id == session_id)
        live = sa.func.count().filter(turns.c.lease_until >= now)
        query = sa.select(sa.func.count(), live).select_from(turns).where(of_session)
        before, counted = (await self._db.execute(query)).one()
        if counted >= most:
            return None
        values = {"tenant_id": tenant_id, "session_id": session_id, "lease_until": now + lease}
        key = (await self._db.execute(turns.insert().values(values).returning(turns.c.turn_key))).scalar_one()
        return Ticket(key, tenant_id, session_id, before)

    async def ahead(self, ticket: Ticket, now: datetime) -> int:
        query = sa.select(sa.func.count()).where(_before(ticket), turns.c.lease_until >= now)
        return (await self._db.execute(query)).scalar_one()

    async def step_up(self, ticket: Ticket, lease: timedelta, now: datetime) -> int | None:
        await self._hold_queue(ticket.tenant_id, ticket.session_id)
        # Waits for a turn that is being kept at this moment: what it adds is in the log when this one begins.
        await self._db.execute(turns.delete().where(_before(ticket), turns.c.lease_until < now))
        if not await self.renew(ticket, lease, now):
            return None
        return (await self._db.execute(sa.select(sa.func.count()).where(_before(ticket)))).scalar_one()

    async def renew(self, ticket: Ticket, lease: timedelta, now: datetime) -> bool:
        statement = turns.update().where(turns.c.turn_key == ticket.key).values(lease_until=now + lease)
        return (await self._db.execute(statement)).rowcount == 1

    async def give_back(self, ticket: Ticket) -> bool:
        return (await self._db.execute(turns.delete().where(turns.c.turn_key == ticket.key))).rowcount == 1

    async def forget(self, lapsed_before: datetime) -> int:
        return (await self._db.execute(turns.delete().where(turns.c.lease_until < lapsed_before))).rowcount

    async def _hold_queue(self, tenant_id: str, session_id: str) -> None:
        """Until the end of the transaction: else a lower ticket might be committed after a higher one has begun."""
        if is_postgresql(self._db):  # SQLite has one writer
            await self._db.execute(_QUEUE, {"name": f"turns/{tenant_id}/{session_id}"})


def _before(ticket: Ticket) -> sa.ColumnElement[bool]:
    of_session = sa.and_(turns.c.tenant_id == ticket.tenant_id, turns.c.session_id == ticket.session_id)
    return sa.and_(of_session, turns.c.turn_key < ticket.key)
