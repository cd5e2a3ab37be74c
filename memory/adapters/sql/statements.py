"""What do the two dialects say differently?"""

import json
from collections.abc import Iterable
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


def parts(values: list[Any]) -> list[list[Any]]:
    return [values[at : at + PART] for at in range(0, len(values), PART)]
