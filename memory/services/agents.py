"""Who takes part in a session? From the first agent that is listed on, nobody else reads it or writes to it."""

import logging

from memory.domain.agents import MAX_AGENTS, AgentRole, SessionAgent
from memory.domain.errors import GeneratorUnavailable, NotFound, TooLarge
from memory.domain.principals import KeyScope, Principal
from memory.ports.jobs import Clock
from memory.ports.kv import KVStore
from memory.ports.notices import Notices
from memory.ports.storage import Storage
from memory.services import access

logger = logging.getLogger(__name__)


class Agents:
    def __init__(self, storage: Storage, clock: Clock, kv: KVStore, notices: Notices) -> None:
        self._storage = storage
        self._notices = notices
        self._clock = clock
        self._kv = kv

    async def put(self, principal: Principal, session_id: str, agent_id: str, role: AgentRole) -> SessionAgent:
        """Lists it, or gives it another role. Raises NotFound, Forbidden, TooLarge."""
        async with self._storage.write() as tx:
            session = await access.managed(tx, principal, session_id)
            known = await tx.agents.roles(session.session_key, [agent_id])
            if not known and await tx.agents.count(session.session_key) >= MAX_AGENTS:
                raise TooLarge(f"a session lists {MAX_AGENTS:,} agents at most: remove one first")
            listed = await tx.agents.put(session.session_key, agent_id, role, self._clock.now())
        if not session.closed:
            await self._leave_the_tenant_s_kv(principal.tenant_id, session_id)
        self._notices.changed([session.session_key])  # a stream of somebody who is not listed ends
        return listed

    async def page(self, principal: Principal, session_id: str, *, after: str | None, limit: int) -> list[SessionAgent]:
        """By agent_id; those who take part may know who else does. Raises NotFound and Forbidden."""
        async with self._storage.read() as tx:
            session = await access.any_session(tx, principal, session_id)
            if KeyScope.ADMIN not in principal.scopes:
                await access.check_roles(tx, session, [principal.agent_id], AgentRole.READER)
            return await tx.agents.page(session.session_key, after=after, limit=limit)

    async def remove(self, principal: Principal, session_id: str, agent_id: str) -> None:
        """The session stays closed, also when nobody is left. An agent may leave by itself.

        Raises NotFound and Forbidden.
        """
        async with self._storage.write() as tx:
            if agent_id == principal.agent_id:
                session = await access.any_session(tx, principal, session_id)
            else:
                session = await access.managed(tx, principal, session_id)
            if not await tx.agents.remove(session.session_key, agent_id):
                raise NotFound(f"'{session_id}' lists no agent '{agent_id}'")
        self._notices.changed([session.session_key])

    async def _leave_the_tenant_s_kv(self, tenant_id: str, session_id: str) -> None:
        """What was computed while the session was open could be told by whoever sends the same tokens."""
        try:
            await self._kv.drop(tenant_id, session_id)
        except GeneratorUnavailable as error:
            logger.warning("the KV of a session that was closed is kept until room is needed: %s", error.detail)
