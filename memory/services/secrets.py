"""How is a text recognised again without being stored a second time? By an HMAC under the tenant's own secret."""

import hashlib
import hmac
import json
from typing import Any

from memory.ports.jobs import Clock
from memory.ports.storage import Storage


class TenantSecrets:
    """Each tenant's secret, read once. Tenants are made on first use."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._known: dict[str, bytes] = {}

    async def of(self, tenant_id: str) -> bytes:
        if tenant_id not in self._known:
            async with self._storage.write() as tx:
                self._known[tenant_id] = await tx.tenants.secret(tenant_id, self._clock.now())
        return self._known[tenant_id]


def keyed_hash(secret: bytes, value: Any) -> bytes:
    """32 bytes; `value` is anything JSON can hold, compared by its canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.digest(secret, canonical.encode("utf-8", "surrogatepass"), hashlib.sha256)
