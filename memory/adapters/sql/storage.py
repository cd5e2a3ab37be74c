"""How is a unit of work opened, and what keeps `database is locked` away from clients?

PostgreSQL: a transaction a unit. SQLite: readers read beside each other (WAL); writers queue, in the order of their
coming, for one connection. Writers that wait for each other share one flush to disk: each runs in a savepoint of the
open transaction, and all are told of the commit together (group commit), so no one is answered before it is durable.
"""

import asyncio
import contextlib
import functools
import json
import sqlite3
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from memory.adapters.sql import sqlite_driver
from memory.adapters.sql.changes import SqlChanges
from memory.adapters.sql.clusters import SqlClusters
from memory.adapters.sql.events import SqlEvents
from memory.adapters.sql.keys import SqlKeys, SqlTenants
from memory.adapters.sql.memories import SqlMemories
from memory.adapters.sql.migrate import upgrade
from memory.adapters.sql.operations import SqlOperations
from memory.adapters.sql.segments import SqlSegments
from memory.adapters.sql.sessions import SqlSessions
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.summaries import SqlSummaries
from memory.domain.errors import StorageUnavailable

_WAL_TRIES = 100
_WAL_PAUSE = 0.05
_CHECKPOINT_TRIES = 20
_CHECKPOINT_PAUSE = 0.05
# NaN and infinities are no JSON: SQLite would take them, and then fail on every query into the column.
_as_json = functools.partial(json.dumps, allow_nan=False)
_UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout, ConnectionError, OSError)


class SqlUnitOfWork:
    """One transaction on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.tenants = SqlTenants(connection)
        self.keys = SqlKeys(connection)
        self.sessions = SqlSessions(connection)
        self.events = SqlEvents(connection)
        self.memories = SqlMemories(connection)
        self.segments = SqlSegments(connection)
        self.clusters = SqlClusters(connection)
        self.summaries = SqlSummaries(connection)
        self.changes = SqlChanges(connection)
        self.operations = SqlOperations(connection)


class SqlStorage:
    """Storage over one engine. `close()` when done."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._engine = make_engine(url, settings)
        self._settings = settings
        self._writers = _WriterQueue(self._engine, settings.group_commit) if is_sqlite(url) else None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlUnitOfWork]:
        with _translated():
            async with self._engine.connect() as connection:
                yield SqlUnitOfWork(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlUnitOfWork]:
        with _translated():
            if self._writers is not None:
                async with self._writers.turn() as connection:
                    yield SqlUnitOfWork(connection)
            else:
                async with self._engine.begin() as connection:
                    yield SqlUnitOfWork(connection)

    async def migrate(self) -> None:
        """Brings the schema to the newest version."""
        with _translated():
            await upgrade(self._engine)

    async def ping(self) -> None:
        with _translated():
            async with asyncio.timeout(self._settings.connect_timeout), self._engine.connect() as connection:
                await connection.execute(sa.text("SELECT 1"))

    async def erase_leftovers(self) -> None:
        """SQLite: the WAL's old pages go; deleted rows are overwritten anyway. PostgreSQL: its vacuum does it."""
        if self._writers is not None:
            await self._writers.checkpoint()

    async def bytes_used(self) -> int:
        sqlite = self._writers is not None
        query = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if sqlite
            else "SELECT pg_database_size(current_database())"
        )
        with _translated():
            async with self._engine.connect() as connection:
                return int((await connection.execute(sa.text(query))).scalar_one())

    async def close(self) -> None:
        if self._writers is not None:
            await self._writers.close()
        await self._engine.dispose()


class _WriterQueue:
    """First come, first served on one SQLite connection, with group commit. One event loop only.

    Writers of other processes and loops are held off by SQLite's own lock and busy time-out.
    """

    def __init__(self, engine: AsyncEngine, group: int) -> None:
        self._engine = engine
        self._group = group
        self._connection: AsyncConnection | None = None
        self._busy = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._unflushed: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[AsyncConnection]:
        await self._acquire()
        joined = bool(self._unflushed)
        try:
            connection = await self._open()
            # The first in a transaction needs no savepoint: nobody else's work goes when it is rolled back.
            async with connection.begin_nested() if joined else contextlib.nullcontext():
                yield connection
        except BaseException:
            await self._end_turn(discard=not joined)
            raise
        flushed = asyncio.get_running_loop().create_future()
        self._unflushed.append(flushed)
        await self._end_turn()
        await flushed

    async def checkpoint(self) -> None:
        """Writes the WAL back and truncates it; waits for its turn like a writer."""
        await self._acquire()
        try:
            if self._connection is not None:
                await self._connection.rollback() if not self._unflushed else await self._flush()
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                # A reader of this moment keeps the log busy: it is gone soon.
                for _ in range(_CHECKPOINT_TRIES):
                    busy = (await connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()[0]
                    if not busy:
                        break
                    await asyncio.sleep(_CHECKPOINT_PAUSE)
        finally:
            await self._end_turn()

    async def close(self) -> None:
        await self._acquire()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _acquire(self) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was our turn already: hand it on
                await self._end_turn()
            raise

    async def _open(self) -> AsyncConnection:
        if self._connection is None:
            connection = await self._engine.connect()
            self._connection = await connection.execution_options(immediate=True)
        if not self._connection.in_transaction():
            await self._connection.begin()  # BEGIN IMMEDIATE, see make_engine
        return self._connection

    async def _end_turn(self, *, discard: bool = False) -> None:
        """Goes on to its end when the caller is cancelled: a turn that is never handed on would stop all writers."""
        await asyncio.shield(self._hand_on(discard))

    async def _hand_on(self, discard: bool) -> None:
        """Gives the open transaction to the next writer, or flushes it."""
        if discard:
            await self._flush()
        while self._waiting and self._waiting[0].cancelled():
            self._waiting.popleft()
        if not self._waiting or len(self._unflushed) >= self._group:
            await self._flush()
        while self._waiting:
            following = self._waiting.popleft()
            if not following.cancelled():
                following.set_result(None)
                return
        self._busy = False

    async def _flush(self) -> None:
        told, self._unflushed = self._unflushed, []
        if self._connection is None:
            return
        try:
            if told:
                await self._connection.commit()
            else:
                await self._connection.rollback()
        except DBAPIError as error:
            await self._connection.invalidate()
            self._connection = None
            failure = StorageUnavailable(f"the database could not commit: {error.orig}")
            for future in told:
                if not future.done():
                    future.set_exception(failure)
            return
        for future in told:
            if not future.done():
                future.set_result(None)


class _translated:
    """Turns the driver's words for "can't reach it" into StorageUnavailable."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _UNREACHABLE) and not isinstance(error, FileNotFoundError):
            reason = getattr(error, "orig", None) or error
            raise StorageUnavailable(f"the database does not answer: {reason}; try again") from error


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
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
