"""What keeps `database is locked` away from the writers of one SQLite database?

They queue, in the order of their coming, for one connection. Those that wait for each other share one flush to disk:
each runs in a savepoint of the open transaction, and all are told of the commit together (group commit), so no one is
answered before it is durable. Whoever fails or is cancelled takes nobody along; when SQLite gives up the whole
transaction (the disk is full), everybody in it is told so.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from memory.adapters.sql.sqlite_driver import Connection
from memory.domain.errors import StorageUnavailable


class WriterQueue:
    """One event loop only. Writers of other processes and loops are held off by SQLite's own lock."""

    def __init__(self, engine: AsyncEngine, group: int) -> None:
        self._engine = engine
        self._group = group
        self._connection: AsyncConnection | None = None
        self._busy = False
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._unflushed: list[asyncio.Future[None]] = []
        sa.event.listen(engine.sync_engine, "handle_error", _keep_when_cancelled)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[AsyncConnection]:
        await self._acquire()
        joined = bool(self._unflushed)
        try:
            self._refuse_when_closed()
            connection = await self._open()
            # The first in a transaction needs no savepoint: nobody else's work goes when it is rolled back.
            async with connection.begin_nested() if joined else contextlib.nullcontext():
                yield connection
        except BaseException:
            await self._end_turn(failed=True)
            raise
        flushed = asyncio.get_running_loop().create_future()
        self._unflushed.append(flushed)
        await self._end_turn()
        await flushed

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Waits for its turn like a writer; what was written is flushed, and no writer of this queue is at it."""
        await self._acquire()
        try:
            self._refuse_when_closed()
            await self._flush()
            yield
        finally:
            await self._end_turn()

    async def close(self) -> None:
        """Lets those finish that came before; who comes later is refused."""
        await self._acquire()
        try:
            await self._flush()
            self._closed = True
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
        finally:
            await self._end_turn()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StorageUnavailable("the database is closed: this process is about to end")

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

    async def _end_turn(self, *, failed: bool = False) -> None:
        """Goes on to its end when the caller is cancelled: a turn that is never handed on would stop all writers."""
        await asyncio.shield(self._hand_on(failed))

    async def _hand_on(self, failed: bool) -> None:
        """Gives the open transaction to the next writer, or flushes it."""
        if failed and not (self._unflushed and await self._in_transaction()):
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
        """Commits what waits for it; without any, rolls back what a failed writer left."""
        told, self._unflushed = self._unflushed, []
        try:
            await (self._commit() if told else self._roll_back())
        except Exception as error:
            if self._connection is not None:
                await self._connection.invalidate()
                self._connection = None
            failure = StorageUnavailable(f"the database could not commit: {getattr(error, 'orig', None) or error}")
            for future in told:
                if not future.done():
                    future.set_exception(failure)
            return
        for future in told:
            if not future.done():
                future.set_result(None)

    async def _commit(self) -> None:
        # Without an open transaction the driver's commit does nothing, and says that it went well.
        if self._connection is None or not await self._in_transaction():
            raise StorageUnavailable("SQLite gave up the transaction, as it does when the disk is full")
        await self._connection.commit()

    async def _roll_back(self) -> None:
        if self._connection is None:
            return
        await self._connection.rollback()
        # A BEGIN whose writer was cancelled is known to the driver only.
        await (await driver_of(self._connection)).rollback()

    async def _in_transaction(self) -> bool:
        if self._connection is None or self._connection.invalidated:
            return False
        return (await driver_of(self._connection)).in_transaction


async def driver_of(connection: AsyncConnection) -> Connection:
    """To talk to SQLite without a transaction of SQLAlchemy's around it."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, Connection)
    return driver


def _keep_when_cancelled(failure: ExceptionContext) -> None:
    """SQLAlchemy drops a connection whose statement was cancelled: with it would go what others of the group wrote.

    The statement runs to its end in the driver's thread, and the roll-back comes after it.
    """
    writer = failure.connection is not None and failure.connection.get_execution_options().get("immediate", False)
    if writer and isinstance(failure.original_exception, asyncio.CancelledError):
        failure.is_disconnect = False
