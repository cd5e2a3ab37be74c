"""Which tenants are there, and what does it take to remove one with all that is its own?"""

from datetime import datetime
from typing import Protocol

from memory.domain.tenants import Figures, Highest, Tenant


class TenantRepository(Protocol):
    async def secret(self, tenant_id: str, now: datetime, *, going: bool = False) -> bytes:
        """32 bytes that key this tenant's HMACs; the tenant is made when it is new, and stays until the unit of work
        ends. Raises TenantPurged while it is being purged, but for who says that he knows (`going`)."""

    async def known_secret(self, tenant_id: str) -> bytes | None:
        """None: the tenant is yet to be made. Raises TenantPurged while it is being purged."""

    async def ids(self) -> list[str]:
        """But for those that are being purged."""

    async def get(self, tenant_id: str) -> Tenant | None: ...

    async def page(self, *, after: str | None, limit: int) -> list[Tenant]:
        """By name."""

    async def figures(self, tenant_id: str) -> Figures: ...

    async def highest(self) -> Highest:
        """The highest keys of all that is there now."""

    async def begin_purge(self, tenant_id: str, operation_id: str) -> bool:
        """From now on nobody comes in and nothing is added, and its keys are gone. False: it is not there, or is being
        purged already."""

    async def erase_some(self, tenant_id: str, limit: int) -> dict[str, int]:
        """Deletes about so many rows of what is the tenant's; counts by kind, empty or zero when nothing is left.

        What stays: the tenant's own row, its purge, and the change that tells followers of that.
        """

    async def remove(self, tenant_id: str, now: datetime, *, keep_secret: bool) -> None:
        """Deletes the tenant's own row, of which all else is gone. `keep_secret`: it stays, and the tenant is new."""
