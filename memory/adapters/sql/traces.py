"""What do the tables still say of what was purged? Every table and column that there is, or the rows of a receipt."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from memory.adapters.sql.columns import metadata
from memory.adapters.sql.statements import is_postgresql, one_of
from memory.adapters.sql.tables import changes, events, memories, memory_versions, segments, sessions
from memory.domain.changes import ChangeKind
from memory.domain.principals import private_to
from memory.domain.receipts import ReceiptKind, SignedReceipt
from memory.domain.traces import Look, Marks

_PAGE = 1_000
_NAMES_ONLY = {"receipts", "changes"}
"""They name what was purged by its keys, and hold nothing else of it."""


async def looks(engine: AsyncEngine, wanted: Sequence[Marks]) -> list[Look]:
    """One for each table of the database's schema, known to us or not. Dead rows and PostgreSQL's WAL are not rows."""
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda opened: sa.inspect(opened).get_table_names())
        return [await _of_table(connection, name, wanted) for name in sorted(found)]


async def left_of(engine: AsyncEngine, receipt: SignedReceipt) -> list[Look]:
    """Rows with a key of what the receipt says is gone."""
    async with engine.connect() as connection:
        return [
            Look(f"table {table.name}", "its keys", () if not count else (f"{count} rows are there",))
            for table, condition in _conditions(connection, receipt)
            if (count := await _count(connection, table, condition)) is not None
        ]


async def _of_table(connection: AsyncConnection, name: str, wanted: Sequence[Marks]) -> Look:
    rows, found = 0, []
    async for row in _rows(connection, connection.dialect.identifier_preparer.quote(name)):
        rows += 1
        for column, value in row._mapping.items():
            forms = [(mark, form) for mark in wanted for form in mark.found_in(_bytes(value))]
            found += [f"{name}.{column}: {mark.text!r} as {form}" for mark, form in forms]
    return Look(f"table {name}", f"{rows:,} rows", tuple(dict.fromkeys(found)))


async def _rows(connection: AsyncConnection, table: str) -> AsyncIterator[sa.Row[Any]]:
    """All of a table, some at a time. `table`: a name that the database told us, quoted."""
    if is_postgresql(connection):
        async with connection.stream(sa.text(f"SELECT * FROM {table}")) as streamed:  # noqa: S608
            async for row in streamed:
                yield row
        return
    query = sa.text(f"SELECT rowid AS place, * FROM {table} WHERE rowid > :place ORDER BY rowid LIMIT {_PAGE}")  # noqa: S608
    place = 0
    while page := (await connection.execute(query, {"place": place})).all():
        for row in page:
            yield row
        place = page[-1].place


def _bytes(value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case dict() | list():
            return json.dumps(value, ensure_ascii=False).encode()
    return b""


def _conditions(db: AsyncConnection, receipt: SignedReceipt) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    what = receipt.content["what"]
    match ReceiptKind(what["kind"]):
        case ReceiptKind.SESSION:
            keys = what["session_keys"]
            named = [table for table in metadata.tables.values() if "session_key" in table.columns]
            return [(t, one_of(db, t.c.session_key, keys)) for t in named if t.name not in _NAMES_ONLY]
        case ReceiptKind.MEMORY | ReceiptKind.POLICY:
            return _of_memories(db, what["memory_keys"])
        case ReceiptKind.EVENT:
            keys = what["event_keys"]
            there = sa.and_(one_of(db, events.c.event_key, keys), ~events.c.redacted)
            return [(events, there), (segments, one_of(db, segments.c.item, [key * 2 for key in keys]))]
        case ReceiptKind.AGENT:
            return _of_agent(receipt.tenant_id, what["agent_id"], what["upto"])
    return _of_tenant(receipt, what["upto"])


def _of_memories(db: AsyncConnection, keys: Sequence[int]) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    found = [(table, one_of(db, table.c.memory_key, keys)) for table in (memories, memory_versions)]
    return [*found, (segments, one_of(db, segments.c.item, [key * 2 + 1 for key in keys]))]


def _of_agent(tenant_id: str, agent_id: str, upto: dict[str, int]) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    of_tenant = sa.select(sessions.c.session_key).where(sessions.c.tenant_id == tenant_id)
    said = sa.and_(
        events.c.session_key.in_(of_tenant),
        events.c.visibility == "private",
        events.c.agent_id == agent_id,
        events.c.event_key <= upto["event_key"],
        ~events.c.redacted,
    )
    its_own = sa.and_(memories.c.tenant_id == tenant_id, memories.c.agent_id == agent_id)
    written = sa.and_(its_own, memories.c.visibility == "private", memories.c.memory_key <= upto["memory_key"])
    pieces = sa.and_(
        segments.c.tenant_id == tenant_id,
        segments.c.audience == private_to(agent_id),
        segments.c.segment_key <= upto["segment_key"],
    )
    return [(events, said), (memories, written), (segments, pieces)]


def _of_tenant(receipt: SignedReceipt, upto: dict[str, int]) -> list[tuple[sa.Table, sa.ColumnElement[bool]]]:
    """One of the same name may have come since: its keys are higher, its rows are later."""
    found = []
    for table in metadata.tables.values():
        if "tenant_id" not in table.columns or table.name in _NAMES_ONLY | {"tenants"}:
            continue
        condition = table.c.tenant_id == receipt.tenant_id
        for key in ("session_key", "memory_key", "segment_key"):
            if key in table.columns and table.columns[key].primary_key:
                condition = sa.and_(condition, table.columns[key] <= upto[key])
        for moment in ("created_at", "at"):
            if moment in table.columns:
                condition = sa.and_(condition, table.columns[moment] <= receipt.at)
        found.append((table, condition))
    told = sa.and_(changes.c.tenant_id == receipt.tenant_id, changes.c.kind != ChangeKind.TENANT_PURGED)
    before = sa.tuple_(changes.c.xid, changes.c.number) <= sa.tuple_(*map(sa.literal, receipt.content["feed"]))
    return [*found, (changes, sa.and_(told, before))]


async def _count(connection: AsyncConnection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(condition)
    return int((await connection.execute(query)).scalar_one())
