"""What do the two dialects say differently?"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

# SQLite allows 32,766 parameters a statement, asyncpg 32,767: lists of keys are sent in parts of this length.
PART = 10_000


def is_postgresql(connection: AsyncConnection) -> bool:
    return connection.dialect.name == "postgresql"


def upsert(connection: AsyncConnection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT. The dialects' constructs have the same methods but no common type."""
    return postgresql.insert(table) if is_postgresql(connection) else sqlite.insert(table)


def parts(values: list[Any]) -> list[list[Any]]:
    return [values[at : at + PART] for at in range(0, len(values), PART)]
