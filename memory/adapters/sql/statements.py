"""What do the two dialects say differently?"""

import json
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

# SQLite allows 32,766 parameters a statement, asyncpg 32,767: lists of hashes are sent in parts of this length.
PART = 10_000


def is_postgresql(connection: AsyncConnection) -> bool:
    return connection.dialect.name == "postgresql"


def upsert(connection: AsyncConnection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT. The dialects' constructs have the same methods but no common type."""
    return postgresql.insert(table) if is_postgresql(connection) else sqlite.insert(table)


def one_of(connection: AsyncConnection, column: sa.Column[Any], values: Iterable[Any]) -> sa.ColumnElement[bool]:
    """`column IN values` for any number of keys or names: they travel as one parameter."""
    listed = list(values)
    if is_postgresql(connection):
        return column == sa.any_(sa.literal(listed, postgresql.ARRAY(column.type)))
    each = sa.func.json_each(json.dumps(listed)).table_valued("value")
    return column.in_(sa.select(each.c.value))


def unindexed(connection: AsyncConnection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The column, in a condition that SQLite shall use no index for.

    Without statistics it takes a tenant's index for selective, even where one tenant has all: to count 400,000 rows
    by it took 23 seconds, since each is looked up elsewhere in the file. PostgreSQL has statistics.
    """
    return (
        column if is_postgresql(connection) else sa.literal_column(f"+{column.table.name}.{column.name}", column.type)
    )


class Lookup:
    """`query` where `column` has one of many values, made once: building a statement costs more than running it."""

    def __init__(self, query: sa.Select[Any], column: sa.Column[Any]) -> None:
        self._postgresql = query.where(column == sa.any_(sa.bindparam("wanted", type_=postgresql.ARRAY(column.type))))
        each = sa.func.json_each(sa.bindparam("wanted", type_=sa.Text)).table_valued("value")
        self._sqlite = query.where(column.in_(sa.select(each.c.value)))

    async def rows(self, connection: AsyncConnection, wanted: Collection[Any]) -> list[sa.Row[Any]]:
        if not wanted:
            return []
        listed = list(wanted)
        if is_postgresql(connection):
            return list(await connection.execute(self._postgresql, {"wanted": listed}))
        return list(await connection.execute(self._sqlite, {"wanted": json.dumps(listed)}))


def parts(values: list[Any]) -> list[list[Any]]:
    return [values[at : at + PART] for at in range(0, len(values), PART)]
