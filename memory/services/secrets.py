"""How is a text recognised again without being stored a second time? By an HMAC under the tenant's own secret."""

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any

from memory.domain.principals import DEFAULT_TENANT
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

_FRESH_FOR = 1.0
"""Seconds: a tenant that was purged and made again has another secret."""


class TenantSecrets:
    """Tenants are made on first use."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._known: dict[str, tuple[float, bytes]] = {}
        self._reading: dict[str, asyncio.Task[bytes]] = {}

    async def of(self, tenant_id: str) -> bytes:
        """Raises TenantPurged while the tenant is being purged."""
        known = self._known.get(tenant_id)
        if known is not None and known[0] >= time.monotonic():
            return known[1]
        # One reads for all that come meanwhile: they go on in the order of their coming.
        reading = self._reading.get(tenant_id)
        if reading is None:
            reading = self._reading[tenant_id] = asyncio.create_task(self._fresh(tenant_id))
            reading.add_done_callback(lambda _: self._reading.pop(tenant_id))
        return await asyncio.shield(reading)

    async def of_database(self) -> bytes:
        """That of all tenants together, and of none."""
        async with self._storage.write() as tx:
            return await tx.tenants.secret(DEFAULT_TENANT, self._clock.now(), going=True)

    async def _fresh(self, tenant_id: str) -> bytes:
        until = time.monotonic() + _FRESH_FOR
        secret = await self._read(tenant_id)
        self._known[tenant_id] = (until, secret)
        return secret

    async def _read(self, tenant_id: str) -> bytes:
        async with self._storage.read() as tx:
            if (secret := await tx.tenants.known_secret(tenant_id)) is not None:
                return secret
        async with self._storage.write() as tx:
            return await tx.tenants.secret(tenant_id, self._clock.now())


def keyed_hash(secret: bytes, value: Any) -> bytes:
    """32 bytes; `value` is anything JSON can hold, compared by its canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.digest(secret, canonical.encode("utf-8", "surrogatepass"), hashlib.sha256)
