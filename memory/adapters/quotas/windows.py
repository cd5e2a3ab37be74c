"""How is usage counted, in this process or in a Redis for all? In fixed windows, by the library `limits`."""

import logging
import math
import time
from typing import Any

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, Storage
from limits.errors import StorageError
from limits.storage import storage_from_string
from redis.asyncio import ConnectionPool

from memory.domain.quotas import Allowance, Standing

logger = logging.getLogger(__name__)

_NAMESPACE = "stratamem"
_PATIENCE = 0.5
_COMPLAIN_EVERY = 60.0


class WindowCounter:
    """`url`: redis://…; None: this process counts alone, as it does while the Redis is away.

    `patience`: seconds that a request may wait for the Redis.
    """

    def __init__(self, url: str | None, patience: float = _PATIENCE) -> None:
        self._own = MemoryStorage()
        self._pool: ConnectionPool | None = None if url is None else _pool(url, patience)
        self._shared: Storage | None = None if url is None else _shared(url, self._pool)
        self._complained = -math.inf

    async def add(self, allowance: Allowance, who: str, cost: int) -> Standing:
        return await self._asked(allowance, who, cost)

    async def look(self, allowance: Allowance, who: str) -> Standing:
        return await self._asked(allowance, who, 0)

    async def forget(self, allowance: Allowance, who: str) -> None:
        key = _key(allowance, who)
        await self._own.clear(key)
        if self._shared is not None:
            try:
                await self._shared.clear(key)
            except StorageError as error:
                self._complain(error)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _asked(self, allowance: Allowance, who: str, cost: int) -> Standing:
        if self._shared is not None:
            try:
                return await _counted(self._shared, allowance, who, cost)
            except StorageError as error:
                self._complain(error)
        return await _counted(self._own, allowance, who, cost)

    def _complain(self, error: StorageError) -> None:
        now = time.monotonic()
        if now - self._complained > _COMPLAIN_EVERY:
            self._complained = now
            kind = type(error.storage_error).__name__
            logger.warning("the shared counter of limits can't be asked (%s): this process counts alone", kind)


def _pool(url: str, patience: float) -> ConnectionPool:
    return ConnectionPool.from_url(url, socket_timeout=patience, socket_connect_timeout=patience)


def _shared(url: str, pool: ConnectionPool | None) -> Storage:
    options: dict[str, Any] = {"implementation": "redispy", "wrap_exceptions": True, "connection_pool": pool}
    made = storage_from_string(f"async+{url}", **options)
    assert isinstance(made, Storage)
    return made


async def _counted(storage: Storage, allowance: Allowance, who: str, cost: int) -> Standing:
    key = _key(allowance, who)
    used = await (storage.incr(key, allowance.seconds, cost) if cost else storage.get(key))
    left = await storage.get_expiry(key) - time.time()
    return Standing(allowance, used, min(max(math.ceil(left), 1), allowance.seconds))


def _key(allowance: Allowance, who: str) -> str:
    item = RateLimitItemPerSecond(allowance.amount, allowance.seconds, _NAMESPACE)
    return item.key_for(allowance.holder, allowance.resource, who)
