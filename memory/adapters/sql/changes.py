"""The change feed, and the rows that it names as a follower needs them.

On PostgreSQL a sequence number is taken before the commit, so a later number can become visible first and a follower
that only remembered the highest number would skip rows. Changes are therefore ordered by (transaction, number), and a
follower's place moves only over changes below the oldest running transaction; the rest is read again next time.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import is_postgresql, one_of, parts, upsert
from memory.adapters.sql.tables import changes, events, followers, memories, segments, sessions
from memory.domain.changes import Change, NewChange, Position
from memory.domain.events import EventVisibility
from memory.domain.ids import ItemId, event_item, is_memory, item_key, memory_item
from memory.domain.principals import SHARED, private_to
from memory.domain.recall import EVENT_KIND
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts

THIS_TRANSACTION = sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)
_OLDEST_RUNNING = sa.select(
    sa.cast(sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger)
)
_FACTS_OF_EVENTS = (
    events.c.event_key,
    events.c.session_key,
    events.c.seq,
    events.c.visibility,
    events.c.role,
    events.c.agent_id,
    events.c.created_at,
    events.c.content,
)
_SEGMENT_VECTORS = sa.select(segments.c.item, segments.c.ordinal, segments.c.vector).where(
    segments.c.vector.is_not(None)
)
_SESSIONS_AT_ONCE = 500

# Made once: building a statement costs more than running it, and every append runs one of these.
_COLUMNS = tuple(field.name for field in fields(NewChange))
_INSERT = changes.insert().returning(changes.c.xid, changes.c.number)
_INSERT_POSTGRESQL = _INSERT.values(xid=THIS_TRANSACTION)


_AFTER = (
    sa.select(changes)
    .where(sa.tuple_(changes.c.xid, changes.c.number) > sa.tuple_(sa.bindparam("xid"), sa.bindparam("number")))
    .order_by(changes.c.xid, changes.c.number)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_AFTER_OF_TENANT = _AFTER.where(changes.c.tenant_id == sa.bindparam("tenant_id"))


class SqlChanges:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, *added: NewChange) -> Position:
        if not added:
            return Position()
        values = [self._values(new) for new in added]
        insert = _INSERT_POSTGRESQL if is_postgresql(self._db) else _INSERT
        inserted = await self._db.execute(insert, values)
        return max(Position(*place) for place in inserted)

    def _values(self, new: NewChange) -> dict[str, Any]:
        values = {name: getattr(new, name) for name in _COLUMNS}
        return values if is_postgresql(self._db) else values | {"xid": 0}

    async def after(self, position: Position, *, tenant_id: str | None = None, limit: int) -> list[Change]:
        # The horizon is read first: what it calls settled is then certainly in the rows that we see.
        oldest_running = await self._oldest_running()
        values: dict[str, Any] = {"xid": position.xid, "number": position.number, "most": limit}
        if tenant_id is None:
            found = await self._db.execute(_AFTER, values)
        else:
            found = await self._db.execute(_AFTER_OF_TENANT, values | {"tenant_id": tenant_id})
        return [rows.change(row, oldest_running) for row in found]

    async def head(self) -> Position:
        oldest_running = await self._oldest_running()
        query = sa.select(changes.c.xid, changes.c.number)
        if oldest_running is not None:
            query = query.where(changes.c.xid < oldest_running)
        row = (await self._db.execute(query.order_by(changes.c.xid.desc(), changes.c.number.desc()).limit(1))).first()
        return Position() if row is None else Position(row.xid, row.number)

    async def event_facts(self, session_key: int, first_seq: int, last_seq: int) -> list[ItemFacts]:
        query = sa.select(*_FACTS_OF_EVENTS).where(
            events.c.session_key == session_key, events.c.seq.between(first_seq, last_seq), ~events.c.redacted
        )
        return [_event_facts(row) for row in await self._db.execute(query.order_by(events.c.seq))]

    async def redacted_items(self, session_key: int, first_seq: int, last_seq: int) -> list[ItemId]:
        query = sa.select(events.c.event_key).where(
            events.c.session_key == session_key, events.c.seq.between(first_seq, last_seq), events.c.redacted
        )
        return [event_item(row.event_key) for row in await self._db.execute(query)]

    async def memory_facts(self, memory_key: int) -> ItemFacts | None:
        query = sa.select(memories).where(memories.c.memory_key == memory_key)
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else _memory_facts(row)

    async def vectors_of_events(
        self, space: str, session_key: int, first_seq: int, last_seq: int
    ) -> list[SegmentVector]:
        condition = sa.and_(
            segments.c.session_key == session_key,
            segments.c.seq.between(first_seq, last_seq),
            segments.c.item % 2 == 0,
        )
        return await self._vectors(space, condition)

    async def vectors_of_memory(self, space: str, memory_key: int) -> list[SegmentVector]:
        return await self._vectors(space, segments.c.item == memory_item(memory_key))

    async def items(self, tenant_id: str) -> Sequence[ItemId]:
        # Not a page at a time by key: SQLite finds a tenant's rows by an index in another order, so that each page
        # reads and sorts all that there are. Its index of a session's log has the keys; no row is read for them.
        of_tenant = sa.select(sessions.c.session_key).where(sessions.c.tenant_id == tenant_id)
        keys = list((await self._db.execute(of_tenant)).scalars())
        found = array("q")  # eight bytes an item
        for at in range(0, len(keys), _SESSIONS_AT_ONCE):
            some = one_of(self._db, events.c.session_key, keys[at : at + _SESSIONS_AT_ONCE])
            found.extend(map(event_item, (await self._db.execute(sa.select(events.c.event_key).where(some))).scalars()))
        of_memories = sa.select(memories.c.memory_key).where(memories.c.tenant_id == tenant_id)
        written = map(memory_item, (await self._db.execute(of_memories)).scalars())
        return array("q", sorted(found)) + array("q", sorted(written))

    async def facts_of(self, items: Sequence[ItemId]) -> list[ItemFacts]:
        keys = [item_key(item) for item in items if not is_memory(item)]
        of_events = sa.select(*_FACTS_OF_EVENTS).where(one_of(self._db, events.c.event_key, keys), ~events.c.redacted)
        memory_keys = [item_key(item) for item in items if is_memory(item)]
        of_memories = sa.select(memories).where(one_of(self._db, memories.c.memory_key, memory_keys))
        facts: list[ItemFacts] = []
        if keys:
            facts += map(_event_facts, await self._db.execute(of_events.order_by(events.c.event_key)))
        if memory_keys:
            facts += map(_memory_facts, await self._db.execute(of_memories.order_by(memories.c.memory_key)))
        return facts

    async def vectors_of(self, space: str, items: Sequence[ItemId]) -> list[SegmentVector]:
        query = _SEGMENT_VECTORS.where(one_of(self._db, segments.c.item, items), segments.c.space == space)
        return _vectors(await self._db.execute(query.order_by(segments.c.item, segments.c.ordinal)))

    async def metadata_values(
        self, tenant_id: str, session_keys: tuple[int, ...] | None, path: Sequence[str]
    ) -> list[tuple[ItemId, Any]]:
        of_events = (
            self._with_field(events.c.event_key, events.c.metadata, path[0])
            .join(sessions, sessions.c.session_key == events.c.session_key)
            .where(sessions.c.tenant_id == tenant_id)
        )
        if session_keys is not None:
            of_events = of_events.where(one_of(self._db, events.c.session_key, session_keys))
        of_memories = self._with_field(memories.c.memory_key, memories.c.metadata, path[0])
        of_memories = of_memories.where(memories.c.tenant_id == tenant_id)
        return await self._values_at(path, of_events, of_memories)

    async def metadata_of(self, items: Sequence[ItemId], path: Sequence[str]) -> list[tuple[ItemId, Any]]:
        found: list[tuple[ItemId, Any]] = []
        for part in parts(list(items)):
            of_events = self._with_field(events.c.event_key, events.c.metadata, path[0])
            of_events = of_events.where(events.c.event_key.in_([item_key(i) for i in part if not is_memory(i)]))
            of_memories = self._with_field(memories.c.memory_key, memories.c.metadata, path[0])
            of_memories = of_memories.where(memories.c.memory_key.in_([item_key(i) for i in part if is_memory(i)]))
            found += await self._values_at(path, of_events, of_memories)
        return found

    async def _values_at(
        self, path: Sequence[str], of_events: sa.Select[Any], of_memories: sa.Select[Any]
    ) -> list[tuple[ItemId, Any]]:
        found: list[tuple[ItemId, Any]] = []
        for query, item in ((of_events, event_item), (of_memories, memory_item)):
            for row in await self._db.execute(query):
                found += [(item(row[0]), value) for value in _inside(row[1], path[1:])]
        return found

    def _with_field(self, key: sa.Column[Any], metadata: sa.Column[Any], name: str) -> sa.Select[Any]:
        """The rows whose metadata has a field of this name, with its value."""
        if is_postgresql(self._db):
            return sa.select(key, metadata[name]).select_from(key.table).where(metadata[name].is_not(None))
        # Not by a JSON path: SQLite finds no names with quotes or escapes by it, and says that true is 1.
        field = sa.func.json_each(metadata).table_valued("key", "value", "type")
        value = sa.case(
            (field.c.type.in_(["true", "false", "null"]), field.c.type),
            (field.c.type.in_(["array", "object"]), field.c.value),
            else_=sa.func.json_quote(field.c.value),
        )
        query = sa.select(key, sa.type_coerce(value, metadata.type)).select_from(key.table).join(field, sa.true())
        return query.where(field.c.key == name)

    async def follow(self, node: str, position: Position, now: datetime) -> None:
        place = {"xid": position.xid, "number": position.number, "seen_at": now}
        statement = upsert(self._db, followers).values(node=node, **place)
        await self._db.execute(statement.on_conflict_do_update(index_elements=["node"], set_=place))

    async def followed(self, node: str) -> Position | None:
        row = (await self._db.execute(sa.select(followers).where(followers.c.node == node))).one_or_none()
        return None if row is None else Position(row.xid, row.number)

    async def unfollow(self, node: str) -> None:
        never = datetime.fromtimestamp(0, UTC)
        await self._db.execute(followers.update().where(followers.c.node == node).values(seen_at=never))

    async def slowest(self, alive_since: datetime) -> Position | None:
        query = sa.select(followers).where(followers.c.seen_at >= alive_since)
        row = (await self._db.execute(query.order_by(followers.c.xid, followers.c.number).limit(1))).first()
        return None if row is None else Position(row.xid, row.number)

    async def _oldest_running(self) -> int | None:
        if not is_postgresql(self._db):
            return None
        return (await self._db.execute(_OLDEST_RUNNING)).scalar_one()

    async def _vectors(self, space: str, condition: sa.ColumnElement[bool]) -> list[SegmentVector]:
        query = _SEGMENT_VECTORS.where(condition, segments.c.space == space)
        return _vectors(await self._db.execute(query.order_by(segments.c.segment_key)))


def _vectors(found: Iterable[rows.Row]) -> list[SegmentVector]:
    return [SegmentVector(row.item, row.ordinal, row.vector) for row in found]


def _inside(value: Any, path: Sequence[str]) -> list[Any]:
    """The value at the path, if there is one: None is one as well."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return []
        value = value[name]
    return [value]


def _event_facts(row: rows.Row) -> ItemFacts:
    private = row.visibility == EventVisibility.PRIVATE
    return ItemFacts(
        item=event_item(row.event_key),
        session_key=row.session_key,
        seq=row.seq,
        audience=private_to(row.agent_id or "") if private else SHARED,
        kind=EVENT_KIND,
        role=row.role,
        agent_id=row.agent_id,
        created_at=rows.seconds(row.created_at),
        valid_from=-math.inf,
        valid_to=math.inf,
        text=row.content,
    )


def _memory_facts(row: rows.Row) -> ItemFacts:
    ends = [rows.seconds(end) for end in (row.valid_to, row.expires_at) if end is not None]
    memory = rows.memory(row)
    return ItemFacts(
        item=memory.item,
        session_key=row.session_key,
        seq=0,
        audience=memory.audience,
        kind=row.kind,
        role=None,
        agent_id=row.agent_id,
        created_at=rows.seconds(row.created_at),
        valid_from=-math.inf if row.valid_from is None else rows.seconds(row.valid_from),
        valid_to=min(ends, default=math.inf),
        text=row.text,
    )
