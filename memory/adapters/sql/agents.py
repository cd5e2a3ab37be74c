"""Agents listed in sessions; and as a condition: which sessions may an agent read?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.statements import one_of, upsert
from memory.adapters.sql.tables import session_agents, sessions
from memory.domain.agents import AgentRole, SessionAgent
from memory.domain.principals import Reach

_LISTED = (session_agents.c.agent_id, session_agents.c.role, session_agents.c.added_at)
_CLOSED = sa.text("closed")
"""In the words of the partial index."""


def listed(
    session_key: sa.ColumnElement[int], agent_id: str | None, needed: AgentRole = AgentRole.READER
) -> sa.ColumnElement[bool]:
    """Whether the session lists the agent, with that role or more."""
    if agent_id is None:
        return sa.false()
    of_agent = sa.and_(
        session_agents.c.session_key == session_key,
        session_agents.c.agent_id == agent_id,
        session_agents.c.role.in_(needed.enough),
    )
    return sa.exists(sa.select(sa.literal(1)).where(of_agent).correlate(sessions))


def readable(agent_id: str | None, needed: AgentRole = AgentRole.READER) -> sa.ColumnElement[bool]:
    """Of rows of `sessions`: whether the agent may read it, or more. One that an outer join did not find is."""
    is_open = sa.or_(sessions.c.closed.is_(None), sessions.c.closed.is_(sa.false()))
    return sa.or_(is_open, listed(sessions.c.session_key, agent_id, needed))


def within(connection: AsyncConnection, reach: Reach) -> sa.ColumnElement[bool]:
    """Of rows of `sessions`."""
    allowed = readable(reach.agent_id, reach.needed)
    if reach.session_ids is None:
        return allowed
    return sa.and_(one_of(connection, sessions.c.session_id, reach.session_ids), allowed)


class SqlAgents:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def put(self, session_key: int, agent_id: str, role: AgentRole, now: datetime) -> SessionAgent:
        statement = upsert(self._db, session_agents).values(
            session_key=session_key, agent_id=agent_id, role=role, added_at=now
        )
        statement = statement.on_conflict_do_update(index_elements=["session_key", "agent_id"], set_={"role": role})
        row = (await self._db.execute(statement.returning(*_LISTED))).one()
        await self._db.execute(sessions.update().where(sessions.c.session_key == session_key).values(closed=True))
        return _agent(row)

    async def remove(self, session_key: int, agent_id: str) -> bool:
        of_agent = sa.and_(session_agents.c.session_key == session_key, session_agents.c.agent_id == agent_id)
        return (await self._db.execute(session_agents.delete().where(of_agent))).rowcount == 1

    async def page(self, session_key: int, *, after: str | None, limit: int) -> list[SessionAgent]:
        query = sa.select(*_LISTED).where(session_agents.c.session_key == session_key)
        if after is not None:
            query = query.where(session_agents.c.agent_id > after)
        query = query.order_by(session_agents.c.agent_id).limit(limit)
        return [_agent(row) for row in await self._db.execute(query)]

    async def count(self, session_key: int) -> int:
        query = sa.select(sa.func.count()).where(session_agents.c.session_key == session_key)
        return (await self._db.execute(query)).scalar_one()

    async def roles(self, session_key: int, agent_ids: Sequence[str]) -> dict[str, AgentRole]:
        query = sa.select(session_agents.c.agent_id, session_agents.c.role).where(
            session_agents.c.session_key == session_key, one_of(self._db, session_agents.c.agent_id, agent_ids)
        )
        return {row.agent_id: AgentRole(row.role) for row in await self._db.execute(query)}

    async def any_closed_to(self, tenant_id: str, agent_id: str | None) -> bool:
        query = sa.select(sa.literal(1)).select_from(sessions)
        query = query.where(sessions.c.tenant_id == tenant_id, _CLOSED, ~listed(sessions.c.session_key, agent_id))
        return (await self._db.execute(query.limit(1))).first() is not None

    async def inherit(self, parent_key: int, fork_key: int, now: datetime) -> None:
        fork, added_at = sa.literal(fork_key), sa.literal(now, session_agents.c.added_at.type)
        copied = sa.select(fork, session_agents.c.agent_id, session_agents.c.role, added_at)
        copied = copied.where(session_agents.c.session_key == parent_key)
        columns = ["session_key", "agent_id", "role", "added_at"]
        await self._db.execute(session_agents.insert().from_select(columns, copied))


def _agent(row: Any) -> SessionAgent:
    return SessionAgent(row.agent_id, AgentRole(row.role), row.added_at)
