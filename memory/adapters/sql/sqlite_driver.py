"""Why is a statement on SQLite one change of threads, not four?

aiosqlite goes to its connection's thread for each of: make a cursor, execute, fetch, close. While another thread of the
process computes, every change waits for the interpreter's lock (up to the switch interval), and an append makes
about ten statements. Here a statement does all four in one visit.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import aiosqlite

Parameters = Sequence[Any]
_T = TypeVar("_T")

_LOOK_EVERY = 0.000_5
"""Seconds between looks at the write lock; a look takes about ten microseconds."""
_LOOK_STEPS = 10_000
"""Steps of SQLite's machine between looks at whether anybody still waits: about a millisecond."""


class Cursor:
    """The part of an asyncio cursor that SQLAlchemy uses, over rows that were fetched already."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> "Cursor":
        return self

    async def execute(self, operation: str, parameters: Parameters = ()) -> "Cursor":
        return await self._visit(lambda cursor: cursor.execute(operation, parameters))

    async def executemany(self, operation: str, parameters: Iterable[Parameters]) -> "Cursor":
        return await self._visit(lambda cursor: cursor.executemany(operation, parameters))

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []

    async def _visit(self, act: Any) -> "Cursor":
        def visit(connection: sqlite3.Connection) -> None:
            cursor = connection.cursor()
            try:
                act(cursor)
                self._rows = cursor.fetchall() if cursor.description else []
                self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
            finally:
                cursor.close()

        await self._connection.visit(visit)
        return self


class Connection(aiosqlite.Connection):
    _begins = False

    def cursor(self) -> Cursor:  # type: ignore[override]  # SQLAlchemy needs no more of a cursor
        return Cursor(self)

    async def begin_immediate(self, patience: float) -> None:
        """Takes the write lock, waiting for `patience` seconds at most."""

        def begin(connection: sqlite3.Connection) -> None:
            if connection.in_transaction:  # of a writer that was cancelled while it got the lock
                connection.rollback()
            _when_free(connection, "BEGIN IMMEDIATE", patience)

        await self.visit(begin)

    async def vacuum(self, patience: float) -> None:
        """Writes the file anew, as a writer; is given up when the caller is cancelled."""
        given_up = threading.Event()

        def write_anew(connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(given_up.is_set, _LOOK_STEPS)
            try:
                _when_free(connection, "VACUUM", patience)
            finally:
                connection.set_progress_handler(None, 0)

        try:
            await self.answer_of(write_anew)
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def answer_of(self, act: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `act` answers in this connection's thread; no transaction is begun for it."""
        answer: _T = await self._execute(act, self._conn)  # type: ignore[no-untyped-call]
        return answer

    def begin_with_next(self) -> None:
        """A reader's BEGIN goes with its first statement: SQLite takes the snapshot no earlier anyway."""
        self._begins = True

    async def rollback(self) -> None:
        if self._begins:
            self._begins = False  # nothing was read
        else:
            await super().rollback()

    async def visit(self, act: Any) -> None:
        if not self._begins:
            await self._execute(act, self._conn)  # type: ignore[no-untyped-call]
            return
        self._begins = False

        def begin_and_act(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN")
            act(connection)

        await self._execute(begin_and_act, self._conn)  # type: ignore[no-untyped-call]


def _when_free(connection: sqlite3.Connection, statement: str, patience: float) -> None:
    """Runs it as soon as nobody writes.

    SQLite's own wait looks every 100 ms: beside a process that writes without a pause, and is between two transactions
    for less than one, it would starve.
    """
    until = time.monotonic() + patience
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while not _done(connection, statement, until):
            time.sleep(_LOOK_EVERY)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(patience * 1_000)}")


def _done(connection: sqlite3.Connection, statement: str, until: float) -> bool:
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
            raise
        return False
    return True


def connect(database: str, **options: Any) -> Connection:
    """For `async_creator_fn` of SQLAlchemy's aiosqlite dialect; await it to open the connection."""
    connection = Connection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True  # a process that ends does not wait for an idle connection
    return connection
