"""What is private to one agent: events, memories, what memories said before they were shared."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.tables import events, memories, memory_versions, moves, sessions
from memory.domain.events import Event
from memory.domain.memories import MemoryVisibility
from memory.domain.principals import private_to
from memory.domain.tenants import Highest

_PRIVATE_EVENT = sa.and_(sa.text("events.visibility = 'private'"), ~events.c.redacted)


class SqlPrivate:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def any(self, tenant_id: str, agent_id: str, upto: Highest) -> bool:
        if await self.session(tenant_id, agent_id, upto) is not None:
            return True
        found = sa.or_(
            sa.exists().where(_memories(tenant_id, agent_id, upto)),
            sa.exists().where(_once_private(tenant_id, agent_id, upto)),
        )
        return bool((await self._db.execute(sa.select(found))).scalar_one())

    async def session(self, tenant_id: str, agent_id: str, upto: Highest) -> int | None:
        query = sa.select(events.c.session_key).join(sessions, sessions.c.session_key == events.c.session_key)
        query = query.where(sessions.c.tenant_id == tenant_id, _events(agent_id, upto))
        found: int | None = (await self._db.execute(query.order_by(events.c.session_key).limit(1))).scalar_one_or_none()
        return found

    async def events(self, session_key: int, agent_id: str, upto: Highest, limit: int) -> list[Event]:
        query = sa.select(events).where(events.c.session_key == session_key, _events(agent_id, upto))
        return [rows.event(row) for row in await self._db.execute(query.order_by(events.c.seq).limit(limit))]

    async def memories(self, tenant_id: str, agent_id: str, upto: Highest, limit: int) -> list[int]:
        query = sa.select(memories.c.memory_key).where(_memories(tenant_id, agent_id, upto))
        query = query.order_by(memories.c.memory_key).limit(limit).with_for_update()
        return list((await self._db.execute(query)).scalars())

    async def forget_rest(self, tenant_id: str, agent_id: str, upto: Highest) -> dict[str, int]:
        former = sa.select(memory_versions.c.memory_key, memory_versions.c.version)
        former = former.where(_once_private(tenant_id, agent_id, upto))
        key = sa.tuple_(memory_versions.c.memory_key, memory_versions.c.version)
        audience = sa.and_(moves.c.tenant_id == tenant_id, moves.c.audience == private_to(agent_id))
        statements = {
            "versions": memory_versions.delete().where(key.in_(former)),
            "moves": moves.delete().where(audience),
        }
        return {name: (await self._db.execute(statement)).rowcount for name, statement in statements.items()}


def _events(agent_id: str, upto: Highest) -> sa.ColumnElement[bool]:
    return sa.and_(_PRIVATE_EVENT, events.c.agent_id == agent_id, events.c.event_key <= upto.event_key)


def _memories(tenant_id: str, agent_id: str, upto: Highest) -> sa.ColumnElement[bool]:
    private = memories.c.visibility == MemoryVisibility.PRIVATE
    return sa.and_(_its_own(tenant_id, agent_id, upto), private)


def _once_private(tenant_id: str, agent_id: str, upto: Highest) -> sa.ColumnElement[bool]:
    """Versions of memories that all may see today."""
    shared = memories.c.visibility != MemoryVisibility.PRIVATE
    private = memory_versions.c.visibility == MemoryVisibility.PRIVATE
    return sa.and_(
        memory_versions.c.memory_key == memories.c.memory_key, _its_own(tenant_id, agent_id, upto), shared, private
    )


def _its_own(tenant_id: str, agent_id: str, upto: Highest) -> sa.ColumnElement[Any]:
    return sa.and_(
        memories.c.tenant_id == tenant_id, memories.c.agent_id == agent_id, memories.c.memory_key <= upto.memory_key
    )
