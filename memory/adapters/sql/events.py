"""The append-only log."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import Lookup, one_of, upsert
from memory.adapters.sql.tables import events, idempotency, sessions
from memory.domain.events import Appended, Event, EventVisibility, Extent
from memory.domain.principals import SHARED, private_to

_INSERT = events.insert()
_BY_KEYS = Lookup(sa.select(events), events.c.event_key)
_COLUMNS = tuple(field.name for field in fields(Event) if field.name != "event_key")


class SqlEvents:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, added: Sequence[Event], tokenizer: str) -> None:
        if not added:
            return
        values = [{name: getattr(event, name) for name in _COLUMNS} | {"tokenizer": tokenizer} for event in added]
        await self._db.execute(_INSERT, values if len(values) > 1 else values[0])

    async def by_ids(self, session_key: int, event_ids: Sequence[str]) -> list[Event]:
        query = sa.select(events).where(
            events.c.session_key == session_key, one_of(self._db, events.c.event_id, event_ids)
        )
        return [rows.event(row) for row in await self._db.execute(query)]

    async def by_keys(self, event_keys: Sequence[int]) -> list[Event]:
        return [rows.event(row) for row in await _BY_KEYS.rows(self._db, event_keys)]

    async def page(
        self,
        session_key: int,
        audiences: frozenset[str],
        *,
        after_seq: int | None = None,
        before_seq: int | None = None,
        limit: int,
        descending: bool = False,
    ) -> list[Event]:
        query = sa.select(events).where(events.c.session_key == session_key, _visible(audiences))
        if after_seq is not None:
            query = query.where(events.c.seq > after_seq)
        if before_seq is not None:
            query = query.where(events.c.seq < before_seq)
        query = query.order_by(events.c.seq.desc() if descending else events.c.seq).limit(limit)
        return [rows.event(row) for row in await self._db.execute(query)]

    async def shared_from(
        self, session_key: int, token_start: int, *, below: int | None = None, limit: int
    ) -> list[Event]:
        query = _shared(session_key).where(events.c.token_start >= token_start)
        if below is not None:
            query = query.where(events.c.token_start < below)
        return [rows.event(row) for row in await self._db.execute(query.limit(limit))]

    async def extents(self, session_key: int, token_start: int, *, below: int | None = None) -> list[Extent]:
        query = _shared(session_key).with_only_columns(events.c.seq, events.c.token_start, events.c.token_count)
        query = query.where(events.c.token_start >= token_start)
        if below is not None:
            query = query.where(events.c.token_start < below)
        return [Extent(*row) for row in await self._db.execute(query)]

    async def private_from(self, session_key: int, agent_id: str, seq: int, *, limit: int) -> list[Event]:
        query = (
            sa.select(events)
            .where(
                events.c.session_key == session_key,
                events.c.seq >= seq,
                events.c.visibility == EventVisibility.PRIVATE,
                events.c.agent_id == agent_id,
            )
            .order_by(events.c.seq.desc())
            .limit(limit)
        )
        return [rows.event(row) for row in await self._db.execute(query)][::-1]

    async def unsegmented(self, session_key: int, after_seq: int, limit: int) -> list[Event]:
        query = sa.select(events).where(events.c.session_key == session_key, events.c.seq > after_seq)
        return [rows.event(row) for row in await self._db.execute(query.order_by(events.c.seq).limit(limit))]

    async def recall_answer(self, session_key: int, key_hash: bytes) -> tuple[bytes, Appended] | None:
        query = (
            sa.select(idempotency, sessions.c.session_id)
            .join(sessions, sessions.c.session_key == idempotency.c.session_key)
            .where(idempotency.c.session_key == session_key, idempotency.c.key_hash == key_hash)
        )
        row = (await self._db.execute(query)).one_or_none()
        if row is None:
            return None
        ids = tuple(row.event_ids)
        return row.request_hash, Appended(row.session_id, row.first_seq, row.last_seq, ids, row.token_count)

    async def remember_answer(
        self, session_key: int, key_hash: bytes, request_hash: bytes, answer: Appended, now: datetime
    ) -> None:
        statement = upsert(self._db, idempotency).values(
            session_key=session_key,
            key_hash=key_hash,
            request_hash=request_hash,
            first_seq=answer.first_seq,
            last_seq=answer.last_seq,
            event_ids=list(answer.event_ids),
            token_count=answer.token_count,
            created_at=now,
        )
        await self._db.execute(statement.on_conflict_do_nothing())

    async def forget_answers(self, before: datetime) -> int:
        return (await self._db.execute(idempotency.delete().where(idempotency.c.created_at < before))).rowcount


def _visible(audiences: frozenset[str]) -> sa.ColumnElement[bool]:
    agents = [a.removeprefix(private_to("")) for a in audiences if a.startswith(private_to(""))]
    conditions: list[sa.ColumnElement[bool]] = []
    if SHARED in audiences:
        conditions.append(events.c.visibility == EventVisibility.SESSION)
    if agents:
        conditions.append(sa.and_(events.c.visibility == EventVisibility.PRIVATE, events.c.agent_id.in_(agents)))
    return sa.or_(sa.false(), *conditions)


def _shared(session_key: int) -> sa.Select[Any]:
    query = sa.select(events).where(events.c.session_key == session_key, events.c.visibility == EventVisibility.SESSION)
    return query.order_by(events.c.seq)
