"""Sessions: their rows, their counters and what each tier holds of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.agents import within
from memory.adapters.sql.lineages import along, held_elsewhere, memories_in_any, stored
from memory.adapters.sql.statements import Lookup, one_of, upsert
from memory.adapters.sql.tables import (
    clusters,
    coded_segments,
    codes,
    events,
    idempotency,
    memories,
    moves,
    operations,
    segments,
    session_agents,
    sessions,
    summaries,
    tenants,
)
from memory.domain.events import EventVisibility
from memory.domain.lineage import Lineage, Stretch
from memory.domain.principals import Reach
from memory.domain.sessions import Holdings, LogSize, NewSession, Session

# Made once: building a statement costs more than running it, and an append runs these.
_BY_ID = sa.select(sessions).where(
    sessions.c.tenant_id == sa.bindparam("tenant_id"), sessions.c.session_id == sa.bindparam("session_id")
)
_BY_KEYS = Lookup(sa.select(sessions), sessions.c.session_key)
# Who writes finds no session of a tenant that is being purged: its rows would grow while they are taken away.
_OF_A_STANDING_TENANT = ~sa.exists().where(tenants.c.tenant_id == sessions.c.tenant_id, tenants.c.purging.is_not(None))
_BY_ID_LOCKED = _BY_ID.where(_OF_A_STANDING_TENANT).with_for_update()
_ALL_LOCKED = (
    sa.select(sessions)
    .where(
        sa.tuple_(sessions.c.tenant_id, sessions.c.session_id).in_(sa.bindparam("names", expanding=True)),
        _OF_A_STANDING_TENANT,
    )
    .order_by(sessions.c.session_key)
    .with_for_update()
)
_COPIED = ("tenant_id", "title", "metadata", "window_tokens", "semantic_turns", "closed")
_ADVANCED = ("last_seq", "event_count", "token_count", "shared_tokens", "turns")
_ADVANCE = (
    sessions.update()
    .where(sessions.c.session_key == sa.bindparam("key"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*_ADVANCED, "updated_at")})
)


class SqlSessions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def create(self, tenant_id: str, new: NewSession, now: datetime) -> Session | None:
        statement = upsert(self._db, sessions).values(
            tenant_id=tenant_id,
            session_id=new.session_id,
            title=new.title,
            metadata=new.metadata,
            window_tokens=new.window_tokens,
            semantic_turns=new.semantic_turns,
            created_at=now,
            updated_at=now,
        )
        statement = statement.on_conflict_do_nothing(index_elements=["tenant_id", "session_id"])
        return await self._one(statement.returning(sessions))

    async def fork(
        self, parent: Session, session_id: str, size: LogSize, inherited: Sequence[Stretch], now: datetime
    ) -> Session | None:
        copied = {name: getattr(parent, name) for name in _COPIED}
        statement = upsert(self._db, sessions).values(
            **copied,
            session_id=session_id,
            created_at=now,
            updated_at=now,
            last_seq=size.last_seq,
            event_count=size.last_seq,
            token_count=size.token_count,
            shared_tokens=size.shared_tokens,
            turns=size.turns,
            segmented_seq=size.last_seq,
            parent_key=parent.session_key,
            family_key=parent.family,
            inherited=stored(inherited),
            inherited_events=size.last_seq,
            inherited_tokens=size.token_count,
            slid_tokens=min(parent.slid_tokens, size.shared_tokens),
        )
        statement = statement.on_conflict_do_nothing(index_elements=["tenant_id", "session_id"])
        return await self._one(statement.returning(sessions))

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        return await self._one(_BY_ID, {"tenant_id": tenant_id, "session_id": session_id})

    async def locked(self, tenant_id: str, session_id: str) -> Session | None:
        return await self._one(_BY_ID_LOCKED, {"tenant_id": tenant_id, "session_id": session_id})

    async def locked_by_key(self, session_key: int) -> Session | None:
        query = sa.select(sessions).where(sessions.c.session_key == session_key)
        return await self._one(query.with_for_update())

    async def by_keys(self, session_keys: Collection[int]) -> dict[int, Session]:
        return {row.session_key: rows.session(row) for row in await _BY_KEYS.rows(self._db, session_keys)}

    async def lineages(self, tenant_id: str, session_ids: Iterable[str] | None, reach: Reach) -> dict[str, Lineage]:
        query = sa.select(sessions.c.session_id, sessions.c.session_key, sessions.c.inherited)
        query = query.where(sessions.c.tenant_id == tenant_id, within(self._db, reach))
        if session_ids is not None:
            query = query.where(one_of(self._db, sessions.c.session_id, session_ids))
        found = await self._db.execute(query)
        return {row.session_id: Lineage(row.session_key, rows.stretches(row.inherited)) for row in found}

    async def page(
        self,
        tenant_id: str,
        *,
        after_key: int | None,
        limit: int,
        reach: Reach | None = None,
        named: str | None = None,
        titles: bool = False,
    ) -> list[Session]:
        query = sa.select(sessions).where(sessions.c.tenant_id == tenant_id)
        if after_key is not None:
            query = query.where(sessions.c.session_key < after_key)
        if reach is not None:
            query = query.where(within(self._db, reach))
        if named is not None:
            found = sessions.c.session_id.icontains(named, autoescape=True)
            entitled = sa.and_(sessions.c.title.icontains(named, autoescape=True), ~sessions.c.closed)
            query = query.where(sa.or_(found, entitled) if titles else found)
        query = query.order_by(sessions.c.session_key.desc()).limit(limit)
        return [rows.session(row) for row in await self._db.execute(query)]

    async def update(self, session: Session, changes: Mapping[str, Any], now: datetime) -> Session:
        statement = sessions.update().where(sessions.c.session_key == session.session_key)
        updated = await self._one(
            statement.values(**changes, updated_at=now, version=session.version + 1).returning(sessions)
        )
        assert updated is not None
        return updated

    async def all_locked(self, names: Sequence[tuple[str, str]]) -> list[Session]:
        if len(names) == 1:
            found = await self.locked(*names[0])
            return [] if found is None else [found]
        return [rows.session(row) for row in await self._db.execute(_ALL_LOCKED, {"names": list(names)})]

    async def advance(self, grown: Sequence[Session], now: datetime) -> None:
        values = [
            {"key": session.session_key, "new_updated_at": now}
            | {f"new_{name}": getattr(session, name) for name in _ADVANCED}
            for session in grown
        ]
        await self._db.execute(_ADVANCE, values if len(values) > 1 else values[0])

    async def mark_segmented(self, session_key: int, seq: int) -> None:
        await self._db.execute(
            sessions.update()
            .where(sessions.c.session_key == session_key, sessions.c.segmented_seq < seq)
            .values(segmented_seq=seq)
        )

    async def mark_slid(self, session_key: int, tokens: int) -> None:
        await self._db.execute(
            sessions.update().where(sessions.c.session_key == session_key).values(slid_tokens=tokens)
        )

    async def bump_semantic(self, session_key: int) -> None:
        await self._db.execute(
            sessions.update()
            .where(sessions.c.session_key == session_key)
            .values(semantic_version=sessions.c.semantic_version + 1)
        )

    async def holdings(self, found: Sequence[Session]) -> dict[int, Holdings]:
        memories_of = await self._counts(memories.c.session_key, found)
        segments_of = await self._counts(segments.c.session_key, found, segments.c.semantic)
        clusters_of = await self._counts(clusters.c.session_key, found)
        own = {
            key: Holdings(memories_of.get(key, 0), segments_of.get(key, 0), clusters_of.get(key, 0))
            for key in (session.session_key for session in found)
        }
        return own | {
            s.session_key: own[s.session_key] + await self.inherited_holdings(s) for s in found if s.inherited
        }

    async def inherited_holdings(self, session: Session) -> Holdings:
        of_memories = sa.select(sa.func.count()).where(memories_in_any(session.lineage.elsewhere))
        held = (sa.func.count(), sa.func.count(segments.c.cluster_key.distinct()))
        query = sa.select(of_memories.scalar_subquery(), *held).select_from(segments).where(held_elsewhere(session))
        return Holdings(*(await self._db.execute(query)).one())

    async def window_start(self, lineage: Lineage, token_start: int) -> int | None:
        """The place of the first shared event at or after `token_start` on the token axis."""
        query = sa.select(events.c.token_start).where(
            events.c.token_start >= token_start, events.c.visibility == EventVisibility.SESSION
        )
        stretches = lineage.from_token(token_start)
        first = await along(self._db, query, stretches, events.c.session_key, events.c.seq, limit=1)
        return first[0].token_start if first else None

    async def redacted(self, session_key: int, count: int = 1) -> None:
        more = {"redactions": sessions.c.redactions + count, "semantic_version": sessions.c.semantic_version + 1}
        await self._db.execute(sessions.update().where(sessions.c.session_key == session_key).values(more))

    async def all_redactions(self, tenant_id: str) -> int:
        total = sa.func.coalesce(sa.func.sum(sessions.c.redactions), 0)
        return int((await self._db.execute(sa.select(total).where(sessions.c.tenant_id == tenant_id))).scalar_one())

    async def family_locked(self, session: Session) -> list[Session]:
        of_family = sa.or_(sessions.c.family_key == session.family, sessions.c.session_key == session.family)
        query = sa.select(sessions).where(of_family).order_by(sessions.c.session_key).with_for_update()
        known: list[Session] = []
        while True:
            # A fork that was being made while we waited is seen by the next look; of those we hold, nobody makes any.
            found = [rows.session(row) for row in await self._db.execute(query)]
            if len(found) == len(known):
                return found
            known = found

    async def set_descent(self, session: Session) -> None:
        values = {"parent_key": session.parent_key, "inherited": stored(session.inherited)}
        await self._db.execute(sessions.update().where(sessions.c.session_key == session.session_key).values(**values))

    async def hand_over(self, session: Session, heir: int, share: Stretch) -> dict[str, int]:
        key, last = session.session_key, share.last_seq
        log = sa.and_(events.c.session_key == key, events.c.seq <= last)
        pieces = sa.and_(segments.c.session_key == key, segments.c.item % 2 == 0, segments.c.seq <= last)
        of_memories = sa.and_(segments.c.session_key == key, segments.c.item % 2 == 1)
        vectors = sa.and_(sa.or_(pieces, of_memories), segments.c.vector.is_not(None))
        tokens = sa.select(sa.func.coalesce(sa.func.sum(events.c.token_count), 0)).where(log)
        size = int((await self._db.execute(tokens)).scalar_one())
        kept = {"vectors": await self._count(segments, vectors)}
        redactions = await self._count(events, sa.and_(log, events.c.redacted))
        kept["events"] = await self._move(events, log, heir)
        # The clusters hold what goes as well: the heir's tier takes the segments in anew.
        kept["segments"] = await self._move(segments, pieces, heir, cluster_key=None, semantic=None)
        kept["segments"] += await self._move(segments, of_memories, heir)
        kept["memories"] = await self._move(memories, memories.c.session_key == key, heir)
        answered = sa.and_(idempotency.c.session_key == key, idempotency.c.last_seq <= last)
        await self._move(idempotency, answered, heir)
        cut: sa.ColumnElement[int] = sessions.c.segmented_seq
        if session.segmented_seq < last:  # the rest of it is cut as the heir's
            cut = sa.case((cut > session.segmented_seq, session.segmented_seq), else_=cut)
        changed = {
            "inherited_events": sessions.c.inherited_events - kept["events"],
            "inherited_tokens": sessions.c.inherited_tokens - size,
            "segmented_seq": cut,
            "semantic_version": sessions.c.semantic_version + 1,
            "redactions": sessions.c.redactions + redactions,
        }
        await self._db.execute(sessions.update().where(sessions.c.session_key == heir).values(**changed))
        return kept

    async def _move(self, table: sa.Table, condition: sa.ColumnElement[bool], heir: int, **changes: Any) -> int:
        moved = await self._db.execute(table.update().where(condition).values(session_key=heir, **changes))
        return moved.rowcount

    async def purge(self, session_key: int) -> dict[str, int]:
        of_session = segments.c.session_key == session_key
        counts = {"vectors": await self._count(segments, sa.and_(of_session, segments.c.vector.is_not(None)))}
        # Children first: foreign keys are enforced.
        coded = sa.select(codes.c.code_key).where(codes.c.session_key == session_key)
        await self._db.execute(coded_segments.delete().where(coded_segments.c.code_key.in_(coded)))
        await self._db.execute(codes.delete().where(codes.c.session_key == session_key))
        for name, table in (
            ("segments", segments),
            ("clusters", clusters),
            ("summaries", summaries),
            ("moves", moves),
            ("events", events),
        ):
            deleted = await self._db.execute(table.delete().where(table.c.session_key == session_key))
            counts[name] = deleted.rowcount
        for table in (idempotency, operations, session_agents, sessions):
            await self._db.execute(table.delete().where(table.c.session_key == session_key))
        return counts

    async def count(self, tenant_id: str) -> int:
        query = sa.select(sa.func.count()).where(sessions.c.tenant_id == tenant_id)
        return int((await self._db.execute(query)).scalar_one())

    async def totals(self, tenant_id: str) -> dict[str, int]:
        query = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(sessions.c.event_count - sessions.c.inherited_events), 0),
            sa.func.coalesce(sa.func.sum(sessions.c.token_count - sessions.c.inherited_tokens), 0),
        ).where(sessions.c.tenant_id == tenant_id)
        row = (await self._db.execute(query)).one()
        return {"sessions": row[0], "events": int(row[1]), "tokens": int(row[2])}

    async def _one(self, statement: Any, values: Mapping[str, Any] | None = None) -> Session | None:
        row = (await self._db.execute(statement, values)).one_or_none()
        return None if row is None else rows.session(row)

    async def _counts(self, column: sa.Column[Any], found: Sequence[Session], *conditions: Any) -> dict[int, int]:
        """By session_key, of its own rows."""
        keys = [session.session_key for session in found]
        query = sa.select(column, sa.func.count()).where(one_of(self._db, column, keys), *conditions)
        return {row[0]: row[1] for row in await self._db.execute(query.group_by(column))}

    async def _count(self, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(condition)
        return (await self._db.execute(query)).scalar_one()
