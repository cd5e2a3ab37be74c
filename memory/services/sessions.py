"""Create, fork, read and change sessions; what each tier holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.errors import BeyondTheLog, Forbidden, ForkTooDeep, SessionExists
from memory.domain.lineage import MAX_STRETCHES
from memory.domain.principals import KeyScope, Principal
from memory.domain.sessions import Holdings, NewSession, Session, TierCounts
from memory.ports.jobs import Clock
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.quotas import NO_QUOTA, SessionQuota
from memory.tiers.hot.policy import blocks
from memory.tiers.hot.tier import HotTier


@dataclass(frozen=True, slots=True)
class SessionView:
    """`forked_from`: the session_id of the parent, while it exists and the caller may reach it."""

    session: Session
    tiers: TierCounts
    forked_from: str | None = None


class Sessions:
    def __init__(self, storage: Storage, hot: HotTier, clock: Clock, quota: SessionQuota = NO_QUOTA) -> None:
        self._storage = storage
        self._quota = quota
        self._hot = hot
        self._clock = clock

    async def create(self, principal: Principal, new: NewSession) -> SessionView:
        """Raises SessionExists, QuotaExceeded, and Forbidden for a key that may only reach other sessions."""
        _check_name(principal, new.session_id)
        async with self._storage.write() as tx:
            now = self._clock.now()
            await self._quota.check(tx, principal.tenant_id)
            await tx.tenants.secret(principal.tenant_id, now)  # a session belongs to a tenant that exists
            session = _made(new.session_id, await tx.sessions.create(principal.tenant_id, new, now))
        return SessionView(session, TierCounts(0, 0, 0, 0, 0))

    async def fork(self, principal: Principal, session_id: str, fork_id: str, at_seq: int | None) -> SessionView:
        """A session of its own that begins with the log up to `at_seq` (None: all of it). No row of it is copied.

        Raises NotFound, BeyondTheLog, SessionExists, ForkTooDeep, QuotaExceeded, and Forbidden as `create`.
        """
        access.check_reach(principal, session_id)
        _check_name(principal, fork_id)
        async with self._storage.write() as tx:
            parent = await access.locked(tx, principal, session_id, AgentRole.READER)
            await tx.tenants.secret(principal.tenant_id, self._clock.now())
            await self._quota.check(tx, principal.tenant_id)
            seq = parent.last_seq if at_seq is None else at_seq
            if seq > parent.last_seq:
                raise BeyondTheLog(f"'{session_id}' ends at seq {parent.last_seq}", last_seq=parent.last_seq)
            size = await tx.events.size(parent, seq)
            keys = sorted({stretch.session_key for stretch in parent.lineage.stretches})
            inherited = parent.lineage.up_to(seq, size.shared_tokens, await tx.memories.last_of(keys, seq))
            if len(inherited) > MAX_STRETCHES:
                raise ForkTooDeep(f"'{session_id}' is a fork of a fork … {MAX_STRETCHES} times: fork an earlier one")
            now = self._clock.now()
            session = _made(fork_id, await tx.sessions.fork(parent, fork_id, size, inherited, now))
            if parent.closed:  # else nobody could come in, or a fork would open it
                await tx.agents.inherit(parent.session_key, session.session_key, now)
            counts = await self._counts(tx, session, await tx.sessions.inherited_holdings(session))
            return SessionView(session, counts, forked_from=session_id)

    async def get(self, principal: Principal, session_id: str) -> SessionView:
        """Raises NotFound."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
            return (await self._views(tx, principal, [session]))[0]

    async def page(self, principal: Principal, *, after_key: int | None, limit: int) -> list[SessionView]:
        """Newest first."""
        async with self._storage.read() as tx:
            found = await tx.sessions.page(principal.tenant_id, after_key=after_key, limit=limit, reach=principal.reach)
            return await self._views(tx, principal, found)

    async def all(
        self, principal: Principal, *, named: str | None, after_key: int | None, limit: int
    ) -> list[SessionView]:
        """Newest first, for operators: also those that are closed to the caller, of which no title is shown.

        `named`: with this in the session_id, or in a title that the caller may read.
        """
        reads = KeyScope.READ in principal.scopes
        reach = principal.reach if principal.limited else None
        async with self._storage.read() as tx:
            found = await tx.sessions.page(
                principal.tenant_id, after_key=after_key, limit=limit, reach=reach, named=named, titles=reads
            )
            shown = [s if reads and not s.closed else replace(s, title=None, metadata={}) for s in found]
            return await self._views(tx, principal, shown)

    async def update(
        self, principal: Principal, session_id: str, changes: Mapping[str, Any], *, if_match: str | None
    ) -> SessionView:
        """`changes`: title, metadata, window_tokens. Raises NotFound and PreconditionFailed."""
        async with self._storage.write() as tx:
            session = await access.locked(tx, principal, session_id)
            access.check_unchanged(if_match, session.etag)
            if changes:
                session = await tx.sessions.update(session, changes, self._clock.now())
            return (await self._views(tx, principal, [session]))[0]

    async def _views(self, tx: UnitOfWork, principal: Principal, sessions: Sequence[Session]) -> list[SessionView]:
        holdings = await tx.sessions.holdings(sessions)
        parents = await tx.sessions.by_keys({s.parent_key for s in sessions if s.parent_key is not None})
        views = []
        for session in sessions:
            parent = parents.get(session.parent_key or 0)
            named = parent.session_id if parent is not None and principal.may_reach(parent.session_id) else None
            counts = await self._counts(tx, session, holdings[session.session_key])
            views.append(SessionView(session, counts, named))
        return views

    async def _counts(self, tx: UnitOfWork, session: Session, holdings: Holdings) -> TierCounts:
        tokens = await self._hot.tokens(tx, session)
        return TierCounts(
            hot_tokens=tokens,
            hot_blocks=blocks(tokens),
            semantic_segments=holdings.segments,
            semantic_clusters=holdings.clusters,
            longterm_memories=session.event_count + holdings.memories,
        )


def _check_name(principal: Principal, session_id: str) -> None:
    if not principal.may_reach(session_id):
        raise Forbidden(f"this key can't reach a session '{session_id}'")


def _made(session_id: str, session: Session | None) -> Session:
    if session is None:
        raise SessionExists(f"the session '{session_id}' exists", session_id=session_id)
    return session
