"""The append-only log."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.lineages import along, in_any
from memory.adapters.sql.statements import Lookup, one_of, upsert
from memory.adapters.sql.tables import events, idempotency, sessions
from memory.domain.events import Appended, Event, EventVisibility, Extent
from memory.domain.lineage import Lineage, Stretch
from memory.domain.principals import SHARED, private_to
from memory.domain.sessions import LogSize, Session

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

    async def by_ids(self, lineage: Lineage, event_ids: Sequence[str]) -> list[Event]:
        named = one_of(self._db, events.c.event_id, event_ids)
        query = sa.select(events).where(in_any(lineage.stretches, events.c.session_key, events.c.seq), named)
        return [rows.event(row) for row in await self._db.execute(query)]

    async def by_keys(self, event_keys: Sequence[int]) -> list[Event]:
        return [rows.event(row) for row in await _BY_KEYS.rows(self._db, event_keys)]

    async def page(
        self,
        lineage: Lineage,
        audiences: frozenset[str],
        *,
        after_seq: int | None = None,
        before_seq: int | None = None,
        limit: int,
        descending: bool = False,
    ) -> list[Event]:
        query = sa.select(events).where(_visible(audiences))
        if after_seq is not None:
            query = query.where(events.c.seq > after_seq)
        if before_seq is not None:
            query = query.where(events.c.seq < before_seq)
        stretches = lineage.between(after_seq, before_seq)
        return [rows.event(row) for row in await self._along(query, stretches, limit=limit, descending=descending)]

    async def redact(self, *going: Event) -> None:
        nothing: dict[str, Any] = {"content": "", "name": None, "metadata": {}, "redacted": True}
        these = one_of(self._db, events.c.event_key, [event.event_key for event in going])
        await self._db.execute(events.update().where(these).values(nothing))

    async def shared_from(
        self, lineage: Lineage, token_start: int, *, below: int | None = None, limit: int
    ) -> list[Event]:
        query = _shared_from(sa.select(events), token_start, below)
        return [rows.event(row) for row in await self._along(query, lineage.from_token(token_start), limit=limit)]

    async def extents(self, lineage: Lineage, token_start: int, *, below: int | None = None) -> list[Extent]:
        query = _shared_from(sa.select(events.c.seq, events.c.token_start, events.c.token_count), token_start, below)
        return [Extent(*row) for row in await self._along(query, lineage.from_token(token_start))]

    async def private_from(self, lineage: Lineage, agent_id: str, seq: int, *, limit: int) -> list[Event]:
        query = sa.select(events).where(
            events.c.seq >= seq,
            events.c.visibility == EventVisibility.PRIVATE,
            events.c.agent_id == agent_id,
        )
        found = await self._along(query, lineage.between(seq - 1, None), limit=limit, descending=True)
        return [rows.event(row) for row in found[::-1]]

    async def size(self, session: Session, last_seq: int) -> LogSize:
        if last_seq == 0:
            return LogSize()
        if last_seq == session.last_seq:
            return LogSize(last_seq, session.token_count, session.shared_tokens, session.turns)
        whole = sa.select(sa.func.coalesce(sa.func.sum(events.c.token_count), 0))
        beyond = in_any(session.lineage.between(last_seq, None), events.c.session_key, events.c.seq)
        after = (await self._db.execute(whole.where(beyond, events.c.seq > last_seq))).scalar_one()
        at = in_any(session.lineage.between(last_seq - 1, last_seq + 1), events.c.session_key, events.c.seq)
        last = rows.event((await self._db.execute(sa.select(events).where(at, events.c.seq == last_seq))).one())
        place = last.token_count if last.visibility is EventVisibility.SESSION else 0
        return LogSize(last_seq, session.token_count - int(after), last.token_start + place, last.turn)

    async def unsegmented(self, session_key: int, after_seq: int, limit: int) -> list[Event]:
        query = sa.select(events).where(events.c.session_key == session_key, events.c.seq > after_seq)
        return [rows.event(row) for row in await self._db.execute(query.order_by(events.c.seq).limit(limit))]

    async def recall_answer(self, lineage: Lineage, key_hash: bytes) -> tuple[bytes, Appended] | None:
        known = in_any(lineage.stretches, idempotency.c.session_key, idempotency.c.last_seq)
        query = (
            sa.select(idempotency, sessions.c.session_id)
            .join(sessions, sessions.c.session_key == lineage.session_key)
            .where(known, idempotency.c.key_hash == key_hash)
        )
        row = (await self._db.execute(query.order_by(idempotency.c.last_seq).limit(1))).one_or_none()
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

    async def _along(self, query: sa.Select[Any], stretches: Sequence[Stretch], **order: Any) -> list[rows.Row]:
        return await along(self._db, query, stretches, events.c.session_key, events.c.seq, **order)

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


def _shared_from(query: sa.Select[Any], token_start: int, below: int | None) -> sa.Select[Any]:
    query = query.where(events.c.visibility == EventVisibility.SESSION, events.c.token_start >= token_start)
    return query if below is None else query.where(events.c.token_start < below)
