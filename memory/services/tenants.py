"""Which tenants are there, how much has each, and may anybody come in as one?"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from memory.domain.errors import TenantPurged
from memory.domain.operations import Operation
from memory.domain.principals import Principal
from memory.domain.tenants import Figures, Tenant
from memory.ports.storage import Storage
from memory.services.quotas import Quotas

_FRESH_FOR = 1.0
_MOST = 1_024


@dataclass(frozen=True, slots=True)
class TenantView:
    tenant: Tenant
    figures: Figures


class Tenants:
    """One event loop only."""

    def __init__(self, storage: Storage, quotas: Quotas) -> None:
        self._storage = storage
        self._quotas = quotas
        self._standing: OrderedDict[str, float] = OrderedDict()

    async def check(self, tenant_id: str) -> None:
        """Raises TenantPurged: at once where something is added, elsewhere within a second."""
        now = time.monotonic()
        if self._standing.get(tenant_id, 0.0) > now:
            return
        async with self._storage.read() as tx:
            found = await tx.tenants.get(tenant_id)
        if found is not None and found.purging is not None:
            raise TenantPurged(tenant_id)
        self._standing[tenant_id] = now + _FRESH_FOR
        self._standing.move_to_end(tenant_id)
        if len(self._standing) > _MOST:
            self._standing.popitem(last=False)

    async def page(self, *, after: str | None = None, limit: int) -> list[TenantView]:
        """All tenants, by name."""
        async with self._storage.read() as tx:
            found = await tx.tenants.page(after=after, limit=limit)
            return [TenantView(tenant, await tx.tenants.figures(tenant.tenant_id)) for tenant in found]

    async def purge_of(self, tenant_id: str) -> Operation | None:
        """That takes the tenant away."""
        async with self._storage.read() as tx:
            found = await tx.tenants.get(tenant_id)
            going = None if found is None or found.purging is None else await tx.operations.by_id(found.purging)
        return going

    async def own(self, principal: Principal) -> list[TenantView]:
        """What a caller may know of: its own, once it is there."""
        async with self._storage.read() as tx:
            found = await tx.tenants.get(principal.tenant_id)
            return [] if found is None else [TenantView(found, await tx.tenants.figures(found.tenant_id))]

    async def forgotten(self, tenant_id: str) -> None:
        """Something of the tenant was purged. If it was all of it, nothing is counted any more either."""
        async with self._storage.read() as tx:
            found = await tx.tenants.get(tenant_id)
        if found is None or found.purging is not None:
            self._standing.pop(tenant_id, None)
            await self._quotas.forget(tenant_id)
