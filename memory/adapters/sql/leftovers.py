"""How do deleted rows leave the files of a SQLite database?

`secure_delete` overwrites what is deleted, but a row that grew or whose neighbours went is moved, and the page that it
leaves keeps the old bytes between its rows: in 15 of 20 databases pieces of texts and vectors were still there after a
purge. Only a file that is written anew (VACUUM) has none of it. Then the write-ahead log, which has the pages of
before, is truncated.

Writers wait while the file is written, about a second for each 60 MB. So one rewriting serves all deletions before it;
beyond a quarter of a second they take at most a tenth of the time, and who can't wait leaves it to a worker.
"""

import asyncio
import sqlite3
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from memory.adapters.sql.sqlite_driver import Connection
from memory.adapters.sql.writer_queue import WriterQueue, driver_of
from memory.domain.changes import Position
from memory.domain.errors import StorageUnavailable

_BYTES_A_SECOND = 60_000_000
_SHORT = 0.25
_SPACING = 10
_TRUNCATE_TRIES = 20
_TRUNCATE_PAUSE = 0.05
_HEAD_AND_SIZE = """
    SELECT (SELECT coalesce(max(number), 0) FROM changes), page_count * page_size
    FROM pragma_page_count(), pragma_page_size()
"""


class Leftovers:
    """Of one file, through one engine."""

    def __init__(self, engine: AsyncEngine, writers: WriterQueue, patience: float) -> None:
        self._engine = engine
        self._writers = writers
        self._patience = patience
        self._clean_to = -1
        self._rests_until = 0.0

    async def erase(self, upto: Position | None, within: float) -> None:
        """Waits for its turn like a writer. Raises StorageUnavailable."""
        async with self._writers.alone(), self._engine.connect() as pooled:
            connection = await driver_of(pooled)
            if upto is None or upto.number > self._clean_to:
                await self._rewrite(connection, within)
            await _truncate_log(connection)

    async def _rewrite(self, connection: Connection, within: float) -> None:
        head, size = await connection.answer_of(lambda opened: opened.execute(_HEAD_AND_SIZE).fetchone())
        if size > within * _BYTES_A_SECOND:
            raise StorageUnavailable("the file is so large that a worker writes it anew")
        began = time.monotonic()
        if began < self._rests_until:
            raise StorageUnavailable("the file was written anew a moment ago, and is again after a pause")
        await connection.vacuum(self._patience)
        took = time.monotonic() - began
        self._rests_until = began + took * _SPACING if took > _SHORT else 0.0
        self._clean_to = head


async def _truncate_log(connection: Connection) -> None:
    """A reader of this moment keeps the log busy: it is gone soon. All writers wait meanwhile, so the patience of other
    statements (a minute) is too much here."""

    def truncate(opened: sqlite3.Connection) -> int:
        (patience,) = opened.execute("PRAGMA busy_timeout").fetchone()
        opened.execute("PRAGMA busy_timeout = 0")
        try:
            return int(opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            opened.execute(f"PRAGMA busy_timeout = {patience}")

    for _ in range(_TRUNCATE_TRIES):
        if not await connection.answer_of(truncate):
            return
        await asyncio.sleep(_TRUNCATE_PAUSE)
    raise StorageUnavailable("a reader or another process keeps deleted rows in the write-ahead log: try again")
