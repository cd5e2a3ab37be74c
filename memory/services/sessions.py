"""Create, read and change sessions; what each tier holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory.domain.errors import Forbidden, SessionExists
from memory.domain.principals import Principal
from memory.domain.sessions import NewSession, Session, TierCounts
from memory.ports.jobs import Clock
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.tiers.hot.policy import blocks
from memory.tiers.hot.tier import HotTier


@dataclass(frozen=True, slots=True)
class SessionView:
    session: Session
    tiers: TierCounts


class Sessions:
    def __init__(self, storage: Storage, hot: HotTier, clock: Clock) -> None:
        self._storage = storage
        self._hot = hot
        self._clock = clock

    async def create(self, principal: Principal, new: NewSession) -> SessionView:
        """Raises SessionExists, and Forbidden for a key that may only reach other sessions."""
        if not principal.may_reach(new.session_id):
            raise Forbidden(f"this key can't reach a session '{new.session_id}'")
        async with self._storage.write() as tx:
            now = self._clock.now()
            await tx.tenants.secret(principal.tenant_id, now)  # a session belongs to a tenant that exists
            session = await tx.sessions.create(principal.tenant_id, new, now)
            if session is None:
                raise SessionExists(f"the session '{new.session_id}' exists", session_id=new.session_id)
        return SessionView(session, TierCounts(0, 0, 0, 0, 0))

    async def get(self, principal: Principal, session_id: str) -> SessionView:
        """Raises NotFound."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
            return (await self._views(tx, [session]))[0]

    async def page(self, principal: Principal, *, after_key: int | None, limit: int) -> list[SessionView]:
        """Newest first."""
        async with self._storage.read() as tx:
            found = await tx.sessions.page(
                principal.tenant_id, after_key=after_key, limit=limit, only=principal.session_ids
            )
            return await self._views(tx, found)

    async def update(
        self, principal: Principal, session_id: str, changes: Mapping[str, Any], *, if_match: str | None
    ) -> SessionView:
        """`changes`: title, metadata, window_tokens. Raises NotFound and PreconditionFailed."""
        access.check_reach(principal, session_id)
        async with self._storage.write() as tx:
            await access.session(tx, principal, session_id)
            session = await tx.sessions.locked(principal.tenant_id, session_id)
            assert session is not None
            access.check_unchanged(if_match, session.etag)
            if changes:
                session = await tx.sessions.update(session, changes, self._clock.now())
            return (await self._views(tx, [session]))[0]

    async def _views(self, tx: UnitOfWork, sessions: Sequence[Session]) -> list[SessionView]:
        keys = [session.session_key for session in sessions]
        memories = await tx.sessions.memories_of(keys)
        segments = await tx.sessions.held_segments(keys)
        clusters = await tx.sessions.clusters_of(keys)
        views = []
        for session in sessions:
            tokens, key = await self._hot.tokens(tx, session), session.session_key
            counts = TierCounts(
                hot_tokens=tokens,
                hot_blocks=blocks(tokens),
                semantic_segments=segments.get(key, 0),
                semantic_clusters=clusters.get(key, 0),
                longterm_memories=session.event_count + memories.get(key, 0),
            )
            views.append(SessionView(session, counts))
        return views
