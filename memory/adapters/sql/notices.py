"""How do the processes of one PostgreSQL tell each other that a log has changed? LISTEN and NOTIFY, on one connection.

Told after the commit and not within it: a transaction that notifies takes a lock of the whole database when it commits
(`PreCommit_Notify` in PostgreSQL's async.c), and appends would queue for it.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it has no annotations
from sqlalchemy.exc import SQLAlchemyError

from memory.adapters.notices import LocalNotices
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import make_engine

CHANNEL = "stratamem_grown"
_KEYS = 300
"""In one notice: PostgreSQL takes 8,000 bytes, a key has 19 digits at most."""
_RECONNECT = 1.0

logger = logging.getLogger(__name__)


class PostgresNotices:
    """`start()` before, `close()` after. While the connection is away only this process hears its own notices."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._engine = make_engine(url, settings.model_copy(update={"pool_size": 1}))
        self._local = LocalNotices()
        self._untold: set[int] = set()
        self._connected = False
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._engine.dispose()

    @property
    def connected(self) -> bool:
        return self._connected

    def changed(self, session_keys: Collection[int]) -> None:
        self._local.changed(session_keys)
        if self._connected:  # else nothing is kept: whoever follows a log looks by itself
            self._untold.update(session_keys)
            self._stirred.set()

    def listening(self, session_key: int) -> AbstractContextManager[asyncio.Event]:
        return self._local.listening(session_key)

    async def _keep_connected(self) -> None:
        while True:
            try:
                await self._exchange()
            except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("no notices from other processes for a moment: %s", type(error).__name__)
            finally:
                self._connected = False
                self._untold.clear()
            await asyncio.sleep(_RECONNECT)

    async def _exchange(self) -> None:
        """Hears and tells until the connection is lost."""
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(self._lost)
            await driver.add_listener(CHANNEL, self._heard)
            try:
                self._connected = True
                self._local.changed_perhaps()  # something may have been missed
                while not driver.is_closed():
                    await self._stirred.wait()
                    self._stirred.clear()
                    await self._tell(driver)
            finally:
                await connection.invalidate()  # it listens: not for the pool

    async def _tell(self, driver: Any) -> None:
        keys, self._untold = sorted(self._untold), set()
        for start in range(0, len(keys), _KEYS):
            await driver.execute("SELECT pg_notify($1, $2)", CHANNEL, json.dumps(keys[start : start + _KEYS]))

    def _heard(self, _connection: Any, _process: int, _channel: str, payload: Any) -> None:
        """Anybody who may connect to the database can say something here."""
        with contextlib.suppress(ValueError):
            keys = json.loads(payload)
            if isinstance(keys, list):
                self._local.changed([key for key in keys if isinstance(key, int)])

    def _lost(self, _connection: Any) -> None:
        self._connected = False
        self._stirred.set()
