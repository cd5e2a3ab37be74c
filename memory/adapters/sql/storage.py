"""How is a unit of work opened?

PostgreSQL: a transaction a unit. SQLite: readers read beside each other (WAL), writers take turns (`writer_queue`).
"""

import asyncio
import functools
import json
import math
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from memory.adapters.sql import sqlite_driver, traces
from memory.adapters.sql.agents import SqlAgents
from memory.adapters.sql.audit import SqlAudit
from memory.adapters.sql.changes import SqlChanges
from memory.adapters.sql.clusters import SqlClusters
from memory.adapters.sql.codebooks import SqlCodebooks
from memory.adapters.sql.events import SqlEvents
from memory.adapters.sql.failures import translated
from memory.adapters.sql.keys import SqlKeys
from memory.adapters.sql.leftovers import Leftovers
from memory.adapters.sql.memories import SqlMemories
from memory.adapters.sql.migrate import newest, upgrade
from memory.adapters.sql.moves import SqlMoves
from memory.adapters.sql.operations import SqlOperations
from memory.adapters.sql.private import SqlPrivate
from memory.adapters.sql.receipts import SqlReceipts
from memory.adapters.sql.segments import SqlSegments
from memory.adapters.sql.sessions import SqlSessions
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.spaces import SqlSpaces
from memory.adapters.sql.summaries import SqlSummaries
from memory.adapters.sql.tenants import SqlTenants
from memory.adapters.sql.turns import SqlTurns
from memory.adapters.sql.versions import SqlVersions
from memory.adapters.sql.writer_queue import WriterQueue
from memory.domain.changes import Position
from memory.domain.receipts import SignedReceipt
from memory.domain.traces import Look, Marks

_WAL_TRIES = 100
_WAL_PAUSE = 0.05
# NaN and infinities are no JSON: SQLite would take them, and then fail on every query into the column.
_as_json = functools.partial(json.dumps, allow_nan=False)


class SqlUnitOfWork:
    """One transaction on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.tenants = SqlTenants(connection)
        self.keys = SqlKeys(connection)
        self.sessions = SqlSessions(connection)
        self.agents = SqlAgents(connection)
        self.events = SqlEvents(connection)
        self.memories = SqlMemories(connection)
        self.versions = SqlVersions(connection)
        self.segments = SqlSegments(connection)
        self.spaces = SqlSpaces(connection)
        self.clusters = SqlClusters(connection)
        self.summaries = SqlSummaries(connection)
        self.codebooks = SqlCodebooks(connection)
        self.changes = SqlChanges(connection)
        self.operations = SqlOperations(connection)
        self.turns = SqlTurns(connection)
        self.moves = SqlMoves(connection)
        self.audit = SqlAudit(connection)
        self.private = SqlPrivate(connection)
        self.receipts = SqlReceipts(connection)


class SqlStorage:
    """Storage over one engine. `close()` when done."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._engine = make_engine(url, settings)
        self._settings = settings
        self._writers: WriterQueue | None = None
        if is_sqlite(url):
            self._writers = WriterQueue(self._engine, settings.group_commit)
            self._leftovers = Leftovers(self._engine, self._writers, settings.statement_timeout)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        with translated():
            async with self._engine.connect() as connection:
                if self._writers is None:  # as SQLite does of itself: all statements see the same moment
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                yield SqlUnitOfWork(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        with translated():
            if self._writers is not None:
                async with self._writers.turn() as connection:
                    yield SqlUnitOfWork(connection)
            else:
                async with self._engine.begin() as connection:
                    yield SqlUnitOfWork(connection)

    async def migrate(self) -> None:
        """Brings the schema to the newest version."""
        with translated():
            await upgrade(self._engine)

    async def schema(self) -> tuple[str | None, str]:
        """The revision that the database has (None: no tables yet), and the newest one."""
        with translated():
            async with self._engine.connect() as connection:
                known = await connection.run_sync(lambda opened: sa.inspect(opened).has_table("alembic_version"))
                query = sa.text("SELECT version_num FROM alembic_version")
                found = (await connection.execute(query)).scalar_one_or_none() if known else None
        return found, newest()

    async def ping(self) -> None:
        with translated():
            async with asyncio.timeout(self._settings.connect_timeout), self._engine.connect() as connection:
                await connection.execute(sa.text("SELECT 1"))

    async def erase_leftovers(self, upto: Position | None = None, *, within: float = math.inf) -> None:
        """SQLite: see `leftovers`. PostgreSQL: its vacuum does it."""
        if self._writers is not None:
            with translated():
                await self._leftovers.erase(upto, within)

    async def bytes_used(self) -> int:
        sqlite = self._writers is not None
        query = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if sqlite
            else "SELECT pg_database_size(current_database())"
        )
        with translated():
            async with self._engine.connect() as connection:
                return int((await connection.execute(sa.text(query))).scalar_one())

    async def traces(self, wanted: Sequence[Marks]) -> list[Look]:
        """Of texts, table by table."""
        with translated():
            return await traces.looks(self._engine, wanted)

    async def left_of(self, receipt: SignedReceipt) -> list[Look]:
        """Rows of what a receipt says is gone."""
        with translated():
            return await traces.left_of(self._engine, receipt)

    async def close(self) -> None:
        if self._writers is not None:
            await self._writers.close()
        await self._engine.dispose()


def is_sqlite(url: str) -> bool:
    return sa.make_url(url).get_backend_name() == "sqlite"


def make_engine(url: str, settings: DatabaseSettings) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`; the short forms get these drivers."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        return _sqlite_engine(parsed.set(drivername="sqlite+aiosqlite"), settings)
    return create_async_engine(
        parsed.set(drivername="postgresql+asyncpg"),
        json_serializer=_as_json,
        pool_size=settings.pool_size,
        max_overflow=settings.pool_size,
        pool_timeout=settings.connect_timeout,
        hide_parameters=True,  # an error message must not quote what somebody said
        pool_pre_ping=True,
        connect_args={"timeout": settings.connect_timeout, "command_timeout": settings.statement_timeout},
    )


def _write_ahead(cursor: Any) -> None:
    """A new file is switched to WAL once. Whoever comes at the same moment is refused at once, without the time-out."""
    for _ in range(_WAL_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            await_only(asyncio.sleep(_WAL_PAUSE))
    cursor.execute("PRAGMA journal_mode = WAL")


def _sqlite_engine(url: sa.URL, settings: DatabaseSettings) -> AsyncEngine:
    engine = create_async_engine(
        url,
        json_serializer=_as_json,
        pool_size=settings.pool_size,
        max_overflow=settings.pool_size,
        pool_timeout=settings.connect_timeout,
        hide_parameters=True,  # an error message must not quote what somebody said
        connect_args={"timeout": settings.statement_timeout, "async_creator_fn": sqlite_driver.connect},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        _write_ahead(cursor)
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes the lock at once: upgrading a read transaction is what fails with "database is locked".
        if connection.get_execution_options().get("immediate", False):
            driver: Any = connection.connection.dbapi_connection
            driver.run_async(lambda opened: opened.begin_immediate(settings.statement_timeout))
        else:
            opened: Any = connection.connection.driver_connection
            opened.begin_with_next()

    return engine
