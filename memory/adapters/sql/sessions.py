"""Sessions: their rows, their counters and what each tier holds of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import Lookup, one_of, upsert
from memory.adapters.sql.tables import (
    clusters,
    events,
    idempotency,
    memories,
    operations,
    segments,
    sessions,
    summaries,
)
from memory.domain.events import EventVisibility
from memory.domain.sessions import NewSession, Session

# Made once: building a statement costs more than running it, and an append runs these.
_BY_ID = sa.select(sessions).where(
    sessions.c.tenant_id == sa.bindparam("tenant_id"), sessions.c.session_id == sa.bindparam("session_id")
)
_BY_KEYS = Lookup(sa.select(sessions), sessions.c.session_key)
_BY_ID_LOCKED = _BY_ID.with_for_update()
_ALL_LOCKED = (
    sa.select(sessions)
    .where(sa.tuple_(sessions.c.tenant_id, sessions.c.session_id).in_(sa.bindparam("names", expanding=True)))
    .order_by(sessions.c.session_key)
    .with_for_update()
)
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

    async def get(self, tenant_id: str, session_id: str) -> Session | None:
        return await self._one(_BY_ID, {"tenant_id": tenant_id, "session_id": session_id})

    async def locked(self, tenant_id: str, session_id: str) -> Session | None:
        return await self._one(_BY_ID_LOCKED, {"tenant_id": tenant_id, "session_id": session_id})

    async def locked_by_key(self, session_key: int) -> Session | None:
        query = sa.select(sessions).where(sessions.c.session_key == session_key)
        return await self._one(query.with_for_update())

    async def by_keys(self, session_keys: Collection[int]) -> dict[int, Session]:
        return {row.session_key: rows.session(row) for row in await _BY_KEYS.rows(self._db, session_keys)}

    async def keys_of(self, tenant_id: str, session_ids: Iterable[str]) -> dict[str, int]:
        query = sa.select(sessions.c.session_id, sessions.c.session_key).where(
            sessions.c.tenant_id == tenant_id, one_of(self._db, sessions.c.session_id, session_ids)
        )
        return {row.session_id: row.session_key for row in await self._db.execute(query)}

    async def page(
        self, tenant_id: str, *, after_key: int | None, limit: int, only: frozenset[str] | None
    ) -> list[Session]:
        query = sa.select(sessions).where(sessions.c.tenant_id == tenant_id)
        if after_key is not None:
            query = query.where(sessions.c.session_key < after_key)
        if only is not None:
            query = query.where(one_of(self._db, sessions.c.session_id, only))
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

    async def bump_semantic(self, session_key: int) -> None:
        await self._db.execute(
            sessions.update()
            .where(sessions.c.session_key == session_key)
            .values(semantic_version=sessions.c.semantic_version + 1)
        )

    async def memories_of(self, session_keys: Iterable[int]) -> dict[int, int]:
        return await self._counts(memories.c.session_key, session_keys)

    async def held_segments(self, session_keys: Iterable[int]) -> dict[int, int]:
        return await self._counts(segments.c.session_key, session_keys, segments.c.semantic)

    async def clusters_of(self, session_keys: Iterable[int]) -> dict[int, int]:
        return await self._counts(clusters.c.session_key, session_keys)

    async def window_start(self, session_key: int, token_start: int) -> int | None:
        """The place of the first shared event at or after `token_start` on the token axis."""
        query = sa.select(sa.func.min(events.c.token_start)).where(
            events.c.session_key == session_key,
            events.c.token_start >= token_start,
            events.c.visibility == EventVisibility.SESSION,
        )
        start: int | None = (await self._db.execute(query)).scalar_one()
        return start

    async def purge(self, session_key: int) -> dict[str, int]:
        of_session = segments.c.session_key == session_key
        vectors = sa.select(sa.func.count()).where(of_session, segments.c.vector.is_not(None))
        counts = {"vectors": (await self._db.execute(vectors)).scalar_one()}
        # Children first: foreign keys are enforced.
        for name, table in (
            ("segments", segments),
            ("clusters", clusters),
            ("summaries", summaries),
            ("events", events),
        ):
            deleted = await self._db.execute(table.delete().where(table.c.session_key == session_key))
            counts[name] = deleted.rowcount
        for table in (idempotency, operations, sessions):
            await self._db.execute(table.delete().where(table.c.session_key == session_key))
        return counts

    async def totals(self, tenant_id: str) -> dict[str, int]:
        query = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(sessions.c.event_count), 0),
            sa.func.coalesce(sa.func.sum(sessions.c.token_count), 0),
        ).where(sessions.c.tenant_id == tenant_id)
        row = (await self._db.execute(query)).one()
        return {"sessions": row[0], "events": int(row[1]), "tokens": int(row[2])}

    async def _one(self, statement: Any, values: Mapping[str, Any] | None = None) -> Session | None:
        row = (await self._db.execute(statement, values)).one_or_none()
        return None if row is None else rows.session(row)

    async def _counts(self, column: sa.Column[Any], session_keys: Iterable[int], *conditions: Any) -> dict[int, int]:
        query = sa.select(column, sa.func.count()).where(one_of(self._db, column, session_keys), *conditions)
        return {row[0]: row[1] for row in await self._db.execute(query.group_by(column))}
