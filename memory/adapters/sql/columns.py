"""Which types and shapes of columns do all tables share, on SQLite and PostgreSQL alike? And where are they listed?"""

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_EPOCH = datetime.fromtimestamp(0, UTC)

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Instant(sa.types.TypeDecorator[datetime]):
    """A moment as microseconds since 1970 UTC: orders and compares alike in both databases."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        # In whole numbers: as a float the last moment of year 9999 rounds up to one that no datetime can hold.
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
Id = sa.String(128)


def key(name: str) -> sa.Column[int]:
    return sa.Column(name, Key, primary_key=True, autoincrement=True)


def few(name: str, *columns: str, where: str) -> sa.Index:
    """Of the few rows for which `where` holds: a query that says it in the same words reads no others."""
    return sa.Index(name, *columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def session_key(*, nullable: bool = False, index: bool = False) -> sa.Column[int]:
    return sa.Column("session_key", Key, nullable=nullable, index=index)
