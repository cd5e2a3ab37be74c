"""Segments with their vectors, and which of them the semantic tier holds."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.lineages import held_elsewhere
from memory.adapters.sql.statements import Lookup, one_of, parts, unindexed, upsert
from memory.adapters.sql.tables import clusters, events, memories, segments, sessions
from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.segments import NewSegment, PendingSegment, Span, TierSegment
from memory.domain.sessions import Session

_TIER_COLUMNS = (
    segments.c.segment_key,
    segments.c.item,
    segments.c.seq,
    segments.c.turn,
    segments.c.audience,
    segments.c.vector,
    segments.c.cluster_key,
    segments.c.uses,
    segments.c.last_use,
    segments.c.used_seq,
    (segments.c.char_end - segments.c.char_start).label("characters"),
)


_HELD = Lookup(sa.select(segments.c.item).where(segments.c.semantic.is_(True)), segments.c.item)


class SqlSegments:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, tenant_id: str, space: str, added: Sequence[NewSegment], now: datetime) -> None:
        if not added:
            return
        values = insertable(tenant_id, space, added, now)
        await self._db.execute(upsert(self._db, segments).on_conflict_do_nothing(), values)

    async def remove_items(self, *items: ItemId) -> int:
        return (await self._db.execute(segments.delete().where(one_of(self._db, segments.c.item, items)))).rowcount

    async def pending(self, tenant_id: str, space: str, session_key: int | None, limit: int) -> list[PendingSegment]:
        query = sa.select(segments).where(segments.c.vector.is_(None))
        if session_key is not None:
            of_session = (segments.c.session_key == session_key, segments.c.space == space, segments.c.item % 2 == 0)
            return await self._with_texts(query.where(*of_session).order_by(segments.c.segment_key).limit(limit))
        tenant, in_space, key = (unindexed(self._db, segments.c[n]) for n in ("tenant_id", "space", "segment_key"))
        of_memories = (tenant == tenant_id, in_space == space, segments.c.item % 2 == 1)
        return await self._with_texts(query.where(*of_memories).order_by(key).limit(limit))

    async def vectors_by_hash(self, tenant_id: str, space: str, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for part in parts(list(hashes)):
            query = sa.select(segments.c.content_hash, segments.c.vector).where(
                segments.c.tenant_id == tenant_id,
                segments.c.space == space,
                segments.c.content_hash.in_(part),
                segments.c.vector.is_not(None),
            )
            found |= {row.content_hash: row.vector for row in await self._db.execute(query)}
        return found

    async def set_vectors(self, vectors: Mapping[int, bytes], now: datetime) -> None:
        if not vectors:
            return
        statement = (
            segments.update()
            .where(segments.c.segment_key == sa.bindparam("key"), segments.c.vector.is_(None))
            .values(vector=sa.bindparam("new_vector"), last_use=now)
        )
        await self._db.execute(statement, [{"key": k, "new_vector": v} for k, v in vectors.items()])

    async def sign(self, space: str, signatures: Mapping[ItemId, int]) -> None:
        if not signatures:
            return
        statement = segments.update().where(
            segments.c.item == sa.bindparam("signed_item"), segments.c.space == space, segments.c.ordinal == 0
        )
        values = [{"signed_item": item, "signed": signature} for item, signature in signatures.items()]
        await self._db.execute(statement.values(signature=sa.bindparam("signed")), values)

    async def signatures(self, tenant_id: str, space: str, after_key: int) -> list[tuple[int, ItemId, int]]:
        query = sa.select(segments.c.segment_key, segments.c.item, segments.c.signature).where(
            segments.c.tenant_id == tenant_id,
            segments.c.segment_key > after_key,
            segments.c.signature.is_not(None),
            segments.c.space == space,
        )
        found = await self._db.execute(query.order_by(segments.c.segment_key))
        return [(row.segment_key, row.item, row.signature) for row in found]

    async def newest(self, session_key: int, space: str, limit: int) -> list[TierSegment]:
        return await self._tier(session_key, space, segments.c.semantic.is_(None), limit)

    async def held(self, session_key: int, space: str) -> list[TierSegment]:
        return await self._tier(session_key, space, segments.c.semantic.is_(True))

    async def held_elsewhere(self, session: Session, space: str) -> list[TierSegment]:
        if not session.inherited:
            return []
        query = sa.select(*_TIER_COLUMNS).where(
            held_elsewhere(session), segments.c.space == space, segments.c.vector.is_not(None)
        )
        return [rows.tier_segment(row) for row in await self._db.execute(query.order_by(segments.c.segment_key))]

    async def since_turn(self, session_key: int, space: str, turn: int) -> int:
        query = sa.select(sa.func.count()).where(
            segments.c.session_key == session_key,
            segments.c.item % 2 == 0,
            segments.c.space == space,
            segments.c.vector.is_not(None),
            segments.c.turn > turn,
        )
        return (await self._db.execute(query)).scalar_one()

    async def hold(self, assignment: Mapping[int, int | None]) -> None:
        if not assignment:
            return
        statement = (
            segments.update()
            .where(segments.c.segment_key == sa.bindparam("key"))
            .values(cluster_key=sa.bindparam("cluster"), semantic=sa.bindparam("held"))
        )
        values = [{"key": k, "cluster": c, "held": c is not None} for k, c in assignment.items()]
        await self._db.execute(statement, values)

    async def unsee(self, session_key: int, space: str | None) -> None:
        statement = segments.update().where(segments.c.session_key == session_key)
        if space is not None:
            statement = statement.where(segments.c.space == space)
        await self._db.execute(statement.values(cluster_key=None, semantic=None))

    async def used(self, uses: Mapping[ItemId, int], now: datetime) -> None:
        if not uses:
            return
        log = sa.select(sessions.c.last_seq).where(sessions.c.session_key == segments.c.session_key)
        statement = (
            segments.update()
            .where(segments.c.item == sa.bindparam("used"), segments.c.semantic.is_(True))
            .values(uses=segments.c.uses + sa.bindparam("times"), last_use=now, used_seq=log.scalar_subquery())
        )
        await self._db.execute(statement, [{"used": item, "times": times} for item, times in sorted(uses.items())])

    async def held_items(self, items: Sequence[ItemId]) -> set[ItemId]:
        return {row.item for row in await _HELD.rows(self._db, items)}

    async def spans(self, space: str, items: Sequence[ItemId]) -> dict[ItemId, list[tuple[Span, bytes | None]]]:
        query = sa.select(segments.c.item, segments.c.char_start, segments.c.char_end, segments.c.vector).where(
            one_of(self._db, segments.c.item, items), segments.c.space == space
        )
        found: dict[ItemId, list[tuple[Span, bytes | None]]] = {}
        for row in await self._db.execute(query.order_by(segments.c.item, segments.c.ordinal)):
            found.setdefault(row.item, []).append((Span(row.char_start, row.char_end), row.vector))
        return found

    async def spans_of(self, segment_keys: Sequence[int]) -> dict[int, Span]:
        query = sa.select(segments.c.segment_key, segments.c.char_start, segments.c.char_end)
        found = await self._db.execute(query.where(one_of(self._db, segments.c.segment_key, segment_keys)))
        return {row.segment_key: Span(row.char_start, row.char_end) for row in found}

    async def counts(self, tenant_id: str) -> dict[str, int]:
        """Each by an index that has nothing else: to read the rows of a million would take a minute."""
        total = sa.select(sa.func.count()).where(segments.c.tenant_id == tenant_id)
        pending = sa.select(sa.func.count()).where(
            unindexed(self._db, segments.c.tenant_id) == tenant_id, segments.c.vector.is_(None)
        )
        in_clusters = segments.join(clusters, clusters.c.cluster_key == segments.c.cluster_key)
        in_sessions = in_clusters.join(sessions, sessions.c.session_key == clusters.c.session_key)
        held = sa.select(sa.func.count()).select_from(in_sessions).where(sessions.c.tenant_id == tenant_id)
        queries = {"segments": total, "pending": pending, "held": held}
        return {name: (await self._db.execute(query)).scalar_one() for name, query in queries.items()}

    async def _tier(
        self, session_key: int, space: str, condition: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[TierSegment]:
        query = sa.select(*_TIER_COLUMNS).where(
            segments.c.session_key == session_key,
            segments.c.item % 2 == 0,
            segments.c.space == space,
            segments.c.vector.is_not(None),
            condition,
        )
        query = query.order_by(segments.c.segment_key).limit(limit)
        return [rows.tier_segment(row) for row in await self._db.execute(query)]

    async def _with_texts(self, query: sa.Select[Any]) -> list[PendingSegment]:
        found = list(await self._db.execute(query))
        texts = await self._texts([row.item for row in found])
        return [
            PendingSegment(
                row.segment_key,
                row.item,
                row.ordinal,
                row.seq,
                row.content_hash,
                texts[row.item][row.char_start : row.char_end],
            )
            for row in found
            if row.item in texts  # purged in between: its segments are about to go as well
        ]

    async def _texts(self, items: Sequence[ItemId]) -> dict[ItemId, str]:
        texts: dict[ItemId, str] = {}
        for key, text, table, odd in (
            (events.c.event_key, events.c.content, events, 0),
            (memories.c.memory_key, memories.c.text, memories, 1),
        ):
            wanted = sorted({item_key(item) for item in items if is_memory(item) == bool(odd)})
            if wanted:
                query = sa.select(key, text).select_from(table).where(one_of(self._db, key, wanted))
                texts |= {row[0] * 2 + odd: row[1] for row in await self._db.execute(query)}
        return texts


def insertable(tenant_id: str, space: str, added: Sequence[NewSegment], now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "tenant_id": tenant_id,
            "session_key": s.session_key,
            "item": s.item,
            "ordinal": s.ordinal,
            "seq": s.seq,
            "turn": s.turn,
            "audience": s.audience,
            "char_start": s.span.start,
            "char_end": s.span.end,
            "content_hash": s.content_hash,
            "space": space,
            "last_use": now,
            "used_seq": s.seq,
        }
        for s in added
    ]
